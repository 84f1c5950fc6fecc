"""Embeddings in files: write HDF5, read it and other formats, check them.

For reading, any HDF5 file with a data set `emb` or `embs` [N, D] will do, whatever
wrote it, and so will a NumPy file (.npy or .npz), of any real type, and the tables that
embed.py writes (.csv, .parquet).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import math
import os
import re
import sys
import typing
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import numpy as np

import aggregators
import array_files
import common
import datasets
import parquet_parts

h5py = common.lazy_import('h5py')

# What a file holds beside the embeddings, generously: FID and PID of an image, and the
# rest.
NAME_BYTES, OTHER_BYTES = 500, 10**5

# Embeddings checked at once: 64 MB, if they are float32.
NUMBERS_CHECKED = 2**24

# FIDs or PIDs: a list, or an object array.
Names = Sequence[str] | np.ndarray

NAMES = ('emb', 'embs')  # Of the embeddings in a file, the first that is there.

# What a file is to be, for messages.
HDF5 = 'a complete HDF5 file; expected what embed.py writes'

# The attribute of embeddings with a checksum of their numbers.
CHECKSUM = 'crc32'

# Rows copied at once when images were left out; bounds the memory.
ROWS_COPIED = 4096


# Columns of texts, and what they are.
TEXTS = {'fid': 'file name', 'pid': 'identity'}

# The attribute that tells embeddings of one network from those of others.
WEIGHTS = 'weights'

# That of the directory that the FIDs are relative to.
IMAGE_ROOT = 'image_root'


# Flags of embed.py that say how images were looked at, and those of no augmentation.
PLAIN = {'flip_augment': False, 'crop_augment': None, 'aggregator': None}


class Origin(typing.NamedTuple):
    """Where embeddings come from; None: their file does not say.

    Attributes:
        weights: checkpoints.fingerprint of the network.
        checkpoint: name of the file of weights.
        view: {flag of embed.py: value}, how images were looked at.
    """

    weights: str | None = None
    checkpoint: str | None = None
    view: dict[str, Any] | None = None

    def has_other_weights(self, weights: str | None) -> bool:
        """Say whether it is known that these are the embeddings of another network."""
        return None not in (self.weights, weights) and self.weights != weights

    def has_other_view(self, view: dict[str, Any] | None) -> bool:
        """Say whether it is known that images were looked at otherwise."""
        return None not in (self.view, view) and self.view != view


def read_origin(attributes: dict[str, str], filename: str) -> Origin:
    """Return the Origin that the attributes of a file tell.

    Raises:
        InputError: they are damaged.
    """
    view = None
    if 'args' in attributes:
        with array_files.reading(filename, 'a file of embed.py: its args are no JSON'):
            flags = json.loads(attributes['args'])
            if not isinstance(flags, dict):
                raise ValueError(f'{type(flags).__name__} given')
            view = {name: flags.get(name, value) for name, value in PLAIN.items()}
    return Origin(attributes.get(WEIGHTS), attributes.get('checkpoint'), view)


def describe_view(view: dict[str, Any]) -> str:
    """Return the flags of embed.py that say how images were looked at, as text."""
    words = [
        f'--{name}' if value is True else f'--{name} {value}'
        for name, value in view.items()
        if value not in (None, False)
    ]
    return ' '.join(words) or 'no augmentation'


class EmbeddedDataset(typing.NamedTuple):
    """A data set and its embeddings.

    Attributes:
        pids: object array [N] of str.
        fids: object array [N] of str.
        cids: object array [N] of str, cameras, or None.
        embs: [N, D], finite numbers of the type in the file; an array, or what can be
            sliced like one.
        num_skipped: rows of the CSV that are not among these N, because their images
            could not be read.
        origin: Origin.
    """

    pids: np.ndarray
    fids: np.ndarray
    cids: np.ndarray | None
    embs: np.ndarray
    num_skipped: int = 0
    origin: Origin = Origin()


class Opened(typing.NamedTuple):
    """A file of embeddings, open.

    Attributes:
        embs: what slices like an array [N, D], of the type stored.
        fids: [N] of str, or None where the file has none.
        skipped: int64 [S], rows whose images could not be read; they are NaN.
        pids: [N] of str, or None where the file has none.
        attributes: {name: str} of the file, such as those of `describe`.
    """

    embs: Any
    fids: Names | None
    skipped: np.ndarray = np.empty(0, np.int64)
    pids: Names | Sequence[str | None] | None = None
    attributes: dict[str, str] = {}  # noqa: RUF012 (of a tuple, never changed)


def load_pair(
    query_dataset: str,
    query_embeddings: str,
    gallery_dataset: str,
    gallery_embeddings: str,
    has_header: bool = False,
    streams_gallery: bool = False,
) -> tuple[EmbeddedDataset, EmbeddedDataset]:
    """Read query set and gallery: two CSV files and two files of embeddings.

    Args:
        query_dataset, gallery_dataset: CSV files.
        query_embeddings, gallery_embeddings: HDF5 or NumPy files.
        has_header: whether the first line of a CSV names its columns.
        streams_gallery: leave the gallery's embeddings in their file, to be read in
            slices.

    Returns:
        (query, gallery), two EmbeddedDatasets.

    Raises:
        FileNotFoundError, ValueError: a file is missing or wrong, or the embeddings of
            the two sets differ in dimension; the message names the file.
    """
    query = load(query_dataset, query_embeddings, has_header)
    gallery = load(gallery_dataset, gallery_embeddings, has_header, streams_gallery)
    query_dim, gallery_dim = query.embs.shape[1], gallery.embs.shape[1]
    if query_dim != gallery_dim:
        raise common.InputError(
            f'{query_embeddings} has {query_dim} dimensions but {gallery_embeddings} '
            f'has {gallery_dim}; embed both sets with the same network'
        )
    if query.origin.has_other_weights(gallery.origin.weights):
        raise common.InputError(
            f'{query_embeddings} was embedded by {query.origin.checkpoint} but '
            f'{gallery_embeddings} by {gallery.origin.checkpoint}, which has other '
            'weights; embed both sets with the same checkpoint'
        )
    return query, gallery


def load(
    csv_file: str, embeddings_file: str, has_header: bool = False, streams: bool = False
) -> EmbeddedDataset:
    """Return the EmbeddedDataset of a CSV and its embeddings, after all checks.

    Args:
        csv_file: see datasets.read.
        embeddings_file: see open_embeddings.
        has_header: whether the first line of the CSV names its columns.
        streams: leave the embeddings in their file.
    """
    pids, fids, cids = datasets.read(csv_file, has_header)
    opened = open_embeddings(embeddings_file)
    embs, embedded_fids, skipped = opened.embs, opened.fids, opened.skipped
    if len(embs) != len(fids):
        hint = 'embed this very CSV'
        # The first line may be a heading that no known word gives away.
        if not has_header and len(fids) == len(embs) + 1:
            if embedded_fids is None:
                hint += ', or add --csv_header if its first line is a heading'
            elif list(embedded_fids) == fids[1:].tolist():
                hint = 'its first line is a heading: add --csv_header'
        raise common.InputError(
            f'{embeddings_file} has {len(embs)} embeddings but {csv_file} has '
            f'{len(fids)} rows; {hint}'
        )
    if embedded_fids is not None:
        check_fids(fids, embedded_fids, csv_file, embeddings_file)
    with array_files.reading(embeddings_file, HDF5):
        if not streams:
            array_files.refuse_huge(embs, f'{embeddings_file} {list(embs.shape)}')
        check_numbers(embs, fids, embeddings_file, skipped)
        loaded = EmbeddedDataset(
            *(pids, fids, cids, embs if streams else np.asarray(embs), len(skipped)),
            read_origin(opened.attributes, embeddings_file),
        )
    return leave_out(loaded, skipped) if len(skipped) else loaded


def leave_out(dataset: EmbeddedDataset, skipped: np.ndarray) -> EmbeddedDataset:
    """Return an EmbeddedDataset without some rows, int64 [S]."""
    kept = np.delete(np.arange(len(dataset.fids)), skipped)
    cids = None if dataset.cids is None else dataset.cids[kept]
    embs = Kept(dataset.embs, kept)
    return EmbeddedDataset(
        dataset.pids[kept],
        dataset.fids[kept],
        cids,
        embs[:] if isinstance(dataset.embs, np.ndarray) else embs,
        len(skipped),
        dataset.origin,
    )


def describe_skipped(csv_file: str, dataset: EmbeddedDataset) -> list[str]:
    """Return what to say of rows that are left out, a text or none, list of str.

    Args:
        csv_file: of the data set.
        dataset: of `load`.
    """
    skipped = dataset.num_skipped
    if not skipped:
        return []
    total = len(dataset.fids) + skipped
    return [
        f'{skipped} of {total} images of {csv_file} were skipped when they were '
        'embedded, and are left out'
    ]


def describe_views(query: EmbeddedDataset, gallery: EmbeddedDataset) -> list[str]:
    """Return what to say if images of query and gallery were looked at otherwise."""
    views = query.origin.view, gallery.origin.view
    if None in views or views[0] == views[1]:
        return []
    texts = [describe_view(view or PLAIN) for view in views]
    return [
        f'warning: the query set was embedded with {texts[0]}, the gallery with '
        f'{texts[1]}; scores are better if both are embedded alike'
    ]


class Kept:
    """Some rows of embeddings that are left in their file; slices like an array.

    Args:
        embs: [N, D], what slices like an array.
        rows: int64 [K], ascending.
    """

    ndim = 2

    def __init__(self, embs: Any, rows: np.ndarray) -> None:
        self.embs = embs
        self.rows = rows
        self.shape = len(rows), embs.shape[1]
        self.dtype = embs.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: slice) -> np.ndarray:
        rows = self.rows[place]
        if not len(rows):
            return self.embs[:0]
        return self.embs[rows[0] : rows[-1] + 1][rows - rows[0]]


# --- files of embeddings ---------------------------------------------------------


def open_embeddings(filename: str) -> Opened:
    """Open embeddings and read, where the file has them, the fids of its rows.

    Args:
        filename: path of a file with `emb` or `embs` [N, D] and perhaps `fid` [N]: .npy
            (one array; beside it perhaps a .txt of fids), .npz (these names, or one
            array), .csv or .parquet of embed.py, a directory of bulk_embed.py, or else
            HDF5.

    Raises:
        OSError: the file is missing or may not be read.
        ValueError: it is of another kind, incomplete, or lacks usable embeddings.
    """
    if os.path.isdir(filename):
        found = parquet_parts.open_parts(filename)
        return Opened(
            found.embs, found.fids, found.skipped, found.pids, found.attributes
        )
    with open(filename, 'rb'):
        pass  # Python names what is wrong with a path better than HDF5 does.
    if filename.endswith(('.npy', '.npz')):
        return open_numpy(filename)
    if filename.endswith(array_files.TABLES):
        return open_table(filename)
    return open_hdf5(filename)


def open_table(filename: str) -> Opened:
    """Open the embeddings of a .csv or .parquet file; see open_embeddings."""
    table = array_files.read_table(filename)
    skipped = np.flatnonzero(np.isnan(table.embs).all(axis=1))
    return Opened(table.embs, table.fids, skipped, table.pids, table.attributes)


def open_numpy(filename: str) -> Opened:
    """Open the embeddings of a .npy or .npz file; see open_embeddings."""
    status = os.stat(filename)
    arrays = array_files.load_numpy(filename)
    names = [name for name in NAMES if name in arrays] or list(arrays)[:2]
    if (len(names) != 1 and names[:1] != ['emb']) or not is_matrix(arrays[names[0]]):
        found = ', '.join(f'{n} {list(a.shape)} {a.dtype}' for n, a in arrays.items())
        raise common.InputError(
            f'{filename} has no embeddings; expected one array emb of shape [N, D], '
            f'found {found or "nothing"}'
        )
    embs, fids = arrays[names[0]], arrays.get('fid')
    skipped = check_skipped(arrays.get('skipped'), len(embs), filename)
    if fids is None:
        beside = read_names_beside(filename, len(embs))
        # Its numbers go before names of others come; see embedding/outputs.py.
        if not os.path.samestat(status, os.stat(filename)):
            raise common.InputError(
                f'{filename} was replaced while it was read; repeat the command'
            )
        return Opened(embs, beside, skipped)
    columns = {'fid': fids, 'pid': arrays.get('pid')}
    for name, column in columns.items():
        if column is not None:
            is_text = column.dtype.kind in 'SU'
            check_names(column, is_text, len(embs), filename, name)
    texts = [
        None if column is None else [decode(text) for text in column.tolist()]
        for column in columns.values()
    ]
    attributes = {
        name: str(array) for name, array in arrays.items() if is_text_alone(array)
    }
    return Opened(embs, texts[0], skipped, texts[1], attributes)


def is_text_alone(array: np.ndarray) -> bool:
    """Return whether an array is one text."""
    return array.shape == () and array.dtype.kind == 'U'


def names_beside(filename: str) -> str:
    """Return the name of the text file with the FIDs of a .npy file, one a line."""
    return f'{os.path.splitext(filename)[0]}.txt'


def read_names_beside(filename: str, num_rows: int) -> list[str] | None:
    """Return the FIDs of a .npy file, list [N] of str; None: they are not there.

    Raises:
        InputError: there are more or fewer.
    """
    beside = names_beside(filename)
    if not filename.endswith('.npy') or not os.path.isfile(beside):
        return None
    fids = datasets.read_names(beside)
    if len(fids) != num_rows:
        raise common.InputError(
            f'{beside} has {len(fids)} lines but {filename} has {num_rows} '
            'embeddings; expected the file name of each, or no such file'
        )
    return fids


def read_skipped(file: Any, num_rows: int, filename: str) -> dict[int, str]:
    """Return {row: reason} of the images that an open HDF5 file has no embeddings of.

    Args:
        file: h5py.File of `write`.
        num_rows: N.
        filename: for messages.

    Raises:
        InputError: what it has is something else.
    """
    rows = check_skipped(array_files.find_hdf5(file, 'skipped'), num_rows, filename)
    if not len(rows):
        return {}
    reasons = read_names(
        array_files.find_hdf5(file, 'skipped_reason'), len(rows), filename
    )
    return dict(zip(rows.tolist(), reasons, strict=True))


def check_skipped(skipped: Any, num_rows: int, filename: str) -> np.ndarray:
    """Return the rows that a file says were skipped, int64 [S].

    Args:
        skipped: what the file has under that name, or None.
        num_rows: N.
        filename: for the message.

    Raises:
        InputError: it is something else than ascending rows.
    """
    if skipped is None:
        return np.empty(0, np.int64)
    has_rows = isinstance(skipped, (np.ndarray, h5py.Dataset)) and skipped.shape
    rows = np.asarray(skipped[:] if has_rows else 0)
    is_list = rows.ndim == 1 and rows.dtype.kind in 'iu'
    if (
        not is_list
        or (np.diff(rows.astype(np.int64)) <= 0).any()
        or (len(rows) and not 0 <= rows[0] <= rows[-1] < num_rows)
    ):
        raise common.InputError(
            f'{filename} has skipped of shape {list(rows.shape)} and type '
            f'{rows.dtype}; expected ascending rows below {num_rows}'
        )
    return rows.astype(np.int64)


def open_hdf5(filename: str) -> Opened:
    """Open the embeddings of an HDF5 file; see open_embeddings."""
    with array_files.reading(filename, HDF5):
        # The file is closed once nobody holds the data set any more.
        file = array_files.open_hdf5(filename)
        found = (array_files.find_hdf5(file, name) for name in NAMES)
        embs: Any = next((one for one in found if one is not None), None)
        if not is_embedding_matrix(embs):
            with file:
                raise common.InputError(
                    f'{filename} has no embeddings; expected an HDF5 data set emb of '
                    f'shape [N, D], found {describe_datasets(file)}'
                )
        fids, pids = (
            None if column is None else read_names(column, len(embs), filename, name)
            for name in ('fid', 'pid')
            for column in [array_files.find_hdf5(file, name)]
        )
        skipped = check_skipped(
            array_files.find_hdf5(file, 'skipped'), len(embs), filename
        )
        attributes = {name: str(value) for name, value in file.attrs.items()}
        return Opened(embs, fids, skipped, pids, attributes)


def read_names(
    names: Any, num_rows: int, filename: str, column: str = 'fid'
) -> list[str]:
    """Return the fids or pids in an HDF5 file, list [N] of str.

    Args:
        names: what the file has under that name.
        num_rows: N.
        filename: for the message.
        column: a key of TEXTS.

    Raises:
        InputError: they are no N texts.
    """
    if not isinstance(names, h5py.Dataset):
        raise common.InputError(f'{filename} has a group {column}, expected a data set')
    is_text = h5py.check_string_dtype(names.dtype) is not None
    check_names(names, is_text, num_rows, filename, column)
    return [decode(name) for name in names[:]]


def check_names(
    names: Any, is_text: bool, num_rows: int, filename: str, column: str
) -> None:
    """Raise InputError unless a column of a file has one text for each embedding."""
    if not is_text or names.shape != (num_rows,):
        shape = 'no shape' if names.shape is None else list(names.shape)
        kind = 'text' if is_text else f'{names.dtype}, no text'
        raise common.InputError(
            f'{filename} has {column} of shape {shape} and type {kind}; expected '
            f'[{num_rows}] texts, the {TEXTS[column]} of each embedding; correct it or '
            'leave it out'
        )


def decode(name: str | bytes) -> str:
    """Return a name as text; one that is not UTF-8 keeps its bytes, see encode."""
    if isinstance(name, bytes):
        return name.decode('utf-8', 'surrogateescape')
    return name


def is_embedding_matrix(dataset: Any) -> bool:
    """Return whether an HDF5 object, or None, is a matrix of real numbers."""
    return isinstance(dataset, h5py.Dataset) and is_matrix(dataset)


def is_matrix(array: Any) -> bool:
    """Return whether an array is a matrix of real numbers with at least a column."""
    return array.ndim == 2 and array.shape[1] > 0 and array.dtype.kind in 'fiu'


def describe_datasets(file: Any) -> str:
    """Return the members of an HDF5 file with shape and type, as text."""
    members = []
    for name in file:
        if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            members.append(f'{name}, a link')
        elif isinstance(member := file[name], h5py.Dataset):
            shape = 'no shape' if member.shape is None else list(member.shape)
            members.append(f'{name} {shape} {member.dtype}')
        else:
            members.append(f'{name}/')
    return ', '.join(members) or 'nothing'


def check_fids(
    fids: Names,
    embedded_fids: Names,
    csv_file: str,
    embeddings_file: str,
    first_row: int = 0,
) -> None:
    """Raise ValueError if rows of a CSV and of an HDF5 file are other images.

    Args:
        fids, embedded_fids: of the CSV's rows and of the file's, [N] of str.
        csv_file, embeddings_file: for the message.
        first_row: number of rows in the CSV before these.
    """
    differing = [row for row, fid in enumerate(fids) if fid != embedded_fids[row]]
    if differing:
        row = differing[0]
        raise common.InputError(
            f'{len(differing)} of {len(fids)} rows of {csv_file} and {embeddings_file} '
            f'are different images (first: row {first_row + row + 1}, '
            f'{fids[row]} in the CSV, '
            f'{embedded_fids[row]} was embedded); embed this very CSV'
        )


def check_numbers(
    embs: Any, fids: Names, embeddings_file: str, skipped: np.ndarray
) -> None:
    """Raise InputError if embeddings are damaged, or one has a NaN or an infinity.

    Args:
        embs, skipped: of Opened.
        fids: [N] of str.
        embeddings_file: for the message.
    """
    bad_rows = []
    stored, checksum = read_checksum(embs), 0
    rows_at_once = max(1, NUMBERS_CHECKED // embs.shape[1])
    for start in range(0, len(embs), rows_at_once):
        rows = embs[start : start + rows_at_once]
        if stored is not None:
            checksum = update_checksum(checksum, rows[None])
        is_finite = np.isfinite(rows).all(axis=1)
        bad_rows += (start + np.flatnonzero(~is_finite)).tolist()
    if stored is not None:
        check_checksum(stored, checksum, embeddings_file)
    # Not np.setdiff1d, which imports numpy.ma.
    bad_rows = sorted(set(bad_rows) - set(skipped.tolist()))
    if bad_rows:
        row = bad_rows[0]
        raise common.InputError(
            f'{len(bad_rows)} of {len(embs)} embeddings in {embeddings_file} have NaN '
            f'or infinite values (first: row {row + 1}, {fids[row]}); no distance to '
            'them exists, embed again'
        )


def update_checksum(checksum: int, batch: np.ndarray) -> int:
    """Return the checksum of embeddings and a batch [A, B, D] after them.

    It is of the numbers, image by image: neither their place in the file, nor how many
    are read at once, nor the type that is stored change it.
    """
    numbers = np.ascontiguousarray(batch.swapaxes(0, 1), '<f4')
    return zlib.crc32(numbers.data, checksum)


def read_checksum(embs: Any) -> int | None:
    """Return the checksum stored with embeddings, or None: not every file has one."""
    stored = getattr(embs, 'attrs', {}).get(CHECKSUM)
    return None if stored is None else int(stored)


def check_checksum(stored: int | None, checksum: int, filename: str) -> None:
    """Raise InputError unless the stored checksum of numbers is the one they have."""
    if stored != checksum:
        raise common.InputError(
            f'{filename} is damaged: its numbers have the checksum {checksum}, '
            f'{"none" if stored is None else stored} was stored with them; embed '
            'again, or copy it again'
        )


# --- writing ---------------------------------------------------------------------


def write(
    filename: str,
    embs: Any,
    fids: Names,
    variants: Names,
    embedding_dim: int,
    aggregator: Callable | None,
    attributes: dict[str, str],
    pids: Names | None = None,
    skipped: dict[int, str] | None = None,
) -> None:
    """Write an HDF5 file of embeddings; it gets its name once it is complete.

    Args:
        filename: of the HDF5 file.
        embs: iterable of (rows, batch): positions in `fids` [B], ascending, and the
            embeddings float32 [A, B, D]. Rows that never come are left out, or NaN,
            see `skipped`.
        fids: sequence [N] of str.
        variants: names of the variants of an image, A of them.
        embedding_dim: D.
        aggregator: function of aggregators.py, or None if A is 1.
        attributes: {name: str}, stored with the file.
        pids: sequence [N] of str, or None.
        skipped: {row: reason} of images that could not be read, complete once `embs`
            is at its end. Such rows keep their place, are NaN, and stand in `skipped`
            and `skipped_reason`. None: rows are left out.

    Raises:
        ValueError: an embedding is not finite.
        OSError: the disk has no room.
    """
    text = h5py.string_dtype('utf-8')
    shapes: dict[str, tuple] = {'emb': (len(fids), embedding_dim)}
    if aggregator is not None:
        shapes['emb_aug'] = (len(variants), len(fids), embedding_dim)
    num_floats = sum(math.prod(shape) for shape in shapes.values())
    num_bytes = 4 * num_floats + len(fids) * NAME_BYTES + OTHER_BYTES
    with (
        common.complete_file(filename) as temporary,
        naming_what_is_refused(temporary),
        create(temporary, num_bytes) as file,
    ):
        file.attrs.update(attributes)
        file.create_dataset('augmentation_types', data=np.array(variants, 'S'))
        for name, shape in shapes.items():
            file.create_dataset(name, shape, np.float32)
        written: list[int] = []  # Positions in fids.
        checksums = dict.fromkeys(shapes, 0)
        for rows, batch, joined in join_variants(
            embs, fids, len(variants), embedding_dim, aggregator, skipped
        ):
            places = slice(len(written), len(written) + len(rows))
            file['emb'][places] = joined
            checksums['emb'] = update_checksum(checksums['emb'], joined[None])
            if aggregator is not None:
                file['emb_aug'][:, places] = batch
                checksums['emb_aug'] = update_checksum(checksums['emb_aug'], batch)
            written.extend(rows)
        if len(written) < len(fids):
            for name in shapes:
                shorten(file, name, len(written))
        for name, checksum in checksums.items():
            file[name].attrs[CHECKSUM] = np.uint32(checksum)
        for name, column in (('fid', fids), ('pid', pids)):
            if column is not None:
                values = [encode(column[row]) for row in written]
                file.create_dataset(name, (len(values),), text, data=values)
        if skipped:
            reasons = [encode(skipped[row]) for row in sorted(skipped)]
            file.create_dataset('skipped', data=np.array(sorted(skipped), np.int64))
            file.create_dataset('skipped_reason', (len(reasons),), text, data=reasons)
        file['embs'] = file['emb']  # A second name of the same data: the documented.


def join_variants(
    embs: Any,
    fids: Names,
    num_variants: int,
    embedding_dim: int,
    aggregator: Callable | None,
    skipped: dict[int, str] | None,
) -> Iterator[tuple[Sequence[int], np.ndarray, np.ndarray]]:
    """Yield (rows, batch [A, B, D], joined [B, D]) of embeddings; see write.

    Raises:
        ValueError: an embedding is not finite.
    """
    if skipped is not None:
        embs = fill_gaps(embs, (num_variants, len(fids), embedding_dim))
    for rows, batch in embs:
        joined = aggregators.join(batch, aggregator)
        refuse_diverged(joined, rows, fids, {} if skipped is None else skipped)
        yield rows, batch, joined


def fill_gaps(
    embs: Any, shape: tuple[int, int, int]
) -> Iterator[tuple[range, np.ndarray]]:
    """Yield (rows, batch [A, B, D]) of all rows, with NaN for those that never come.

    Args:
        embs: see write.
        shape: (A, N, D).
    """
    num_variants, num_rows, embedding_dim = shape
    done = 0
    nothing = np.empty((num_variants, 0, embedding_dim), np.float32)
    for rows, batch in itertools.chain(embs, [(range(num_rows, num_rows), nothing)]):
        end = rows[-1] + 1 if len(rows) else num_rows
        if len(rows) < end - done:
            size = (num_variants, end - done, embedding_dim)
            filled = np.full(size, np.nan, np.float32)
            filled[:, np.asarray(rows, np.int64) - done] = batch
            batch = filled
        if end > done:
            yield range(done, end), batch
        done = end


def encode(name: str) -> bytes:
    """Return a name as bytes; a file name that is not UTF-8 keeps its own."""
    return name.encode('utf-8', 'surrogateescape')


def shorten(file: Any, name: str, num_rows: int) -> None:
    """Keep the first rows of a data set [..., N, D] of an open HDF5 file."""
    old = file[name]
    shape = (*old.shape[:-2], num_rows, old.shape[-1])
    new = file.create_dataset(f'{name}_short', shape, old.dtype)
    for first in range(0, num_rows, ROWS_COPIED):
        rows = slice(first, min(first + ROWS_COPIED, num_rows))
        new[..., rows, :] = old[..., rows, :]
    del file[name]
    file.move(f'{name}_short', name)


def create(filename: str, num_bytes: int) -> Any:
    """Return a new HDF5 file, open, for which the disk holds that many bytes.

    HDF5 does not survive a full disk: it ends in several tracebacks and sometimes in a
    segmentation fault. So it gets a file, begun in memory, that has its room already,
    whatever others write meanwhile. What is not needed is given back when it is closed.

    Args:
        filename: of the file, which is replaced.
        num_bytes: that it will have, at most.

    Raises:
        OSError: there is no room; names the file.
    """
    with h5py.File(filename, 'w', driver='core', backing_store=False) as nothing:
        nothing.flush()
        beginning = nothing.id.get_file_image()
    with open(filename, 'wb', buffering=0) as file:
        try:
            # Not everywhere, but on Linux.
            if hasattr(os, 'posix_fallocate'):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            file.write(beginning)
        except OSError as error:
            raise OSError(error.errno, error.strerror, filename) from error
    # It is locked already; on NFS, where all locks are of one kind, HDF5's would wait
    # for ours.
    return h5py.File(filename, 'r+', locking=False)


@contextlib.contextmanager
def naming_what_is_refused(filename: str) -> Iterator[None]:
    """Raise an OSError of the file when the system has refused what HDF5 wrote.

    HDF5 raises errors of several kinds, also for a second time when it closes the file;
    all tell the system's number in their text. Of each object of the file that is
    released then it tells the same, by two of Python's hooks: that is left out.
    """
    hooks, is_refused = (sys.excepthook, sys.unraisablehook), False

    def leave_out(kind: Any, error: BaseException, trace: Any) -> None:
        if not (trace and trace.tb_frame.f_code.co_filename.startswith('h5py')):
            hooks[0](kind, error, trace)

    def leave_out_ignored(what: Any) -> None:
        if 'h5py' not in str(what.object):
            hooks[1](what)

    sys.excepthook, sys.unraisablehook = leave_out, leave_out_ignored
    try:
        yield
    except (OSError, RuntimeError) as error:
        found = re.search(r'errno = (\d+)', str(error))
        if found is None:
            raise
        is_refused = True
        raise OSError(int(found[1]), os.strerror(int(found[1])), filename) from error
    finally:
        if not is_refused:
            sys.excepthook, sys.unraisablehook = hooks


def refuse_diverged(
    embs: Any, rows: Sequence[int], fids: Names, skipped: Container[int]
) -> None:
    """Raise ValueError if an embedding is not finite.

    Args:
        embs: [B, D].
        rows: their positions in `fids` [N], B of them.
        fids: for the message.
        skipped: rows without an embedding.
    """
    bad = np.flatnonzero(~np.isfinite(embs).all(axis=1))
    bad_rows = [rows[i] for i in bad.tolist() if rows[i] not in skipped]
    if bad_rows:
        raise common.InputError(
            f'the embedding of {fids[bad_rows[0]]} is not finite; the network has '
            'diverged in training: choose an earlier --checkpoint'
        )


def describe(
    args: dict[str, Any],
    checkpoint: str,
    weights: str | None = None,
    image_root: str | None = None,
) -> dict[str, str]:
    """Return the attributes of the HDF5 file: arguments, checkpoint and versions.

    Args:
        args: dict of a command's flags.
        checkpoint: name of the file of weights.
        weights: checkpoints.fingerprint of the network, or None: nothing is said.
        image_root: directory of the FIDs, or None, likewise.
    """
    versions = {
        name: importlib.metadata.version(name)
        for name in ('tensorflow', 'keras', 'numpy', 'h5py')
    }
    return {
        'args': dump_args(args),
        'checkpoint': checkpoint,
        # By their names, as HDF5 returns them: a joined file has the same bytes.
        **({} if image_root is None else {IMAGE_ROOT: absolute(image_root)}),
        'versions': json.dumps(versions, sort_keys=True),
        **({} if weights is None else {WEIGHTS: weights}),
    }


def absolute(place: str) -> str:
    """Return a path as an absolute one; an address (s3://...) is one already."""
    return place if '://' in place else os.path.abspath(place)


def dump_args(args: dict[str, Any]) -> str:
    """Return a command's flags, a dict, as the text that the HDF5 file has of them."""
    return json.dumps(args, sort_keys=True)
