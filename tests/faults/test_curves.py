"""TensorBoard's curves of a run that was killed."""

import pytest
from tensorboard.backend.event_processing import event_accumulator

import tiny_run

FAULTS = ('SIGKILL of train.py between checkpoints, seen in TensorBoard',)

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
    tiny_run.start(data, root, *more)
    for step in (3, 2):
        go_back(root, step)
        tiny_run.resume(root)
    assert len(list(root.glob('events.out.*'))) == 3
    events = event_accumulator.EventAccumulator(str(root))  # Purges by default.
    events.Reload()
    steps = {
        tag: [event.step for event in events.Scalars(tag)]
        for tag in events.Tags()['scalars']
    }
    assert 'loss' in steps
    assert set(map(tuple, steps.values())) == {(1, 2, 3, 4, 5)}
    reliability.add(
        fault=FAULTS[0],
        times=2,
        how='checkpoints after an iteration removed, and the run resumed',
        lost='iterations since the last checkpoint',
        seen='each iteration once',
    )
