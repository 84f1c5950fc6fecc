"""Does an exported network embed as the checkpoint does? Asked in another process."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import typing

import numpy as np

import common
from deployment import _child
from evaluation import ranking

ROOT = pathlib.Path(__file__).parents[1]

# Images per pass, of both sides, and rounds that are timed in turn.
BATCH_SIZE, ROUNDS = 32, 3


class Parity(typing.NamedTuple):
    """How an exported network compares to the checkpoint.

    Attributes:
        num_bytes: on disk.
        num_images: that were embedded by both.
        difference: largest of an element, relative to the rms of the checkpoint's.
        agreement: share of the images whose nearest other image is the same.
        rate, tensorflow_rate: images/s, medians of rounds in turn.
        mean_ap, tensorflow_mean_ap: scores of query and gallery, or None.
    """

    num_bytes: int
    num_images: int
    difference: float
    agreement: float
    rate: float
    tensorflow_rate: float
    mean_ap: float | None = None
    tensorflow_mean_ap: float | None = None


class Child:
    """An exported network in a process of its own; a context manager.

    Args:
        name: of the format.
        target: of the file or directory.
        kind: 'pixels' or 'encoded'.

    Raises:
        InputError: its runtime does not load it, or fails.
    """

    def __init__(self, name, target, kind):
        self.name = name
        self.target = target
        self.kind = kind

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.errors = tempfile.TemporaryFile()
        words = ['-m', _child.__name__, self.name, self.target, self.kind]
        self.process = subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        try:
            self.read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()
        self.directory.cleanup()

    def read(self):
        """Return the next answer, a dict."""
        for line in self.process.stdout:
            if line.startswith('{'):  # Runtimes print, too.
                return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors='replace').splitlines() or ['']
        raise common.InputError(
            f'the runtime of {self.name} fails with {self.target} (exit {code}: '
            f'{lines[-1]}); the file is not kept'
        )

    def embed(self, filename, batch_size=BATCH_SIZE):
        """Return (embeddings, secs) of a file of images; see _child."""
        output = os.path.join(self.directory.name, 'embs.npy')
        task = {'input': filename, 'output': output, 'batch_size': batch_size}
        # If it has ended, why is read below.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(task) + '\n')
            self.process.stdin.flush()
        secs = self.read()['secs']
        return np.load(output), secs


def compare(embs, truth, metric):
    """Return (difference, agreement) of embeddings; see Parity.

    Args:
        embs, truth: float32 [N, D], of the file and of the checkpoint.
        metric: one of ranking.METRIC_CHOICES.
    """
    if embs.shape != truth.shape:
        raise common.InputError(
            f'embeddings have shape {list(embs.shape)}, expected {list(truth.shape)}'
        )
    rms = np.sqrt(np.mean(np.square(truth, dtype=np.float64)))
    difference = float(np.abs(embs - truth).max() / rms)
    if not np.isfinite(embs).all():
        return difference, 0.0
    nearest = [find_nearest(each, metric) for each in (embs, truth)]
    return difference, float(np.mean(nearest[0] == nearest[1]))


def find_nearest(embs, metric):
    """Return the row of each row's nearest other one, int64 [N]."""
    dists = ranking.compute_distances(embs, embs, metric)
    np.fill_diagonal(dists, np.inf)
    return dists.argmin(axis=1)


def measure(child, embed, inputs, metric, num_bytes):
    """Return the Parity of a Child, its rate and TensorFlow's measured in turn.

    Args:
        child: Child.
        embed: function of nothing that embeds the same images by TensorFlow and
            returns (embeddings, secs).
        inputs: name of the file of the images for the child.
        metric: one of ranking.METRIC_CHOICES.
        num_bytes: of the file.
    """
    embed()
    child.embed(inputs)  # Both have been compiled, and have read the images.
    rounds = [(embed(), child.embed(inputs)) for _ in range(ROUNDS)]
    (truth, _), (embs, _) = rounds[-1]
    difference, agreement = compare(embs, truth, metric)
    tensorflow_rate, rate = (
        len(truth) / float(np.median([pair[side][1] for pair in rounds]))
        for side in (0, 1)
    )
    return Parity(num_bytes, len(truth), difference, agreement, rate, tensorflow_rate)


def count_bytes(target):
    """Return the size of a file, or of all files in a directory."""
    path = pathlib.Path(target)
    files = path.rglob('*') if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


HEADINGS = (
    *('format', 'size', 'largest difference', 'same nearest', 'images/s'),
    *('TensorFlow', 'mAP', "checkpoint's"),
)


def format_row(name, parity):
    """Return the cells of a Parity for a table under HEADINGS, list of str."""
    scores = [parity.mean_ap, parity.tensorflow_mean_ap]
    return [
        name,
        f'{parity.num_bytes / 1e6:.1f} MB',
        f'{parity.difference:.1e}',
        f'{parity.agreement:.1%}',
        f'{parity.rate:.0f}',
        f'{parity.tensorflow_rate:.0f}',
        *('-' if score is None else f'{score:.2%}' for score in scores),
    ]


def format_table(rows, has_scores):
    """Return a table of rows under HEADINGS, with columns of equal width.

    Args:
        rows: of format_row.
        has_scores: whether mAPs were computed; else their columns are left out.
    """
    table = [row if has_scores else row[:-2] for row in (HEADINGS, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return '\n'.join(
        '  '.join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
