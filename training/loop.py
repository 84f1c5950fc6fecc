"""The iterations of a run, one after another."""

import signal
import time
import typing

import tensorflow as tf

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
    """

    steps: range
    learning_rate: optimizers.LearningRate
    checkpoint_frequency: int = 0
    validation_frequency: int = 0

    def is_due(self, frequency, done):
        """Say whether what has this frequency is due after `done` updates."""
        is_in_turn = frequency > 0 and done % frequency == 0
        return is_in_turn or done == self.steps.stop


class StopRequest:
    """Context in which SIGINT and SIGTERM ask for a stop; a second one stops at once.

    Its `is_made` says whether someone asked.
    """

    def __enter__(self):
        self.is_made = False
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.previous = {number: signal.signal(number, self.ask) for number in numbers}
        return self

    def ask(self, *_):
        """Note the request, and let the next signal do what it did before."""
        self.is_made = True
        self.restore()

    def restore(self, *_):
        """Reinstall the handlers that were there before."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    __exit__ = restore


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
    with StopRequest() as stop, journal:
        for step in schedule.steps:
            started = time.perf_counter()
            batch = next(feed)
            images, pids = replicas.split(batch.images), pid_codes[batch.rows]
            secs_input = time.perf_counter() - started

            learning_rate = schedule.learning_rate.at(step)
            outcome = train_step(
                images, pids, tf.constant(learning_rate), tf.constant(step, tf.int64)
            )
            done = step + 1
            diagnosis.check_outcome(outcome, done, state)
            journal.write(
                Iteration(done, batch, pids, learning_rate, outcome, secs_input)
            )

            is_at_end = done == schedule.steps.stop
            is_stopped = replicas.any(stop.is_made) and not is_at_end
            if is_stopped or schedule.is_due(schedule.checkpoint_frequency, done):
                diagnosis.check_weights(state, done)
                state.save(done)
            if is_stopped:
                break
            if validator and schedule.is_due(schedule.validation_frequency, done):
                validator.validate(done)
    return done
