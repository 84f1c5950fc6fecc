"""What a training run tells: log lines, TensorBoard, arrays of every iteration."""

import collections
import contextlib
import errno
import math
import os
import pathlib
import time
import typing

import numpy as np
import tensorflow as tf
import tqdm
from google.protobuf import message
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.image import metadata as image_metadata

import batches
import common
import loss
from training import batch_pictures
from training.step import Outcome

# Imported when a run is resumed.
event_file_loader = common.lazy_import(
    'tensorboard.backend.event_processing.event_file_loader'
)

# Iterations over which the time of one is averaged: long enough that a slow disk
# access does not move the ETA, short enough to follow a change.
SPEED_WINDOW = 50

# How the names of TensorBoard's files begin; the second of their beginning follows.
EVENTS = 'events.out.tfevents.'

# The scores of a validation, in TensorBoard.
VALIDATION_TAGS = ('val/mAP', 'val/top1')


class Speed:
    """Running mean of the seconds per iteration.

    The first iteration does not count: it builds the graph.
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
        """Mean duration of the last iterations, seconds; NaN after the first."""
        if len(self.ends) < 2:
            return math.nan
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


class Iteration(typing.NamedTuple):
    """What there is to tell of an iteration that has just ended.

    Attributes:
        step: its number, from 1.
        batch: its batches.Batch.
        pids: int64 [B], a number for the PID of each image.
        learning_rate: of its update.
        outcome: its step.Outcome.
        secs_input: how long it waited for its batch, seconds.
        secs: how long it took, seconds; the journal's clock says it.
        secs_per_iter: running mean of that.
    """

    step: int
    batch: batches.Batch
    pids: np.ndarray
    learning_rate: float
    outcome: Outcome
    secs_input: float
    secs: float = math.nan
    secs_per_iter: float = math.nan


# --- reporters: each has report(iteration) ---------------------------------------
# TensorBoard's default writer is open while they are called, at the iteration's step.


class Line:
    """Writes a line of the log.

    Args:
        logger: of common.setup_logging.
        k: neighbours behind an outcome's precision_at_k.
        last_step: iterations at the end of the run.
    """

    def __init__(self, logger, k, last_step):
        self.logger = logger
        self.k = k
        self.last_step = last_step

    def report(self, iteration):
        """Log an Iteration."""
        self.logger.info(format_iteration(iteration, self.k, self.last_step))


def format_iteration(iteration, k, last_step):
    """Return the log line of an Iteration, at most 80 characters; see Line."""
    losses = iteration.outcome.losses.numpy()
    is_first = math.isnan(iteration.secs_per_iter)
    secs_per_iter = iteration.secs if is_first else iteration.secs_per_iter
    return (
        f'iter:{iteration.step:6d}, '
        f'loss: {losses.min():.3f}|{losses.mean():.3f}|{losses.max():.3f}, '
        f'p@{k}: {float(iteration.outcome.precision_at_k):.2%}, '
        f'ETA: {format_eta(iteration, last_step)} ({secs_per_iter:.2f}s/it)'
    )


def format_eta(iteration, last_step):
    """Return how long a run takes from an Iteration on, as H:MM:SS, or `?`."""
    left = iteration.secs_per_iter * (last_step - iteration.step)
    if math.isnan(left):
        return '?'
    minutes, secs = divmod(round(left), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{secs:02d}'


class Scalars:
    """Writes TensorBoard's scalars.

    Args:
        k: neighbours behind an outcome's precision_at_k.
    """

    def __init__(self, k):
        self.k = k

    def report(self, iteration):
        """Write the scalars of an Iteration."""
        outcome = iteration.outcome
        losses = outcome.losses.numpy()
        scalars = {
            'loss': losses.mean(),
            'batch_top1': outcome.top1,
            f'batch_prec_at_{self.k}': outcome.precision_at_k,
            # A soft loss never reaches 0; below this it no longer moves anything.
            'active_count': np.count_nonzero(losses > 1e-5),
            'learning_rate': iteration.learning_rate,
            'secs_per_iter': iteration.secs,
            'secs_input': iteration.secs_input,
        }
        if outcome.loss_scale is not None:
            scalars['loss_scale'] = outcome.loss_scale
        write_scalars(scalars, iteration.step)


def write_scalars(scalars, step):
    """Write {tag: number} to the default TensorBoard writer, as TensorFlow 1 did.

    tf.summary.scalar writes tensors, which readers of that time do not find;
    TensorBoard reads both.
    """
    tf.summary.experimental.write_raw_pb(
        tf.raw_ops.ScalarSummary(
            tags=tf.constant(list(scalars)),
            values=tf.constant([float(value) for value in scalars.values()]),
        ),
        tf.constant(np.int64(step)),  # See loop.train.
    )


class Histograms:
    """Writes TensorBoard's histograms.

    Args:
        frequency: iterations between them; 0: none.
        last_step: iterations at the end of the run.
    """

    def __init__(self, frequency, last_step):
        self.frequency = frequency
        self.last_step = last_step

    def report(self, iteration):
        """Write the histograms of an Iteration, if they are due."""
        is_extreme = iteration.step in (1, self.last_step)
        if not self.frequency or (iteration.step % self.frequency and not is_extreme):
            return
        outcome = iteration.outcome
        positive, negative = loss.split_dists(outcome.dists, iteration.pids)
        tf.summary.histogram('loss_distribution', outcome.losses)
        tf.summary.histogram('embedding_dists', outcome.dists)
        tf.summary.histogram('embedding_pos_dists', positive)
        tf.summary.histogram('embedding_neg_dists', negative)
        tf.summary.histogram('embedding_lengths', outcome.lengths)


class Pictures:
    """Draws batches and their hardest pairs for TensorBoard.

    Args:
        frequency: iterations between pictures; 0: none.
        pids: object array [N] of str, of the data set.
        batch_k: K.
    """

    def __init__(self, frequency, pids, batch_k):
        self.frequency = frequency
        self.pids = pids
        self.batch_k = batch_k

    def report(self, iteration):
        """Write the pictures of an Iteration, if they are due.

        Of several processes, the first has but the first images, and only those are
        drawn.
        """
        if not self.frequency or iteration.step % self.frequency:
            return
        images = iteration.batch.images.numpy()
        pids = self.pids[iteration.batch.rows[: len(images)]]
        dists = iteration.outcome.dists.numpy()[: len(images), : len(images)]
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


# --- arrays of every iteration --------------------------------------------------


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
        self.files = [self.embeddings, self.losses, self.drawn_fids]
        self.filenames = [file.filename for file in self.files]

    def report(self, iteration):
        """Store what an Iteration computed."""
        row = iteration.step - 1
        self.embeddings.write(row, iteration.outcome.embs.numpy())
        self.losses.write(row, iteration.outcome.losses.numpy())
        self.drawn_fids.write(row, self.fids[iteration.batch.rows])

    def close(self):
        """Close the files."""
        for array_file in self.files:
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
            row = header['dtype'], header['shape'][1:]
            old = read_row(header_file)
            if old != row:
                raise common.InputError(
                    f'{self.filename} holds rows {old[0]} {old[1]}, this run writes '
                    f'{row[0]} {row[1]}; move it away'
                )
        common.write_json(header_file, header)
        self.row_bytes = np.dtype(dtype).itemsize * int(np.prod(shape[1:]))
        with common.writing(f'cannot write {self.filename}'):
            pathlib.Path(self.filename).touch()
            self.file = open(self.filename, 'r+b')  # noqa: SIM115 (closed later)
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
            raise common.FileError(f'{self.filename}: {error.strerror}') from error
        if written < len(content):
            raise common.FileError(f'{self.filename}: {os.strerror(errno.ENOSPC)}')


def read_row(header_file):
    """Return what a header of ArrayFile says of a row: its dtype, str, and its shape.

    Raises:
        InputError: it is no such header.
    """
    header = common.read_object(header_file)
    dtype, shape = header.get('dtype'), header.get('shape')
    if not isinstance(shape, list):
        raise common.InputError(
            f'{header_file} has no dtype and shape; expected what --detailed_logs '
            'writes: restore it, or move it and its array away'
        )
    return dtype, shape[1:]


# --- event files of earlier processes --------------------------------------------


def list_events(directory):
    """Return the names of the event files in a directory, in TensorBoard's order."""
    return sorted(path.name for path in pathlib.Path(directory).glob(f'{EVENTS}*'))


