"""The iterations of a run, one after another."""

import contextlib
import os
import signal
import threading
import time
import typing

import numpy as np
import tensorflow as tf

import common
from training import diagnosis, optimizers
from training.journal import Iteration


class Schedule(typing.NamedTuple):
    """What happens when in a run.

    Attributes:
        steps: range, from the number of updates made to that at the end of the run.
        learning_rate: an optimizers.LearningRate.
        checkpoint_frequency: iterations between checkpoints; 0: only the last one,
            which is written in any case, as when someone asks for a stop.
        validation_frequency: iterations between validations, likewise.
        is_overdue: whether the validation after the updates made is yet to come.
    """

    steps: range
    learning_rate: optimizers.LearningRate
    checkpoint_frequency: int = 0
    validation_frequency: int = 0
    is_overdue: bool = False

    def is_due(self, frequency, done):
        """Say whether what has this frequency is due after `done` updates."""
        is_in_turn = frequency > 0 and done % frequency == 0
        return is_in_turn or done == self.steps.stop


class StopRequest:
    """Context in which SIGINT, SIGTERM, SIGHUP ask for a stop; a second one stops now.

    Python's handlers wait until TensorFlow returns, perhaps for a minute. So a thread
    reads the signals from a pipe that they are written to as they come: it answers the
    first, and ends the process with the second.

    Args:
        logger: of common.setup_logging; it gets the answer.

    Attributes:
        is_made: whether someone has asked.
        work: what is being done, as a text; set it as it changes.
    """

    def __init__(self, logger):
        self.logger = logger
        self.is_made = False
        self.work = 'the iteration'

    def __enter__(self):
        self.pipe = os.pipe()
        os.set_blocking(self.pipe[1], False)  # Python insists.
        self.previous_fd = signal.set_wakeup_fd(self.pipe[1])
        # Without a handler a signal would end the process, or be written nowhere.
        self.previous = {
            number: signal.signal(number, self.note) for number in common.find_ending()
        }
        self.thread = threading.Thread(target=self.answer, daemon=True)
        self.thread.start()
        return self

    def note(self, *_):
        """Note the request, in case the thread has not yet."""
        self.is_made = True

    def answer(self):
        """Answer signals until the pipe is closed."""
        while number := os.read(self.pipe[0], 1):
            if number[0] not in common.ENDING:
                continue
            if self.is_told:
                end_at_once(number[0])
            self.is_told = self.is_made = True
            self.logger.info(
                f'finishing {self.work}, then a checkpoint; again to stop now'
            )

    # Whether the first signal has been answered.
    is_told = False

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self.previous_fd)
        os.close(self.pipe[1])
        self.thread.join()
        os.close(self.pipe[0])


def end_at_once(number):
    """End the process as a signal would, whatever its threads are doing."""
    message = 'stopped at once; --resume goes on from the last checkpoint'
    with contextlib.suppress(OSError):  # The terminal may be gone.
        os.write(2, f'\n{message}\n'.encode())
    common.log_last_words(message)
    os._exit(128 + number)


class Progress:
    """Context that saves what was learned if an error ends a run.

    An image that cannot be read, or a disk that is full, says nothing of the weights.
    What an update itself raises may have left half of one.

    Args:
        done: number of updates made before.
        state: a checkpoints.TrainingState.
        journal: a journal.Journal.

    Attributes:
        has_begun: whether an iteration has been reported, in this process or before;
            until then, an error leaves nothing.
    """

    def __init__(self, done, state, journal):
        self.done = done
        self.state = state
        self.journal = journal
        self.is_whole = True
        self.has_begun = done > 0

    @contextlib.contextmanager
    def updating(self, done):
        """Context in which an update is made, number `done` from 1."""
        self.is_whole = False
        yield
        self.done = done
        self.is_whole = True

    def __enter__(self):
        return self

    def __exit__(self, kind, error, *_):
        if kind is None or not issubclass(kind, Exception) or not self.is_whole:
            return
        if not (self.state.is_writer and self.has_begun):
            return
        if self.done == self.state.saved_step:
            return
        # Rather weights whose curves may have a gap than none.
        with contextlib.suppress(common.InputError):
            self.journal.sync()
        with contextlib.suppress(common.InputError):  # Of weights, or of a full disk.
            diagnosis.check_weights(self.state, self.done)
            self.state.save(self.done)
            self.journal.logger.info(
                f'the weights are sound, and saved: checkpoint-{self.done}. Mend what '
                'the error is about, and --resume goes on'
            )


class Supply:
    """Batches, each read before it is needed: an error is known an iteration ahead.

    With several processes, nobody begins an iteration that another cannot take part in:
    in the middle of it there would be no whole weights to save.

    Args:
        feed: iterator over batches.Batch.

    Attributes:
        failure: why the next batch cannot be read, an exception, or None.
    """

    def __init__(self, feed):
        self.feed = feed
        self.failure = None

    def read(self):
        """Read the next batch, or note why there is none."""
        started = time.perf_counter()
        try:
            self.batch = next(self.feed)
        except Exception as error:
            self.failure = error
        self.secs = time.perf_counter() - started

    def take(self):
        """Return the batch that was read, and for how long it was waited, seconds."""
        if self.failure is not None:
            raise self.failure
        return self.batch, self.secs


def train(schedule, feed, pid_codes, train_step, validator, journal, state, replicas):
    """Run the iterations; return the number of updates made by then.

    Args:
        schedule: a Schedule.
        feed: iterator over the batches.Batch of its steps.
        pid_codes: int64 [N], a number for the PID of each row of the data set.
        train_step: of step.make_train_step.
        validator: a validation.Validator, or None.
        journal: a journal.Journal.
        state: a checkpoints.TrainingState.
        replicas: of devices.connect.

    Raises:
        InputError: the loss or a weight is no longer finite, or an image cannot be
            read.
    """
    progress = Progress(schedule.steps.start, state, journal)
    with StopRequest(journal.logger) as stop, journal, progress:
        if schedule.is_overdue:
            stop.work = f'the validation, then iteration {schedule.steps.start + 1}'
            validator.validate(schedule.steps.start)
        done = schedule.steps.start  # If there is no iteration left.
        supply = Supply(feed)
        if schedule.steps:
            supply.read()
        for step in schedule.steps:
            stop.work = f'iteration {step + 1}'
            batch, secs_input = supply.take()
            images, pids = replicas.split(batch.images), pid_codes[batch.rows]

            learning_rate = schedule.learning_rate.at(step)
            done = step + 1
            with progress.updating(done):
                # Of Python's numbers, not of NumPy's, TensorFlow keeps each tensor for
                # ever.
                outcome = train_step(
                    images,
                    pids,
                    tf.constant(np.float32(learning_rate)),
                    tf.constant(np.int64(step)),
                )
                diagnosis.check_outcome(outcome, done, state)
            journal.write(
                Iteration(done, batch, pids, learning_rate, outcome, secs_input)
            )
            progress.has_begun = True

            is_at_end = done == schedule.steps.stop
            if not (is_at_end or stop.is_made):
                supply.read()
            is_stopped = replicas.any(stop.is_made or supply.failure is not None)
            is_stopped &= not is_at_end
            if is_stopped:
                replicas.end_together(supply.failure)
            if is_stopped or schedule.is_due(schedule.checkpoint_frequency, done):
                diagnosis.check_weights(state, done)
                journal.sync()
                state.save(done)
            if is_stopped:
                break
            if validator and schedule.is_due(schedule.validation_frequency, done):
                stop.work = f'the validation, then iteration {done + 1}'
                validator.validate(done)
    return done
