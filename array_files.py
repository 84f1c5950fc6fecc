"""HDF5 and NumPy files, which may be anybody's: no claim is believed, no link followed.

An HDF5 file can name other files, whose bytes would then be "embeddings", and a header
of some bytes can claim more numbers than any disk holds. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import csv
import lzma
import math
import mmap
import os
import struct
import tokenize
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import common

h5py = common.lazy_import('h5py')

# Tables of embeddings, and the columns that they begin with.
TABLES = ('.csv', '.parquet')
TABLE_NAMES = ('fid', 'pid')

# The most that deflate, the best of the usual filters, makes of a byte. What is said to
# come of less was never stored.
MOST_COMPRESSION = 1032

# How a heap of an HDF5 file begins: signature and version.
HEAP = b'GCOL\1'

# Headers of arrays by version. The third is of records with names in Unicode.
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

# What reading a damaged file raises: by the operating system, h5py, NumPy's reading of
# a header as Python, and the unpacking of archives.
DAMAGES = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(RuntimeError, NotImplementedError, OverflowError, MemoryError, SyntaxError),
    *(tokenize.TokenError, RecursionError, zipfile.BadZipFile, zlib.error),
    *(lzma.LZMAError, csv.Error),
)


@contextlib.contextmanager
def reading(filename: str, expected: str) -> Iterator[None]:
    """Let what a damaged file makes readers raise be an InputError.

    Args:
        filename: of the file, the beginning of the message.
        expected: what the file is not, such as 'a complete HDF5 file'.
    """
    try:
        yield
    except common.InputError:
        raise
    except DAMAGES as error:
        reason = str(error) or type(error).__name__
        raise common.InputError(f'{filename} is not {expected} ({reason})') from error


def open_hdf5(filename: str) -> Any:
    """Return an HDF5 file, open for reading: h5py.File.

    Raises:
        InputError: its heaps are damaged.
        OSError: it cannot be read, or is no HDF5 file.
    """
    with open(filename, 'rb') as file:
        # There is no map of nothing.
        if os.path.getsize(filename):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                check_heaps(content, filename)
    return h5py.File(filename, 'r')


def check_heaps(content: mmap.mmap, filename: str) -> None:
    """Raise InputError if a heap of an HDF5 file, which has its texts, is damaged.

    In one that has an object of no size, HDF5 1.14 goes round for ever. Described at
    https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, III.E.
    """
    end = 0
    while (start := content.find(HEAP, end)) >= 0:
        place, end = start + 16, start + read_number(content, start + 8)
        is_damaged = not place <= end <= len(content)
        while not is_damaged and place + 16 <= end:
            index, size = struct.unpack_from('<H6xQ', content, place)
            # What is left is object 0, whose size counts its header.
            place += 16 + -(-size // 8) * 8 if index else size
            is_damaged = place > end or (not index and size < 16)
        if is_damaged:
            raise common.InputError(
                f'{filename} is not a complete HDF5 file (its heap at byte {start} is '
                'damaged); write it or copy it again'
            )


def read_number(content: mmap.mmap, place: int) -> int:
    """Return the number of eight bytes at a place."""
    return int.from_bytes(content[place : place + 8], 'little')


def find_hdf5(file: Any, name: str) -> Any:
    """Return a member of an open HDF5 file or group, or None if there is none.

    Raises:
        InputError: it is elsewhere, or says that it has more than is stored.
    """
    key = name.encode()
    if not file.id.links.exists(key):
        return None
    filename = file.file.filename
    if file.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise common.InputError(
            f'{filename}: {name} is a link to another place, which is not followed; '
            'copy the data set into the file'
        )
    member = file[name]
    if isinstance(member, h5py.Dataset):
        check_hdf5(member, filename)
    return member


def check_hdf5(dataset: Any, filename: str) -> None:
    """Raise InputError unless all of an HDF5 data set is stored in its own file.

    Args:
        dataset: h5py.Dataset.
        filename: for the message.
    """
    name = dataset.name
    if dataset.is_virtual or dataset.external:
        raise common.InputError(
            f'{filename}: the numbers of {name} are in other files, which are not '
            'read; copy them into this one'
        )
    if dataset.shape is None:
        return
    claimed = dataset.id.get_type().get_size() * math.prod(dataset.shape)
    most = stored = dataset.id.get_storage_size()
    if dataset.chunks:
        counts = [
            -(-length // chunk)
            for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        ]
        claimed = dataset.dtype.itemsize * math.prod(counts) * math.prod(dataset.chunks)
        if dataset.id.get_create_plist().get_nfilters():
            most *= MOST_COMPRESSION
    size = os.path.getsize(filename)
    if stored > size:
        raise common.InputError(
            f'{filename}: {name} {list(dataset.shape)} has {stored} stored bytes by '
            f'its header, but the file has {size}; it is incomplete or damaged'
        )
    if claimed > most:
        raise common.InputError(
            f'{filename}: {name} {list(dataset.shape)} has {claimed} bytes by its '
            f'header, but {stored} are stored; the file is incomplete or damaged'
        )
    check_texts(dataset, filename)


def check_texts(dataset: Any, filename: str) -> None:
    """Raise InputError if the texts of an HDF5 data set are longer than its file.

    HDF5 takes memory for each before it looks whether it is there. Not of data sets in
    chunks, whose lengths may be compressed.

    Args:
        dataset: h5py.Dataset, no more of which is stored than its file has.
        filename: for the message.
    """
    is_of_texts = h5py.check_string_dtype(dataset.dtype) or h5py.check_vlen_dtype(
        dataset.dtype
    )
    place = dataset.id.get_offset()
    if not is_of_texts or dataset.dtype.kind != 'O' or place is None:
        return
    with open(filename, 'rb') as file:
        file.seek(place)
        stored = file.read(dataset.id.get_storage_size())
    # Of each: how long it is, four bytes, and where.
    texts = np.frombuffer(stored, np.uint8).reshape(dataset.size, -1)
    claimed = np.ascontiguousarray(texts[:, :4]).view('<u4').sum(dtype=np.uint64)
    if claimed > os.path.getsize(filename):
        raise common.InputError(
            f'{filename}: {dataset.name} has texts of {claimed} characters by their '
            'lengths, more than the file has; it is damaged: write it or copy it again'
        )


def refuse_huge(array: Any, what: str) -> None:
    """Raise InputError if an array would not fit into the memory of this machine.

    Args:
        array: anything with shape and dtype.
        what: it is, the start of the message.
    """
    size = math.prod(array.shape) * array.dtype.itemsize
    common.refuse_impossible(size, what, 'choose a machine with more, or fewer images')


class Table(NamedTuple):
    """A table of embeddings.

    Attributes:
        embs: float32 [N, D], NaN where an image was skipped.
        fids: [N] of str.
        pids: [N] of str, or None.
        attributes: {name: str} of the file.
    """

    embs: np.ndarray
    fids: list[str]
    pids: list[str] | None
    attributes: dict[str, str]


def slice_parts(
    ends: np.ndarray, place: slice, read: Callable[[int], Any]
) -> Iterator[np.ndarray]:
    """Yield the rows that a slice asks for of arrays that follow one another.

    Args:
        ends: int64 [P], the row after each array, counted over all.
        place: a slice of all rows, without a step.
        read: function of the number of an array that returns it.
    """
    first, last, step = place.indices(int(ends[-1]))
    assert step == 1
    start = 0
    for number, end in enumerate(ends.tolist()):
        if first < end and start < last:
            yield read(number)[max(first - start, 0) : min(last, end) - start]
        start = end


def read_table(filename: str) -> Table:
    """Return the Table that embed.py wrote, .csv or .parquet.

    Raises:
        OSError: the file cannot be opened.
        InputError: it is damaged, or another table.
    """
    read = read_csv if filename.endswith('.csv') else read_parquet
    with reading(filename, 'a complete table of embeddings, as embed.py writes it'):
        return read(filename)


def read_csv(filename: str) -> Table:
    """Return the Table of a .csv file; see read_table."""
    with open(filename, encoding='utf-8', errors='surrogateescape', newline='') as file:
        rows = csv.reader(file, strict=True)
        heading = next(rows, [])
        names = [name for name in heading if name in TABLE_NAMES]
        numbers = [f'emb_{i}' for i in range(1, len(heading) - len(names) + 1)]
        if not numbers or names[:1] != ['fid'] or heading != [*names, *numbers]:
            raise common.InputError(
                f'{filename} is no table of embeddings; expected the heading '
                'fid,pid,emb_1,emb_2,..., with pid or without it'
            )
        fids, pids, embs = [], [], []
        for row in rows:
            if len(row) != len(heading):
                raise common.InputError(
                    f'{filename}, line {rows.line_num} has {len(row)} fields, '
                    f'{len(heading)} were expected; write it or copy it again'
                )
            fids.append(row[0])
            pids += row[1 : len(names)]
            with np.errstate(over='ignore'):  # Infinity is refused with its row.
                embs.append(np.array(row[len(names) :], np.float32))
    array = np.array(embs, np.float32).reshape(-1, len(numbers))
    return Table(array, fids, pids if len(names) > 1 else None, {})


def read_parquet(filename: str) -> Table:
    """Return the Table of a .parquet file; see read_table."""
    pyarrow = import_pyarrow()
    with pyarrow.parquet.ParquetFile(filename, page_checksum_verification=True) as file:
        dim = check_schema(file, filename)
        size = 4 * file.metadata.num_rows * dim
        common.refuse_impossible(size, filename, 'choose a machine with more')
        has_pids = 'pid' in file.schema_arrow.names
        table = file.read(columns=['fid', 'emb', *(['pid'] if has_pids else [])])
        attributes = read_attributes(file)
    chunks = [
        # A null has numbers of its own, whatever they are.
        np.where(
            chunk.is_valid().to_numpy(zero_copy_only=False)[:, None],
            chunk.values[chunk.offset * dim :][: len(chunk) * dim]
            .to_numpy(zero_copy_only=False)
            .reshape(-1, dim),
            np.float32(np.nan),
        )
        for chunk in table['emb'].chunks
    ]
    empty = np.empty((0, dim), np.float32)
    embs = np.concatenate([empty, *chunks]).astype(np.float32, copy=False)
    pids = table['pid'].to_pylist() if has_pids else None
    return Table(embs, table['fid'].to_pylist(), pids, attributes)


class Names(NamedTuple):
    """What a .parquet file has beside its embeddings.

    Attributes:
        fids: [N] of str.
        pids: [N] of str, or None.
        is_skipped: [N] of bool, whether the image could not be read.
        dim: D.
        attributes: {name: str} of the file.
    """

    fids: list[str]
    pids: list[str] | None
    is_skipped: list[bool]
    dim: int
    attributes: dict[str, str]


def read_names(filename: str) -> Names:
    """Return the Names of a .parquet file; its embeddings are not read.

    Raises:
        OSError: the file cannot be opened.
        InputError: it is damaged, or another table.
    """
    pyarrow = import_pyarrow()
    with (
        reading(filename, 'a complete table of embeddings, as embed.py writes it'),
        pyarrow.parquet.ParquetFile(filename, page_checksum_verification=True) as file,
    ):
        dim = check_schema(file, filename)
        names = file.schema_arrow.names
        columns = [c for c in ('fid', 'pid', 'skipped_reason') if c in names]
        table = file.read(columns=columns)
        reasons = [None] * table.num_rows
        if 'skipped_reason' in names:
            reasons = table['skipped_reason'].to_pylist()
        return Names(
            table['fid'].to_pylist(),
            table['pid'].to_pylist() if 'pid' in names else None,
            [reason is not None for reason in reasons],
            dim,
            read_attributes(file),
        )


def check_schema(file: Any, filename: str) -> int:
    """Return D of an open Parquet file, or raise InputError: it is another table."""
    pyarrow = import_pyarrow()
    kind = {field.name: field.type for field in file.schema_arrow}.get('emb')
    is_list = kind is not None and pyarrow.types.is_fixed_size_list(kind)
    if not is_list or not pyarrow.types.is_floating(kind.value_type):
        raise common.InputError(
            f'{filename} is no table of embeddings; expected columns fid and emb, '
            f'lists of D numbers, found {", ".join(file.schema_arrow.names)}'
        )
    for field in file.schema_arrow:
        is_text = pyarrow.types.is_string(field.type)
        is_text |= pyarrow.types.is_large_string(field.type)
        if field.name in TABLE_NAMES and not is_text:
            raise common.InputError(
                f'{filename}: {field.name} is of type {field.type}, texts were expected'
            )
    if 'fid' not in file.schema_arrow.names:
        raise common.InputError(f'{filename} has no column fid, names of its images')
    return kind.list_size


def read_attributes(file: Any) -> dict[str, str]:
    """Return the attributes {name: str} of an open Parquet file."""
    told = file.schema_arrow.metadata or {}
    return {
        name.decode(errors='replace'): text.decode(errors='replace')
        for name, text in told.items()
    }


def import_pyarrow() -> types.ModuleType:
    """Return pyarrow with its module for Parquet.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise common.InputError(
            'Parquet files need pyarrow; install it: pip install -r '
            'requirements-parquet.txt'
        ) from error
    return pyarrow


