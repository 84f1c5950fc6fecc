"""What TensorBoard reads of a run: the values of its event files."""

from tensorboard.backend.event_processing import event_file_loader
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