def put_before_now(directory):
    """Let the event files in a directory come before one that is begun now.

    Their names tell when they were begun, and the clock may have been set back since.
    Those of the past become numbers then.
    """
    names = list_events(directory)
    if not names or names[-1] < f'{EVENTS}{int(time.time()):010d}':
        return
    # From the first on: after a kill, too, those with a number come before the others.
    for number, name in enumerate(names):
        earlier = f'{EVENTS}{0:010d}.{number:06d}'
        os.rename(os.path.join(directory, name), os.path.join(directory, earlier))


def shows_validation(directory, step):
    """Say whether TensorBoard shows the validation after `step` updates of a run."""
    is_shown = False
    for name in list_events(directory):
        loader = event_file_loader.LegacyEventFileLoader(os.path.join(directory, name))
        # TensorBoard, too, reads a damaged file up to there.
        with contextlib.suppress(message.DecodeError, tf.errors.OpError):
            for event in loader.Load():
                is_restart = event.session_log.status == event_pb2.SessionLog.START
                if is_restart and event.step <= step:
                    is_shown = False
                elif event.step == step:
                    tags = {value.tag for value in event.summary.value}
                    is_shown = is_shown or tags >= set(VALIDATION_TAGS)
    return is_shown


# --- the journal -----------------------------------------------------------------


