"""What a training run tells: log lines, TensorBoard, arrays of every iteration."""

import collections
import contextlib
import datetime
import errno
import json
import os
import pathlib
import time

import numpy as np
import tensorflow as tf
import tqdm
from tensorboard.plugins.image import metadata as image_metadata

import common
import loss
from training import batch_pictures

# Iterations over which the time of one is averaged: long enough that a slow disk
# access does not move the ETA, short enough to follow a change.
SPEED_WINDOW = 50


class Speed:
    """Running mean of the seconds per iteration.

    The first iteration counts only until there is a second: it builds the graph.
    """

    def __init__(self):
        self.started = time.perf_counter()
        self.ends = collections.deque(maxlen=SPEED_WINDOW + 1)

    def tick(self):
        """Count an iteration that has just ended; return its duration, seconds."""
        previous = self.ends[-1] if self.ends else self.started
        self.ends.append(time.perf_counter())
        return self.ends[-1] - previous

    def leave_out(self, secs):
        """Do not count the last `secs` seconds as time of iterations."""
        self.ends = collections.deque(
            (end + secs for end in self.ends), SPEED_WINDOW + 1
        )

    @property
    def secs_per_iter(self):
        """Mean duration of the last iterations, seconds."""
        if len(self.ends) < 2:
            return self.ends[-1] - self.started
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def format_iteration(step, outcome, k, secs_per_iter, iterations_left):
    """Return the log line of an iteration.

    Args:
        step: number of the iteration, from 1.
        outcome: of a training step, see train.py.
        k: neighbours behind outcome's precision.
        secs_per_iter: running mean, seconds.
        iterations_left: until the end of the run.
    """
    losses = outcome['losses'].numpy()
    eta = datetime.timedelta(seconds=round(secs_per_iter * iterations_left))
    return (
        f'iter:{step:6d}, loss min|avg|max: '
        f'{losses.min():.3f}|{losses.mean():.3f}|{losses.max():6.3f}, '
        f'batch-p@{k}: {float(outcome["precision"]):.2%}, '
        f'ETA: {eta} ({secs_per_iter:.2f}s/it)'
    )


def write_scalars(outcome, k, learning_rate, secs_per_iter, secs_input):
    """Write an iteration's scalars to the default TensorBoard writer.

    Args:
        outcome: of a training step, see train.py.
        k: neighbours behind outcome's precision.
        learning_rate: of the iteration.
        secs_per_iter: duration of the iteration, seconds.
        secs_input: the part of it that was spent waiting for the batch, seconds.
    """
    losses = outcome['losses']
    tf.summary.scalar('loss', tf.reduce_mean(losses))
    tf.summary.scalar('batch_top1', outcome['top1'])
    tf.summary.scalar(f'batch_prec_at_{k}', outcome['precision'])
    # A soft loss never reaches 0; below this it no longer moves anything.
    tf.summary.scalar('active_count', tf.math.count_nonzero(losses > 1e-5))
    tf.summary.scalar('learning_rate', learning_rate)
    tf.summary.scalar('secs_per_iter', secs_per_iter)
    tf.summary.scalar('secs_input', secs_input)
    if 'loss_scale' in outcome:
        tf.summary.scalar('loss_scale', outcome['loss_scale'])


def write_histograms(outcome, pids):
    """Write an iteration's histograms to the default TensorBoard writer.

    Args:
        outcome: of a training step, see train.py.
        pids: [B].
    """
    positive, negative = loss.split_dists(outcome['dists'], pids)
    tf.summary.histogram('loss_distribution', outcome['losses'])
    tf.summary.histogram('embedding_dists', outcome['dists'])
    tf.summary.histogram('embedding_pos_dists', positive)
    tf.summary.histogram('embedding_neg_dists', negative)
    tf.summary.histogram('embedding_lengths', tf.norm(outcome['embs'], axis=1))


