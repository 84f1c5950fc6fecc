"""Read what embed.py wrote and check it: what evaluate.py and visualize.py share.

Any HDF5 file with a data set `emb` [N, D] will do, whatever wrote it.
"""

import typing

import numpy as np

import common
import excluders
import ranking

h5py = common.lazy_import('h5py')


def add_flags(parser):
    """Add the flags that say what is ranked, and how, to an argument parser."""
    required = parser.add_argument_group('required')
    required.add_argument(
        '--excluder',
        required=True,
        choices=excluders.EXCLUDER_CHOICES,
        help='Which gallery images a query ignores: those of its PID by its own '
        'camera under the naming rules of a data set, or (diagonal) itself.',
    )
    for side in ('query', 'gallery'):
        required.add_argument(
            f'--{side}_dataset',
            required=True,
            type=common.path,
            metavar='CSV',
            help=f'The {side} set: one PID,FID row an image.',
        )
        required.add_argument(
            f'--{side}_embeddings',
            required=True,
            type=common.path,
            metavar='HDF5',
            help=f'Its embeddings, as embed.py writes them: emb [N, D] in the order '
            f'of --{side}_dataset.',
        )
    ranked = parser.add_argument_group('ranking')
    ranked.add_argument(
        '--metric',
        choices=ranking.METRIC_CHOICES,
        default='euclidean',
        help='Distance by which the gallery is ranked.',
    )
    ranked.add_argument(
        '--batch_size',
        type=common.positive_int,
        default=256,
        help='Queries ranked at once, at most. More needs more memory; the result is '
        'the same.',
    )


class EmbeddedDataset(typing.NamedTuple):
    """A data set and its embeddings.

    Attributes:
        pids: object array [N] of str.
        fids: object array [N] of str.
        embs: [N, D], finite numbers of the type in the file.
    """

    pids: np.ndarray
    fids: np.ndarray
    embs: np.ndarray


def load_pair(query_dataset, query_embeddings, gallery_dataset, gallery_embeddings):
    """Read query set and gallery: two CSV files and two HDF5 files.

    Returns:
        (query, gallery), two EmbeddedDatasets.

    Raises:
        FileNotFoundError, ValueError: a file is missing or wrong, or the embeddings of
            the two sets differ in dimension; the message names the file.
    """
    query = load(query_dataset, query_embeddings)
    gallery = load(gallery_dataset, gallery_embeddings)
    query_dim, gallery_dim = query.embs.shape[1], gallery.embs.shape[1]
    if query_dim != gallery_dim:
        raise ValueError(
            f'{query_embeddings} has {query_dim} dimensions but {gallery_embeddings} '
            f'has {gallery_dim}; embed both sets with the same network'
        )
    return query, gallery


def load(csv_file, embeddings_file):
    """Return the EmbeddedDataset of a CSV and an HDF5 file, after all checks."""
    pids, fids = common.load_dataset(csv_file)
    embs, embedded_fids = read_hdf5(embeddings_file)
    if len(embs) != len(fids):
        raise ValueError(
            f'{embeddings_file} has {len(embs)} embeddings but {csv_file} has '
            f'{len(fids)} rows; embed this very CSV'
        )
    if embedded_fids is not None:
        check_fids(fids, embedded_fids, csv_file, embeddings_file)
    check_finite(embs, fids, embeddings_file)
    return EmbeddedDataset(pids, fids, embs)


def read_hdf5(filename):
    """Read embeddings and, where the file has them, the fids of its rows.

    Args:
        filename: path of an HDF5 file with `emb` [N, D] and perhaps `fid` [N].

    Returns:
        (embs, fids): [N, D] as stored; object array [N] of str, or None.

    Raises:
        OSError: the file is missing or may not be read.
        ValueError: it is not HDF5, incomplete, or lacks a usable `emb`.
    """
    with open(filename, 'rb'):
        pass  # Python names what is wrong with a path better than HDF5 does.
    try:
        with h5py.File(filename, 'r') as file:
            if not is_embedding_matrix(file.get('emb')):
                raise ValueError(
                    f'{filename} has no embeddings; expected an HDF5 data set emb of '
                    f'shape [N, D], found {describe_datasets(file)}'
                )
            fids = file['fid'].asstr()[:] if 'fid' in file else None
            return file['emb'][:], fids
    except OSError as error:
        raise ValueError(
            f'{filename} is not a complete HDF5 file; expected what embed.py writes '
            f'({error})'
        ) from error


def is_embedding_matrix(dataset):
    """Return whether an HDF5 object, or None, is a matrix of real numbers."""
    return (
        isinstance(dataset, h5py.Dataset)
        and dataset.ndim == 2
        and dataset.shape[1] > 0
        and dataset.dtype.kind in 'fiu'
    )


def describe_datasets(file):
    """Return the members of an HDF5 file with shape and type, as text."""
    members = [
        f'{name} {list(member.shape)} {member.dtype}'
        if isinstance(member, h5py.Dataset)
        else f'{name}/'
        for name, member in file.items()
    ]
    return ', '.join(members) or 'nothing'


def check_fids(fids, embedded_fids, csv_file, embeddings_file):
    """Raise ValueError if the rows of a CSV and of an HDF5 file are other images."""
    differing = [row for row, fid in enumerate(fids) if fid != embedded_fids[row]]
    if differing:
        row = differing[0]
        raise ValueError(
            f'{len(differing)} of {len(fids)} rows of {csv_file} and {embeddings_file} '
            f'are different images (first: row {row + 1}, {fids[row]} in the CSV, '
            f'{embedded_fids[row]} was embedded); embed this very CSV'
        )


def check_finite(embs, fids, embeddings_file):
    """Raise ValueError naming the first embedding with a NaN or an infinity."""
    bad_rows = np.flatnonzero(~np.isfinite(embs).all(axis=1))
    if len(bad_rows):
        row = bad_rows[0]
        raise ValueError(
            f'{len(bad_rows)} of {len(embs)} embeddings in {embeddings_file} have NaN '
            f'or infinite values (first: row {row + 1}, {fids[row]}); no distance to '
            'them exists, embed again'
        )
