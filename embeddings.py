"""Embeddings in HDF5 files: write them, read them, check them.

For reading, any HDF5 file with a data set `emb` [N, D] will do, whatever wrote it.
"""

import importlib.metadata
import json
import math
import os
import typing

import numpy as np

import common
import excluders
import ranking

h5py = common.lazy_import('h5py')

# What a file holds beside the embeddings, generously: FID and PID of an image, and the
# rest.
NAME_BYTES, OTHER_BYTES = 500, 10**5

# Rows copied at once when images were left out; bounds the memory.
ROWS_COPIED = 4096


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


# --- writing ---------------------------------------------------------------------


def write(
    filename, embs, fids, variants, embedding_dim, aggregator, attributes, pids=None
):
    """Write an HDF5 file of embeddings; it gets its name once it is complete.

    Args:
        filename: of the HDF5 file.
        embs: iterable of (rows, batch): positions in `fids` [B], ascending, and the
            embeddings float32 [A, B, D]. Rows that never come are left out.
        fids: sequence [N] of str.
        variants: names of the variants of an image, A of them.
        embedding_dim: D.
        aggregator: function of aggregators.py, or None if A is 1.
        attributes: {name: str}, stored with the file.
        pids: sequence [N] of str, or None.

    Raises:
        ValueError: an embedding is not finite.
        OSError: the disk has no room.
    """
    text = h5py.string_dtype('utf-8')
    shapes = {'emb': (len(fids), embedding_dim)}
    if aggregator is not None:
        shapes['emb_aug'] = (len(variants), len(fids), embedding_dim)
    num_floats = sum(math.prod(shape) for shape in shapes.values())
    num_bytes = 4 * num_floats + len(fids) * NAME_BYTES + OTHER_BYTES
    with (
        common.complete_file(filename) as temporary,
        h5py.File(reserve(temporary, num_bytes), 'w') as file,
    ):
        file.attrs.update(attributes)
        file.create_dataset('augmentation_types', data=np.array(variants, 'S'))
        for name, shape in shapes.items():
            file.create_dataset(name, shape, np.float32)
        written = []  # Positions in fids.
        for rows, batch in embs:
            joined = batch[0] if aggregator is None else aggregator(batch)  # [B, D]
            refuse_diverged(joined, [fids[row] for row in rows])
            places = slice(len(written), len(written) + len(rows))
            file['emb'][places] = joined
            if aggregator is not None:
                file['emb_aug'][:, places] = batch
            written.extend(rows)
        if len(written) < len(fids):
            for name in shapes:
                shorten(file, name, len(written))
        for name, column in (('fid', fids), ('pid', pids)):
            if column is not None:
                values = [encode(column[row]) for row in written]
                file.create_dataset(name, (len(values),), text, data=values)
        file['embs'] = file['emb']  # A second name of the same data: the documented.


def encode(name):
    """Return a name as bytes; a file name that is not UTF-8 keeps its own."""
    return name.encode('utf-8', 'surrogateescape')


def shorten(file, name, num_rows):
    """Keep the first rows of a data set [..., N, D] of an open HDF5 file."""
    old = file[name]
    shape = (*old.shape[:-2], num_rows, old.shape[-1])
    new = file.create_dataset(f'{name}_short', shape, old.dtype)
    for first in range(0, num_rows, ROWS_COPIED):
        rows = slice(first, min(first + ROWS_COPIED, num_rows))
        new[..., rows, :] = old[..., rows, :]
    del file[name]
    file.move(f'{name}_short', name)


def reserve(filename, num_bytes):
    """Return the name of a new file if the disk has room for that many bytes.

    HDF5 itself does not survive a full disk: it ends in several tracebacks and a
    segmentation fault.

    Raises:
        OSError: there is no room; names the file.
    """
    with open(filename, 'wb') as file:
        try:
            # Not everywhere, but on Linux.
            if hasattr(os, 'posix_fallocate'):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            raise OSError(error.errno, error.strerror, filename) from error
        file.truncate(0)
    return filename


def refuse_diverged(embs, fids):
    """Raise ValueError if an embedding [B, D] of the images `fids` is not finite."""
    bad = np.flatnonzero(~np.isfinite(embs).all(axis=1))
    if len(bad):
        raise ValueError(
            f'the embedding of {fids[bad[0]]} is not finite; the network has diverged '
            'in training: choose an earlier --checkpoint'
        )


def describe(args, checkpoint):
    """Return the attributes of the HDF5 file: arguments, checkpoint and versions.

    Args:
        args: dict of a command's flags.
        checkpoint: name of the file of weights.
    """
    versions = {
        name: importlib.metadata.version(name)
        for name in ('tensorflow', 'keras', 'numpy', 'h5py')
    }
    return {
        'args': json.dumps(args, sort_keys=True),
        'checkpoint': checkpoint,
        'versions': json.dumps(versions, sort_keys=True),
    }
