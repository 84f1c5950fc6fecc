"""Finished parts: Parquet files in a directory, and a JSON file that describes them.

A part has its name once it is complete, so that a job that is started again goes on
with those that are missing.
"""

import json
import uuid
import zlib

import numpy as np

import common
from array_files import import_pyarrow
from bulk import inputs
from parquet_parts import DESCRIPTION, name_part


def describe(flags, weights, parts):
    """Return what must be the same for a job to go on, ready for JSON.

    Args:
        flags: {name: value} that change embeddings or their parts.
        weights: checkpoints.fingerprint of the network.
        parts: list of inputs.Part.
    """
    return {
        'flags': flags,
        'weights': weights,
        'num_parts': len(parts),
        'parts': zlib.crc32(json.dumps(parts).encode('utf-8', 'surrogateescape')),
    }


def begin(directory, described):
    """Write the description of a job, or check that it is the same.

    Args:
        directory: of the parts, a path or an address.
        described: of `describe`.

    Returns:
        list of int, the parts that are missing.

    Raises:
        InputError: the directory has another job's parts, or something else.
    """
    filesystem, root = inputs.open_file_system(directory)
    filesystem.create_dir(root, recursive=True)
    filename = f'{root}/{DESCRIPTION}'
    if filesystem.get_file_info(filename).is_file:
        with filesystem.open_input_stream(filename) as source:
            stored = common.parse_object(source.read(), filename)
        for name, value in described.items():
            if stored.get(name) != json.loads(json.dumps(value)):
                raise common.InputError(
                    f'{directory} has what was embedded with another {name}; repeat '
                    'the command that began it, or choose a new --output'
                )
    else:
        from pyarrow import fs

        others = [
            info.path
            for info in filesystem.get_file_info(fs.FileSelector(root))
            if not info.path.endswith('.partial')  # Of a job that was killed.
        ]
        if others:
            raise common.InputError(
                f'{directory} is not empty, and no job of bulk_embed.py; choose a new '
                '--output'
            )
        text = json.dumps(described, indent=2, sort_keys=True)
        write(filesystem, filename, lambda file: file.write(text.encode()))
    return [
        number
        for number in range(described['num_parts'])
        if not filesystem.get_file_info(f'{root}/{name_part(number)}').is_file
    ]


def write(filesystem, filename, fill):
    """Write a file that has its name once it is complete.

    Args:
        filesystem: pyarrow.fs.FileSystem.
        filename: path on it.
        fill: function of an open file.
    """
    if filesystem.type_name == 'local':
        with common.complete_file(filename) as temporary, open(temporary, 'wb') as file:
            fill(file)
        return
    temporary = f'{filename}.{uuid.uuid4().hex}.partial'
    with filesystem.open_output_stream(temporary) as file:
        fill(file)
    filesystem.move(temporary, filename)


def write_part(directory, number, rows, embs, attributes):
    """Write a finished part.

    Args:
        directory: of the parts.
        number: of the part.
        rows: list [n] of (FID, PID or None, reason or None: it was embedded).
        embs: float32 [n, D]; NaN where there is a reason.
        attributes: {name: str} of the file.
    """
    pyarrow = import_pyarrow()
    fids, pids, reasons = zip(*rows, strict=True)
    kind = pyarrow.list_(pyarrow.float32(), embs.shape[1])
    flat = pyarrow.array(np.ascontiguousarray(embs, np.float32).ravel())
    columns = {'fid': pyarrow.array(fids, pyarrow.string())}
    if any(pid is not None for pid in pids):
        columns['pid'] = pyarrow.array(pids, pyarrow.string())
    columns['emb'] = pyarrow.FixedSizeListArray.from_arrays(flat, type=kind)
    columns['skipped_reason'] = pyarrow.array(reasons, pyarrow.string())
    table = pyarrow.table(columns).replace_schema_metadata(attributes)
    filesystem, root = inputs.open_file_system(directory)
    write(
        filesystem,
        f'{root}/{name_part(number)}',
        lambda file: pyarrow.parquet.write_table(table, file, write_page_checksum=True),
    )
