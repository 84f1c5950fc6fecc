"""Signals that ask train.py to end: once, and again, wherever it is."""

import os
import signal
import time
import typing

import doomed
import pytest
import stories

FAULTS = (
    'SIGINT, SIGTERM or SIGHUP to train.py at start-up',
    'SIGINT, SIGTERM or SIGHUP to train.py in its first store',
    'SIGINT, SIGTERM or SIGHUP to train.py in a step',
    'SIGINT, SIGTERM or SIGHUP to train.py in a checkpoint',
    'SIGINT, SIGTERM or SIGHUP to train.py in a validation',
    'two signals to train.py at start-up',
    'two signals to train.py in its first store',
    'two signals to train.py in a step',
    'two signals to train.py in a checkpoint',
    'two signals to train.py in a validation',
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NUM_STEPS = 4

# Seconds that a second signal may take.
MOST_SECS = 2


class Phase(typing.NamedTuple):
    """What a run does when a signal comes.

    Attributes:
        place, nth: see doomed.Pause.
        last: the iteration that it stops after; 0: it is given up, with no file left.
    """

    place: str
    nth: int
    last: int


PHASES = (
    Phase('train:build_learner', 1, last=0),
    Phase('checkpoints:TrainingState.save', 1, last=0),
    Phase('training.diagnosis:check_outcome', 1, last=1),
    # The stop was not asked for when iteration 1 ended.
    Phase('checkpoints:TrainingState.save', 2, last=2),
    Phase('training.validation:Validator.validate', 1, last=2),
)
QUICK = PHASES[2]  # Of the quick selection.


@pytest.fixture
def signals(every_fault):
    """Return the signals that are sent: all, or one."""
    return SIGNALS if every_fault else (signal.SIGTERM,)


@pytest.fixture(scope='module')
def story(data, tmp_path_factory):
    """Return the stories.Story of a run of NUM_STEPS."""
    directory = tmp_path_factory.mktemp('signals').resolve()
    argv = stories.train_flags(data, directory / 'exp', NUM_STEPS)
    return stories.tell('train.py', 'train', argv, directory / 'exp', directory)


def for_each_phase(first):
    """Return the mark of a test of each phase; its faults begin at FAULTS[first]."""
    faults = FAULTS[first : first + len(PHASES)]
    rows = [
        pytest.param(
            phase,
            fault,
            marks=() if phase is QUICK else pytest.mark.slow_fault(fault),
            id=fault,
        )
        for phase, fault in zip(PHASES, faults, strict=True)
    ]
    return pytest.mark.parametrize('phase, fault', rows)


def start_until(story, phase, directory, secs):
    """Start a run and wait until it has come to a Phase; return the process.

    Args:
        story: of the run.
        phase: a Phase.
        directory: pathlib.Path where `said` will be, what the run says.
        secs: that it waits there.
    """
    stories.restart(story)
    # Before the iterations nothing takes long, and Python sees signals.
    pause = doomed.Pause(
        phase.place, phase.nth, directory / 'ready', secs if phase.last else None
    )
    return doomed.start_until(pause, 'train', story.argv, directory / 'said')


@for_each_phase(0)
def test_signal_ends_a_run_in_order(
    story, phase, fault, signals, tmp_path, reliability
):
    faults = []
    for number in signals:
        process = start_until(story, phase, tmp_path, secs=1)
        os.kill(process.pid, number)
        process.join(120)
        said = (tmp_path / 'said').read_text()
        if phase.last:
            code, last = 0, f'checkpoint-{phase.last}.index'
            assert f'stopped after iteration {phase.last}' in said, said
            assert (story.root / last).exists(), said
        else:
            code = 128 + number
            how = (
                'interrupted' if number == signal.SIGINT else f'ended by {number.name}'
            )
            assert said.splitlines()[-1] == f'train.py: {how}'
            assert not story.root.exists()
        assert process.exitcode == code, said
        faults += [f'{number.name}: {one}' for one in stories.find_fault(story)]
    assert not faults, '\n'.join(faults)
    reliability.add(
        fault=fault,
        times=len(signals),
        how='kill',
        lost='nothing' if phase.last else 'nothing: there is nothing yet, and no files',
        seen='finishing what it does, then a checkpoint; exit code 0'
        if phase.last
        else 'train.py: interrupted, or: ended by SIGTERM; exit code 128 + signal',
    )


@for_each_phase(len(PHASES))
def test_second_signal_ends_a_run_at_once(
    story, phase, fault, signals, tmp_path, reliability
):
    faults = []
    for number in signals:
        process = start_until(story, phase, tmp_path, secs=60)
        os.kill(process.pid, number)
        if phase.last:
            while 'again to stop now' not in (tmp_path / 'said').read_text():
                time.sleep(0.01)
        started = time.monotonic()
        os.kill(process.pid, number)
        process.join(60)
        assert time.monotonic() - started < MOST_SECS
        # As the shell counts it, also if the signal itself has ended the process.
        assert process.exitcode in (128 + number, -number)
        faults += [f'{number.name}: {one}' for one in stories.find_fault(story)]
    assert not faults, '\n'.join(faults)
    reliability.add(
        fault=fault,
        times=len(signals),
        how='kill, while TensorFlow would not return for a minute'
        if phase.last
        else 'kill, one at the heels of the other',
        lost='iterations since the last checkpoint; made again, the same tensors'
        if phase.last
        else 'nothing',
        seen=f'it ends within {MOST_SECS} s; exit code 128 + signal',
    )