class Journal:
    """Everything a run writes about its iterations; a context, closed at its end.

    Args:
        logger: of common.setup_logging.
        directory: of TensorBoard's events.
        steps: range, from the iterations made before to those at the end of the run.
        reporters: list of objects that report(iteration), and may close(); those with
            `filenames` write to these.
        quiet: whether there is no progress bar.
    """

    def __init__(self, logger, directory, steps, reporters, quiet=False):
        self.logger = logger
        self.directory = directory
        self.reporters = reporters
        with self.naming_the_events():
            put_before_now(directory)
            is_first = not list_events(directory)
            self.writer = tf.summary.create_file_writer(directory)
        if not is_first:
            self.forget_later_events(steps.start + 1)
        self.speed = Speed()
        # disable=None: a bar on a terminal, nothing in a file or a pipe.
        self.bar = tqdm.tqdm(
            total=steps.stop,
            initial=steps.start,
            disable=True if quiet else None,
            bar_format='{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}',
        )

    def forget_later_events(self, first_step):
        """Let readers drop what a killed process wrote from this iteration on.

        TensorFlow 2 has no function for it; TensorBoard drops what is before this event
        in its files and has its step, or a later one.
        """
        restart = event_pb2.Event(
            wall_time=time.time(),
            step=first_step,
            session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
        )
        with self.naming_the_events(), self.writer.as_default():
            # The first such event of a run is its beginning, and nothing is dropped.
            for _ in range(2):
                tf.raw_ops.ImportEvent(
                    writer=self.writer._resource, event=restart.SerializeToString()
                )

    def __enter__(self):
        return self

    def write(self, iteration):
        """Report an Iteration that has just ended."""
        secs = self.speed.tick()
        iteration = iteration._replace(
            secs=secs, secs_per_iter=self.speed.secs_per_iter
        )
        eta = format_eta(iteration, self.bar.total)
        self.bar.set_postfix_str(f'ETA: {eta}', refresh=False)
        self.bar.update()
        with self.open_events(iteration.step):
            for reporter in self.reporters:
                reporter.report(iteration)

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
        values = (scores.mAP, scores.top1)
        with self.open_events(step):
            write_scalars(dict(zip(VALIDATION_TAGS, values, strict=True)), step)

    def sync(self):
        """Let what was written survive a power loss, as a checkpoint does.

        Without it, curves and arrays could have a gap before the one that a run goes on
        from.
        """
        newest = list_events(self.directory)[-1:]
        files = [os.path.join(self.directory, name) for name in newest]
        for handler in self.logger.handlers:
            if isinstance(handler, common.LogFile):
                files.append(handler.baseFilename)
        for reporter in self.reporters:
            files += getattr(reporter, 'filenames', [])
        # Of a directory that is gone, the checkpoint tells.
        with self.naming_the_events(), contextlib.suppress(FileNotFoundError):
            for file in files:
                common.sync(file)

    @contextlib.contextmanager
    def open_events(self, step):
        """Let TensorBoard's default writer be this journal's, at a step."""
        with self.naming_the_events(), self.writer.as_default(np.int64(step)):
            yield

    def naming_the_events(self):
        """Return the context that says which files could not be written."""
        return common.writing(f"cannot write TensorBoard's events in {self.directory}")

    def __exit__(self, *_):
        self.bar.close()
        for reporter in self.reporters:
            if hasattr(reporter, 'close'):
                reporter.close()
        with self.naming_the_events():
            self.writer.close()


class SilentJournal(contextlib.nullcontext):
    """The journal of a process that leaves reporting to another one.

    Args:
        logger: of common.setup_logging, for answers to signals.
    """

    def __init__(self, logger):
        super().__init__()
        self.logger = logger

    def write(self, iteration):
        """Report nothing; see Journal."""

    def sync(self):
        """Wait for nothing."""