def load_numpy(filename: str) -> dict[str, np.ndarray]:
    """Return the array of a .npy file as `emb`, or those of a .npz file by their names.

    The one of a .npy file stays on disk until it is looked at.

    Raises:
        OSError: the file cannot be opened.
        InputError: it is damaged, or has objects that would have to be unpickled.
    """
    with open(filename, 'rb') as file:
        is_one = file.read(len(np.lib.format.MAGIC_PREFIX)) == (
            np.lib.format.MAGIC_PREFIX
        )
        file.seek(0)
        with reading(filename, 'a complete NumPy file of numbers'):
            if is_one:
                return {'emb': np.load(filename, mmap_mode='r', allow_pickle=False)}
            with np.load(file, allow_pickle=False) as archive:
                return {name: read_member(archive, name) for name in archive.files}


def read_member(archive: Any, name: str) -> np.ndarray:
    """Return an array of an open .npz file.

    Raises:
        ValueError: it is none, or more than the archive has room for; and others.
    """
    check_member(archive, name)
    array = archive[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f'{name} is no array')
    return array


def check_member(archive: Any, name: str) -> None:
    """Raise ValueError if an array of an open .npz file has more than is stored.

    NumPy takes memory for all that a header claims before it reads.
    """
    names = archive.zip.namelist()
    info = archive.zip.getinfo(f'{name}.npy' if f'{name}.npy' in names else name)
    most = info.compress_size
    if info.compress_type != zipfile.ZIP_STORED:
        most *= MOST_COMPRESSION
    with archive.zip.open(info) as member:
        if member.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            return
        member.seek(0)
        version = np.lib.format.read_magic(member)
        if version not in HEADERS:
            raise ValueError(f'{name} has a header of version {version}')
        shape, _, dtype = HEADERS[version](member)
    if dtype.hasobject:  # Of a pickle, which NumPy refuses.
        return
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > most:
        raise ValueError(
            f'{name} {list(shape)} has {claimed} bytes by its header, but '
            f'{info.compress_size} are stored'
        )
    common.refuse_impossible(claimed, name, 'choose a machine with more')
