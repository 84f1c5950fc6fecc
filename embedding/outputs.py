"""The formats that embed.py writes, by the end of the file's name; see write.

.h5       HDF5, the original's: everything
.npy      the embeddings alone, and the FIDs in a text file beside it
.npz      arrays emb, fid, pid and the attributes
.csv      a line `fid,pid,emb_1,...,emb_D` an image
.parquet  columns fid, pid and emb, for pyarrow, Spark, DuckDB and others
"""

import contextlib
import csv
import os
import pathlib
import typing
import zipfile

import numpy as np

import array_files
import common
import embedding_files

# Rows of Parquet's groups.
ROWS_AT_ONCE = 4096


class Table(typing.NamedTuple):
    """What is written, row by row.

    Attributes:
        embs: iterable of (rows, float32 [B, D]), all rows in their order.
        fids: sequence [N] of str.
        pids: likewise, or None.
        embedding_dim: D.
        attributes: {name: str} of the file.
        skipped: {row: reason}, complete once `embs` is at its end; see
            embedding_files.write.
    """

    embs: typing.Iterable
    fids: typing.Sequence
    pids: typing.Sequence | None
    embedding_dim: int
    attributes: dict
    skipped: dict


def write_npy(filename, table):
    """Write the embeddings alone, and beside them the FIDs, one a line.

    Two files cannot be replaced at once. Between names of other images and their
    numbers, there are no numbers: who reads finds a pair, or that one is missing.
    """
    broken = [fid for fid in table.fids if '\n' in fid or '\r' in fid]
    if broken:
        raise common.InputError(
            f'{len(broken)} FIDs have a line break (first: {broken[0]!r}); those of '
            'a .npy file stand one a line; write another format'
        )
    beside = embedding_files.names_beside(filename)
    names = b''.join(embedding_files.encode(fid) + b'\n' for fid in table.fids)
    common.check_file_name(beside)
    with common.complete_file(filename) as temporary:
        with open(temporary, 'wb') as file:
            write_array(file, table)
        if not has_content(beside, names):
            with common.complete_file(beside) as temporary_names:
                pathlib.Path(temporary_names).write_bytes(names)
                # What can fail comes before the older numbers go.
                for path in (temporary, temporary_names):
                    common.sync(path)
                if not common.is_stream(filename):
                    common.remove(os.path.realpath(filename))


def has_content(filename, content):
    """Say whether a file is there and holds some bytes, no more and no less."""
    path = pathlib.Path(filename)
    return path.is_file() and path.read_bytes() == content


def write_array(file, table):
    """Write the embeddings to an open file as NumPy does, a batch at a time."""
    shape = len(table.fids), table.embedding_dim
    header = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(file, header)
    for _, embs in table.embs:
        file.write(np.ascontiguousarray(embs, '<f4').tobytes())


def write_npz(filename, table):
    """Write arrays emb, fid, pid and, each a text, the attributes."""
    with (
        common.complete_file(filename) as temporary,
        zipfile.ZipFile(temporary, 'w') as archive,
    ):
        with archive.open('emb.npy', 'w', force_zip64=True) as file:
            write_array(file, table)
        arrays = {'fid': table.fids, 'pid': table.pids, **table.attributes}
        for name, values in arrays.items():
            if values is not None:
                put(archive, name, np.array(values, np.str_))
        if table.skipped:
            rows = sorted(table.skipped)
            put(archive, 'skipped', np.array(rows, np.int64))
            reasons = [table.skipped[row] for row in rows]
            put(archive, 'skipped_reason', np.array(reasons, np.str_))


def put(archive, name, array):
    """Add an array to an open .npz file."""
    with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def write_csv(filename, table):
    """Write a heading, and a line an image; `nan` stands for what was skipped."""
    columns = [table.fids] if table.pids is None else [table.fids, table.pids]
    heading = array_files.TABLE_NAMES[: len(columns)]
    numbers = [f'emb_{i}' for i in range(1, table.embedding_dim + 1)]
    with (
        common.complete_file(filename) as temporary,
        open(
            temporary, 'w', encoding='utf-8', errors='surrogateescape', newline=''
        ) as file,
    ):
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([*heading, *numbers])
        for rows, embs in table.embs:
            for row, emb in zip(rows, embs, strict=True):
                # NumPy writes the shortest digits that tell a float32 from others.
                writer.writerow([*(column[row] for column in columns), *map(str, emb)])


def write_parquet(filename, table):
    """Write columns fid, pid and emb; its numbers are NaN for what was skipped."""
    pyarrow = array_files.import_pyarrow()
    columns = {'fid': table.fids}
    if table.pids is not None:
        columns['pid'] = table.pids
    numbers = pyarrow.list_(pyarrow.float32(), table.embedding_dim)
    schema = pyarrow.schema(
        [*((name, pyarrow.string()) for name in columns), ('emb', numbers)],
        metadata=table.attributes,
    )
    with (
        common.complete_file(filename) as temporary,
        pyarrow.parquet.ParquetWriter(
            temporary, schema, write_page_checksum=True
        ) as writer,
    ):
        for rows, embs in regroup(table.embs, ROWS_AT_ONCE):
            flat = pyarrow.array(np.ascontiguousarray(embs, np.float32).ravel())
            arrays = [
                pyarrow.array([column[row] for row in rows], pyarrow.string())
                for column in columns.values()
            ]
            arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=numbers))
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))


def regroup(embs, size):
    """Yield (rows, embeddings) of batches as groups of `size` rows, but the last."""
    rows, group = [], []
    for some, batch in embs:
        rows += some
        group.append(batch)
        while len(rows) >= size:
            joined = np.concatenate(group)
            yield rows[:size], joined[:size]
            rows, group = rows[size:], [joined[size:]]
    if rows:
        yield rows, np.concatenate(group)


WRITERS = {
    '.npy': write_npy,
    '.npz': write_npz,
    '.csv': write_csv,
    '.parquet': write_parquet,
}


def choose_writer(filename):
    """Return the function of WRITERS that a file's name asks for; None: HDF5."""
    return WRITERS.get(os.path.splitext(filename)[1].lower())


def write(
    filename,
    embs,
    fids,
    variants,
    embedding_dim,
    aggregator,
    attributes,
    pids,
    skipped,
):
    """Write embeddings in one of WRITERS' formats; see embedding_files.write.

    Each image has one embedding there, none of its variants.
    """
    joined = embedding_files.join_variants(
        embs, fids, len(variants), embedding_dim, aggregator, skipped
    )
    with contextlib.closing(joined):
        rows = ((rows, embs) for rows, _, embs in joined)
        missing = {} if skipped is None else skipped
        table = Table(rows, fids, pids, embedding_dim, attributes, missing)
        choose_writer(filename)(filename, table)
