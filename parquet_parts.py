"""A directory of bulk_embed.py: embeddings in Parquet files, read part by part."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

import array_files
import common

# The JSON file that says what the parts are of, and how many.
DESCRIPTION = 'bulk.json'


def name_part(number: int) -> str:
    """Return the name of a part's file."""
    return f'part-{number:06}.parquet'


class Opened(NamedTuple):
    """A directory of parts.

    Attributes:
        embs: Parts, [N, D].
        fids: [N] of str.
        skipped: int64 [S], rows whose images could not be read; they are NaN.
        pids: [N] of str, or of None where nobody tells; None: nowhere.
        attributes: {name: str} of the first part.
    """

    embs: Parts
    fids: list[str]
    skipped: np.ndarray
    pids: list[str | None] | None
    attributes: dict[str, str]


class Parts:
    """The embeddings of several Parquet files; slices like an array [N, D].

    Args:
        filenames: of the files.
        lengths: rows of each.
        dim: D.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, filenames: list[str], lengths: list[int], dim: int) -> None:
        self.filenames = filenames
        self.ends = np.cumsum(lengths)
        self.shape = int(self.ends[-1]), dim
        # The part that was read last: blocks come one after another.
        self._held: tuple[int, np.ndarray] = (-1, np.empty((0, dim), np.float32))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getitem__(self, place: slice) -> np.ndarray:
        found = array_files.slice_parts(self.ends, place, self._read)
        return np.concatenate([np.empty((0, self.shape[1]), np.float32), *found])

    def _length(self, number: int) -> int:
        return int(self.ends[number] - (self.ends[number - 1] if number else 0))

    def _read(self, number: int) -> np.ndarray:
        held = self._held  # Another thread may read another part meanwhile.
        if held[0] != number:
            embs = array_files.read_table(self.filenames[number]).embs
            if embs.shape != (self._length(number), self.shape[1]):
                raise common.InputError(
                    f'{self.filenames[number]} has changed while it was read'
                )
            self._held = held = number, embs
        return held[1]


def open_parts(directory: str) -> Opened:
    """Return the Opened of a directory that bulk_embed.py has written.

    Raises:
        InputError: it is something else, incomplete or damaged.
    """
    description = os.path.join(directory, DESCRIPTION)
    if not os.path.isfile(description):
        raise common.InputError(
            f'{directory} is a directory without {DESCRIPTION}; expected a file of '
            'embeddings, or what bulk_embed.py has written'
        )
    count = common.read_object(description).get('num_parts')
    if type(count) is not int or count < 1:
        raise common.InputError(f'{description} is not what bulk_embed.py writes')
    there = set(os.listdir(directory))
    first = next((i for i in range(count) if name_part(i) not in there), None)
    if first is not None:
        num_there = sum(name.startswith('part-') for name in there)
        raise common.InputError(
            f'{count - num_there} of {count} parts of {directory} are missing (first: '
            f'{name_part(first)}); the same bulk_embed.py goes on'
        )
    filenames = [os.path.join(directory, name_part(i)) for i in range(count)]
    parts = [array_files.read_names(name) for name in filenames]
    if len({part.attributes.get('weights') for part in parts}) > 1:
        raise common.InputError(
            f'the parts of {directory} are of different weights; remove those of '
            'another network, and let the same bulk_embed.py go on'
        )
    fids = [fid for part in parts for fid in part.fids]
    pids: list[str | None] | None = None
    if any(part.pids is not None for part in parts):
        # Who is on an image, nobody may tell of some.
        pids = []
        for part in parts:
            pids += part.pids or [None] * len(part.fids)
    dims = {part.dim for part in parts}
    if len(dims) > 1:
        raise common.InputError(
            f'the parts of {directory} have {" and ".join(map(str, sorted(dims)))} '
            'dimensions; remove those of another network'
        )
    lengths = [len(part.fids) for part in parts]
    skipped = np.flatnonzero([bad for part in parts for bad in part.is_skipped])
    embs = Parts(filenames, lengths, dims.pop())
    return Opened(embs, fids, skipped, pids, parts[0].attributes)
