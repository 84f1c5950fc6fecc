"""What both sides of bench.embed_speed are asked, and how they answer."""

import time
import typing

from bench import _sides


class Task(typing.NamedTuple):
    """A pass over image files.

    Attributes:
        names: list [N] of str, the files.
        filename: where the embeddings go.
        net_size: [height, width] that the net sees, pixels.
        image_size: [height, width] that images are resized to, pixels.
        precision: 'float32' or 'bfloat16'.
        is_tenfold: whether ten crops are embedded; else the image, of net_size.
        embedding_dim: D.
        batch_size: images per pass through the net.
        loading_threads: images read at the same time.
    """

    names: list
    filename: str
    net_size: list
    image_size: list
    precision: str
    is_tenfold: bool
    embedding_dim: int
    batch_size: int
    loading_threads: int


def serve(build, embed, product_rate):
    """Answer tasks, which differ from each other in nothing but their files.

    Args:
        build: function of the first Task that returns a net.
        embed: function of a net and a Task that reads, embeds and writes; it alone is
            timed.
        product_rate: function of a precision, see _yardsticks.product_rate.
    """
    net = None

    def measure(**values):
        nonlocal net
        task = Task(**values)
        if net is None:
            net = build(task)
        start, cpu_start = time.perf_counter(), time.process_time()
        embed(net, task)
        return {
            'secs': time.perf_counter() - start,
            'cpu_secs': time.process_time() - cpu_start,
            'product_rate': product_rate(task.precision),
        }

    _sides.serve(measure)
