"""What an interrupted run of embed.py has done, for --resume.

Finished batches are kept in a directory beside the file that is being written, in files
that appear only when they are complete. A run that is killed within SECS leaves
nothing, and one that ends well removes all. From the first of them on, the directory
belongs to one process.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
import typing

import numpy as np

import array_files
import common
from embedding import shards

# After this time, what is done since the last time is kept.
SECS = 30

# What was done in less time before Ctrl+C is not worth a --resume.
SECS_AT_END = 3

HEADER = 'run.json'

# Held by who writes to the directory; it tells who does.
LOCK = '.lock'

# Flags that an interrupted run may be continued without, or with other values.
FREE_FLAGS = shards.FREE_FLAGS - {'filename', 'shard'} | {'resume', 'on_bad_image'}


class Block(typing.NamedTuple):
    """Some finished batches.

    Attributes:
        rows: list [B] of int, their rows.
        embs: float32 [A, B, D].
        skipped: {row: reason} of those that could not be read.
        end: the row after the last batch.
    """

    rows: list
    embs: np.ndarray
    skipped: dict
    end: int


class Blocks:
    """The finished batches of a file of embeddings that is not complete.

    Args:
        filename: of the file of embeddings.
        flags: dict of the command's flags.
        describe: function that returns {what: value} of what must be the same for the
            embeddings to be; called only if something is kept.
        shape: (A, N, D) of all embeddings.

    Attributes:
        done: number of rows that are kept.
        skipped: {row: reason} of those among them that could not be read.
    """

    def __init__(self, filename, flags, describe, shape):
        self.filename = filename
        directory, name = os.path.split(filename)
        self.directory = os.path.join(directory, f'.{name}.blocks')
        self.flags = json.loads(json.dumps(flags))
        self.describe = describe
        self.shape = shape
        self.done = 0
        self.skipped = {}
        self.files = []
        self.lock = None

    def take_lock(self):
        """Make the directory ours, until `close` or the end of the process.

        Raises:
            InputError: it is another process's.
        """
        while self.lock is None:
            os.makedirs(self.directory, exist_ok=True)
            filename = os.path.join(self.directory, LOCK)
            # The owner before may remove the directory at any time.
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(filename, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    self.claim(lock)
                    if os.path.samestat(os.fstat(lock), os.stat(filename)):
                        self.lock = lock
                finally:
                    if self.lock is None:
                        os.close(lock)

    def claim(self, lock):
        """Lock an open file and write there who we are; see take_lock."""
        try:
            common.lock_file(lock, fcntl.F_OFD_SETLK)
        except BlockingIOError as error:
            owner = os.read(lock, 200).decode(errors='replace').strip()
            raise common.InputError(
                f'{self.filename} is in use: another embed.py writes it'
                f'{f" ({owner})" * bool(owner)}; wait for it, stop it, or choose '
                'another --filename'
            ) from error
        except OSError:
            pass  # There are no locks here, and nobody can tell.
        os.ftruncate(lock, 0)
        os.write(lock, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())

    def close(self):
        """Let others in."""
        if self.lock is not None:
            with contextlib.suppress(OSError):  # The directory is gone.
                os.remove(os.path.join(self.directory, LOCK))
            os.close(self.lock)
            self.lock = None

    def find(self, is_resumed):
        """Look for what an earlier run has left.

        Args:
            is_resumed: whether it is to be continued.

        Raises:
            InputError: there is something, and is_resumed is false; or it belongs to
                another run, or to one that is not at its end.
        """
        if not os.path.isdir(self.directory):
            return
        self.take_lock()
        header = os.path.join(self.directory, HEADER)
        if not os.path.exists(header):
            self.remove()
            return
        if not is_resumed:
            raise common.InputError(
                f'{self.directory} has what an interrupted run has embedded: add '
                '--resume to go on with it, or remove that directory to begin anew'
            )
        self.check(header)
        while True:
            filename = self.name(self.done)
            if not os.path.exists(filename):
                return
            block = self.read(filename, self.done)
            self.files.append(filename)
            self.skipped |= block.skipped
            self.done = block.end

    def check(self, header):
        """Raise InputError unless what is kept was embedded as this run embeds."""
        stored = common.read_object(header)
        flags, origin = stored.get('flags'), stored.get('origin')
        if not isinstance(flags, dict) or not isinstance(origin, dict):
            raise common.InputError(
                f'{header} is not what embed.py writes; remove {self.directory}'
            )
        remedy = f'repeat the flags, or remove {self.directory} to begin anew'
        ours = json.loads(json.dumps(self.describe()))
        shards.check_flags(self.directory, flags, self.flags, FREE_FLAGS, remedy)
        for name in sorted(origin.keys() | ours.keys()):
            if origin.get(name) != ours.get(name):
                raise common.InputError(
                    f'{self.directory} was embedded with another {name}; remove it to '
                    'begin anew'
                )

    def name(self, first):
        """Return the name of the block that begins with a row."""
        return os.path.join(self.directory, f'rows-{first}.npz')

    def read(self, filename, first):
        """Return a Block of a file, which begins with a row.

        Raises:
            InputError: it is damaged.
        """
        with array_files.reading(
            filename,
            'a complete block of embeddings; remove it, and all before it is used',
        ):
            arrays = array_files.load_numpy(filename)
            rows, end = arrays['rows'].tolist(), int(arrays['end'])
            names = arrays['skipped'].tolist(), arrays['skipped_reason'].tolist()
            block = Block(rows, arrays['emb'], dict(zip(*names, strict=True)), end)
            check(block, first, self.shape)
            return block

    def replay(self):
        """Yield (rows, float32 [A, B, D]) of what is kept."""
        first = 0
        for filename in self.files:
            block = self.read(filename, first)
            yield block.rows, block.embs
            first = block.end

    def keep(self, embs, skipped):
        """Pass (rows, embeddings) on, and keep them from time to time.

        Args:
            embs: iterable of (rows, float32 [A, B, D]), after those that are kept.
            skipped: {row: reason}, filled meanwhile.
        """
        batches, last = [], time.monotonic()
        try:
            for rows, batch in embs:
                yield rows, batch
                batches.append((rows, batch))
                if time.monotonic() - last >= SECS:
                    self.write(batches, skipped)
                    batches, last = [], time.monotonic()
        except KeyboardInterrupt:
            if batches and time.monotonic() - last >= SECS_AT_END:
                self.write(batches, skipped)
            raise

    def write(self, batches, skipped):
        """Write a block of some batches, the first one with a header before it."""
        rows = [row for some, _ in batches for row in some]
        # The whole batch is done, its last images may have been skipped.
        size = self.flags['batch_size']
        end = min(self.shape[1], -(-(rows[-1] + 1) // size) * size)
        new = {row: why for row, why in skipped.items() if self.done <= row < end}
        if not self.files:
            if self.lock is None:
                self.find(is_resumed=False)  # Since then, another run may have ended.
                self.take_lock()
            common.write_json(
                os.path.join(self.directory, HEADER),
                {'flags': self.flags, 'origin': self.describe()},
            )
        filename = self.name(self.done)
        with common.complete_file(filename) as temporary, open(temporary, 'wb') as file:
            np.savez(
                file,
                rows=np.array(rows, np.int64),
                end=end,
                emb=np.concatenate([batch for _, batch in batches], axis=1),
                skipped=np.array(list(new), np.int64),
                skipped_reason=np.array(list(new.values()), np.str_),
            )
        self.files.append(filename)
        self.done = end

    def remove(self):
        """Remove all, if it is ours: the file is complete."""
        if self.lock is None:
            return
        with contextlib.suppress(OSError):
            # The header first: without it, the rest is nothing to anybody.
            names = sorted(os.listdir(self.directory), key=lambda name: name != HEADER)
            for name in names:
                if name != LOCK:
                    os.remove(os.path.join(self.directory, name))
            self.close()
            os.rmdir(self.directory)


def check(block, first, shape):
    """Raise ValueError unless a Block has rows from `first` on, each once.

    Args:
        block: Block.
        first: row that it begins with.
        shape: (A, N, D) of all embeddings.
    """
    num_variants, num_rows, dim = shape
    expected = num_variants, len(block.rows), dim
    if block.embs.shape != expected or block.embs.dtype != np.float32:
        raise ValueError(
            f'embeddings {list(block.embs.shape)}, {block.embs.dtype}; '
            f'expected {list(expected)}, float32'
        )
    if not first < block.end <= num_rows:
        raise ValueError(f'it ends with row {block.end} of {num_rows}')
    if sorted([*block.rows, *block.skipped]) != list(range(first, block.end)):
        raise ValueError('rows are missing')
