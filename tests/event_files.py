"""What TensorBoard reads of a run: the values of its event files."""

from tensorboard.backend.event_processing import (
    event_accumulator,
    event_file_loader,
    plugin_event_accumulator,
)
from tensorboard.util import tensor_util


def read_events(root):
    """Return {(tag, step): array} of the one event file in a directory.

    A scalar is of shape [], a histogram [buckets, 3]: left end, right end, count.
    Whether a value was written as a tensor or in TensorFlow 1's form, TensorBoard's own
    loader makes it a tensor.
    """
    (event_file,) = root.glob('events.out.tfevents.*')
    return {
        (value.tag, event.step): tensor_util.make_ndarray(value.tensor)
        for event in event_file_loader.EventFileLoader(str(event_file)).Load()
        for value in event.summary.value
    }


def read_steps(root):
    """Return {tag: steps of its points} of a run's curves, as TensorBoard shows them.

    TensorBoard itself reads with the second of its two readers, others with the first:
    what a restart drops differs.
    """
    old = event_accumulator.EventAccumulator(str(root))
    new = plugin_event_accumulator.EventAccumulator(str(root))
    for events in (old, new):  # They drop by default.
        events.Reload()
    steps = {
        tag: [event.step for event in new.Tensors(tag)] for tag in new.Tags()['tensors']
    }
    for tag in old.Tags()['scalars']:
        assert [event.step for event in old.Scalars(tag)] == steps[tag], tag
    return steps