class Pictures:
    """Pictures of some iterations' batches for TensorBoard.

    Args:
        frequency: iterations between them; 0: none.
        pids: object array [N] of str, of the data set.
        batch_k: K.
    """

    def __init__(self, frequency, pids, batch_k):
        self.frequency = frequency
        self.pids = pids
        self.batch_k = batch_k

    def write(self, step, rows, images, dists):
        """Write an iteration's pictures to the default writer, if they are due.

        Args:
            step: number of the iteration.
            rows: int64 [B], of the data set.
            images: [B, H, W, 3] in 0..255, or what a tf.distribute strategy made of
                it. Of several processes, the first has but the first of them, and
                only those are drawn.
            dists: float32 [B, B].
        """
        if not self.frequency or step % self.frequency:
            return
        parts = getattr(images, 'values', None) or [images]
        images = np.concatenate([np.asarray(part) for part in parts])
        pids = self.pids[rows[: len(images)]]
        dists = dists[: len(images), : len(images)]
        batch = batch_pictures.draw_batch(images, pids, self.batch_k)
        write_picture('images/batch', batch)
        hardest = batch_pictures.draw_hardest(images, pids, dists)
        if hardest is not None:
            write_picture('images/hardest', hardest)


def write_picture(tag, picture):
    """Write uint8 RGB [H, W, 3] to the default TensorBoard writer, as a PNG.

    As tf.summary.image does, but that takes many times as long to compress.
    """
    height, width = picture.shape[:2]
    tf.summary.write(
        tag,
        tf.stack([str(width), str(height), batch_pictures.encode_png(picture)]),
        metadata=image_metadata.create_summary_metadata(
            display_name=None, description=None
        ),
    )


class Journal:
    """Everything a run writes about its iterations; a context, closed at its end.

    Args:
        logger: of common.setup_logging.
        directory: of TensorBoard's events and of the detailed logs.
        first_step, last_step: iterations made before, and at the end of the run.
        k: neighbours behind an outcome's precision.
        histogram_frequency: iterations between histograms; 0: none.
        detailed_logs: a DetailedLogs, or None.
        watches: objects like diagnosis.CollapseWatch, which observe every iteration
            and may warn.
        pictures: a Pictures, or None.
    """

    def __init__(
        self,
        logger,
        directory,
        first_step,
        last_step,
        k,
        histogram_frequency=0,
        detailed_logs=None,
        watches=(),
        pictures=None,
    ):
        self.logger = logger
        self.directory = directory
        self.last_step = last_step
        self.k = k
        self.histogram_frequency = histogram_frequency
        self.detailed_logs = detailed_logs
        self.watches = watches
        self.pictures = pictures
        self.writer = tf.summary.create_file_writer(directory)
        self.speed = Speed()
        # disable=None: a bar on a terminal, nothing in a file or a pipe.
        self.bar = tqdm.tqdm(
            total=last_step, initial=first_step, disable=None, unit='it'
        )

    def __enter__(self):
        return self

    def write(self, step, rows, pids, learning_rate, outcome, secs_input, images=None):
        """Report an iteration that has just ended.

        Args:
            step: its number, from 1.
            rows: int64 [B], of the data set.
            pids: [B].
            learning_rate: of its update.
            outcome: of a training step, see train.py.
            secs_input: how long it waited for its batch, seconds.
            images: what Pictures take; None: nothing is drawn.
        """
        secs = self.speed.tick()
        mean_secs = self.speed.secs_per_iter
        left = self.last_step - step
        self.logger.info(format_iteration(step, outcome, self.k, mean_secs, left))
        self.bar.update()
        with self.naming_the_events(), self.writer.as_default(step=step):
            write_scalars(outcome, self.k, learning_rate, secs, secs_input)
            if self.histogram_frequency and step % self.histogram_frequency == 0:
                write_histograms(outcome, pids)
            if self.pictures is not None and images is not None:
                self.pictures.write(step, rows, images, outcome['dists'].numpy())
        if self.detailed_logs is not None:
            self.detailed_logs.write(step, rows, outcome)
        self.show_watches(outcome)

    def show_watches(self, outcome):
        """Let the watches see an iteration, and log what they warn of."""
        mean_loss = float(outcome['losses'].numpy().mean())
        spread = float(outcome['dists'].numpy().mean())
        for watch in self.watches:
            warning = watch.observe(mean_loss, spread, float(outcome['precision']))
            if warning is not None:
                self.logger.warning(warning)

    def write_validation(self, step, scores, best, secs):
        """Report a validation.

        Args:
            step: iterations made.
            scores: validation.Scores.
            best: record of the best so far, a dict with `step` and `mAP`.
            secs: how long it took; no time of an iteration.
        """
        self.logger.info(
            f'validation after iteration {step}: mAP {scores.mAP:.2%}, '
            f'top-1 {scores.top1:.2%} (best mAP {best["mAP"]:.2%} after iteration '
            f'{best["step"]}), {secs:.1f} s'
        )
        self.speed.leave_out(secs)
        with self.naming_the_events(), self.writer.as_default(step=step):
            tf.summary.scalar('val/mAP', scores.mAP)
            tf.summary.scalar('val/top1', scores.top1)

    @contextlib.contextmanager
    def naming_the_events(self):
        """Turn TensorFlow's error into an OSError, which the command reports."""
        try:
            yield
        except tf.errors.OpError as error:
            raise common.FileError(
                f"cannot write TensorBoard's events in {self.directory} "
                f'({common.tensorflow_reason(error)})'
            ) from error

    def __exit__(self, *_):
        self.bar.close()
        if self.detailed_logs is not None:
            self.detailed_logs.close()
        with self.naming_the_events():
            self.writer.close()


