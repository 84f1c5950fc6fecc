"""TensorBoard's curves of a run that was killed."""

import os
import signal
import typing

import doomed
import pytest
import stories

import tiny_run
from event_files import read_steps
from run_files import log_of

FAULTS = ('SIGKILL of train.py between checkpoints, seen in TensorBoard',)
NUM_STEPS = 4

pytestmark = pytest.mark.usefixtures('one_block_net')


def go_back(root, step):
    """Make a run what a kill would have left whose newest checkpoint is `step`."""
    for path in root.glob('checkpoint-*'):
        if int(path.name.split('-')[1].split('.')[0]) > step:
            path.unlink()
    (root / 'checkpoint').write_text(f'model_checkpoint_path: "checkpoint-{step}"\n')


def test_each_iteration_is_once_in_the_curves_of_a_killed_run(
    data, tmp_path, reliability
):
    root = tmp_path / 'exp'
    more = ('--train_iterations', '5', '--checkpoint_frequency', '1')
    tiny_run.start(data, root, *more, '--histogram_frequency', '1')
    last_steps = (0, 3, 2)
    for step in last_steps:
        go_back(root, step)
        tiny_run.resume(root)
    assert len(list(root.glob('events.out.*'))) == 4
    steps = read_steps(root)
    assert {'loss', 'embedding_dists'} <= steps.keys()
    assert set(map(tuple, steps.values())) == {(1, 2, 3, 4, 5)}
    reliability.add(
        fault=FAULTS[0],
        times=len(last_steps),
        how='checkpoints after an iteration removed, and the run resumed',
        lost='iterations since the last checkpoint',
        seen='each iteration once',
    )


class Moment(typing.NamedTuple):
    """When a run is killed.

    Attributes:
        place, nth: see doomed.Pause.
        what: the fault, in words.
    """

    place: str
    nth: int
    what: str


MOMENTS = (
    Moment('checkpoints:TrainingState.save', 2, 'before the first checkpoint'),
    Moment('checkpoints:TrainingState.save', 3, 'before a checkpoint'),
    Moment('training.validation:Validator.validate', 2, 'after a checkpoint'),
    Moment('checkpoints:TrainingState.save_best', 2, 'before a record of validation'),
    Moment('training.journal:Journal.write_validation', 2, 'after that record'),
    Moment('training.journal:write_scalars', 4, 'after the line on validation'),
    Moment('training.journal:Journal.write', 3, 'after a validation'),
)
QUICK = {'after that record'}


@pytest.mark.parametrize(
    'moment',
    [
        pytest.param(
            moment,
            id=moment.what,
            marks=() if moment.what in QUICK else pytest.mark.slow_fault(FAULTS[0]),
        )
        for moment in MOMENTS
    ],
)
def test_each_iteration_and_validation_is_once_in_the_curves(
    data, tmp_path, moment, reliability
):
    root = tmp_path.resolve() / 'exp'
    pause = doomed.Pause(moment.place, moment.nth, tmp_path / 'ready')
    flags = stories.train_flags(data, root, NUM_STEPS)
    process = doomed.start_until(pause, 'train', flags, tmp_path / 'said')
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    killed = read_steps(root)
    assert max(killed['loss']) < NUM_STEPS
    resumed = doomed.run('train', stories.resume_flags(root))
    assert resumed.code == 0, resumed.said
    steps = {tag: s for tag, s in read_steps(root).items() if not is_histogram(tag)}
    assert {'loss', 'val/mAP', 'val/top1'} <= steps.keys()
    assert set(map(tuple, steps.values())) == {(1, 2, 3, 4)}
    for step in range(1, NUM_STEPS + 1):
        assert f'validation after iteration {step}: ' in log_of(root)
    reliability.add(
        fault=FAULTS[0],
        times=1,
        how=f'{moment.what}, and the run resumed',
        lost='iterations since the last checkpoint',
        seen='each iteration once, and each validation',
    )


def is_histogram(tag):
    """Say whether a tag is not that of a curve with a point for every iteration."""
    return tag.startswith(('embedding_', 'loss_'))