class SilentJournal(contextlib.nullcontext):
    """The journal of a process that leaves reporting to another one."""

    def write(self, *_):
        """Report nothing; see Journal."""


class DetailedLogs:
    """Embeddings, losses and FIDs of every iteration, as arrays to be mem-mapped.

    Three raw files, `embeddings` float32 [T, B, D], `losses` float32 [T, B] and `fids`
    bytes [T, B], row t = iteration t + 1, each with a header `NAME.json` that holds
    dtype and shape:

        header = json.load(open('embeddings.json'))
        shape = tuple(header['shape'])
        embs = np.memmap('embeddings', header['dtype'], 'r', shape=shape)

    Args:
        directory: where the files go; existing ones are continued.
        iterations: T, of the whole run.
        batch_size: B.
        embedding_dim: D.
        fids: object array [N] of str, the data set.
    """

    def __init__(self, directory, iterations, batch_size, embedding_dim, fids):
        self.fids = np.array([fid.encode('utf-8') for fid in fids])  # [N]
        shape = (iterations, batch_size)
        self.embeddings = ArrayFile(
            directory, 'embeddings', np.float32, (*shape, embedding_dim)
        )
        self.losses = ArrayFile(directory, 'losses', np.float32, shape)
        self.drawn_fids = ArrayFile(directory, 'fids', self.fids.dtype, shape)

    def write(self, step, rows, outcome):
        """Store iteration `step`, numbered from 1.

        Args:
            step: number of the iteration.
            rows: int64 [B], of the data set.
            outcome: of a training step, see train.py.
        """
        self.embeddings.write(step - 1, outcome['embs'].numpy())
        self.losses.write(step - 1, outcome['losses'].numpy())
        self.drawn_fids.write(step - 1, self.fids[rows])

    def close(self):
        """Close the files."""
        for array_file in (self.embeddings, self.losses, self.drawn_fids):
            array_file.file.close()


class ArrayFile:
    """An array in a file with a JSON header, written row by row.

    Not through a memory map: on a full disk that ends in a SIGBUS without a word.

    Args:
        directory, name: of the file; one that exists keeps its first rows.
        dtype: of the array.
        shape: of the array, (rows, ...).

    Raises:
        ValueError: an existing file holds rows of another dtype or shape.
    """

    def __init__(self, directory, name, dtype, shape):
        self.filename = os.path.join(directory, name)
        header = {'dtype': np.dtype(dtype).str, 'shape': list(shape)}
        header_file = f'{self.filename}.json'
        if os.path.exists(header_file):
            old = json.loads(pathlib.Path(header_file).read_text(encoding='utf-8'))
            if (old['dtype'], old['shape'][1:]) != (
                header['dtype'],
                header['shape'][1:],
            ):
                raise common.InputError(
                    f'{self.filename} holds rows {old["dtype"]} {old["shape"][1:]}, '
                    f'this run writes {header["dtype"]} {header["shape"][1:]}; move '
                    'it away'
                )
        common.write_json(header_file, header)
        self.row_bytes = np.dtype(dtype).itemsize * int(np.prod(shape[1:]))
        pathlib.Path(self.filename).touch()
        self.file = open(self.filename, 'r+b')  # noqa: SIM115 (DetailedLogs closes it)
        # Sparse on most file systems: rows not yet written take no room.
        self.file.truncate(self.row_bytes * shape[0])

    def write(self, row, values):
        """Store one row of the array.

        Raises:
            OSError: it cannot be written; names the file.
        """
        content = values.tobytes()
        try:
            written = os.pwrite(self.file.fileno(), content, row * self.row_bytes)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.filename) from error
        if written < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.filename)
