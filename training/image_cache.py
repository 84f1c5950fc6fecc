"""Decoded images of a data set, kept in memory: what train.py's --cache is."""

import mmap

import numpy as np
import tensorflow as tf

import batches
import common
import images
from common import free_memory

# Images that tell beforehand how much memory all of them will take.
NUM_SAMPLED = 100

# What a data set of unknown size may take: its estimate this often, and some more.
SLACK, SLACK_BYTES = 2, 2**26


class ImageCache:
    """The images of files, decoded but not resized, one after the other in memory.

    What is read from it is bit for bit what images.decode returns.

    Args:
        paths: sequence [N] of str, the image files.
        loading_threads: images read at the same time.

    Raises:
        ValueError: they do not fit into the free memory, or one cannot be read.
    """

    def __init__(self, paths, loading_threads):
        estimate = check_fits(paths)
        free = free_memory()
        # Pages of this array that are never written to take no memory.
        capacity = SLACK * estimate + SLACK_BYTES if free is None else free
        pixels = np.frombuffer(mmap.mmap(-1, capacity), np.uint8)
        dataset = tf.data.Dataset.from_tensor_slices(tf.constant(paths))
        dataset = dataset.map(
            images.unconverted(images.decode), num_parallel_calls=loading_threads
        )
        iterator = iter(dataset.prefetch(2 * loading_threads))
        shapes, starts, end = [], [], 0
        for path in paths:
            image = read_next(iterator, path).numpy()
            start, end = end, end + image.size
            if end > capacity:
                raise too_large(len(paths), end, capacity)
            pixels[start:end] = image.ravel()
            starts.append(start)
            shapes.append(image.shape)
        self.num_bytes = end
        # By way of DLPack, because tf.constant would copy.
        self.pixels = tf.experimental.dlpack.from_dlpack(pixels[:end].__dlpack__())
        self.starts = tf.constant(starts, tf.int64)  # [N]
        self.shapes = tf.constant(shapes, tf.int64)  # [N, 3]

    def read(self, row):
        """Return the image of a row (int64 tensor), uint8 [H, W, 3]."""
        shape = self.shapes[row]
        size = tf.reduce_prod(shape)
        return tf.reshape(tf.slice(self.pixels, [self.starts[row]], [size]), shape)


def check_fits(paths):
    """Return about how many bytes decoded images take.

    Raises:
        ValueError: that is more than the free memory, or an image cannot be read.
    """
    estimate = estimate_bytes(paths)
    free = free_memory()
    if free is not None and estimate > free:
        raise too_large(len(paths), estimate, free)
    return estimate


def estimate_bytes(paths):
    """Return how many bytes decoded images take, judged by some of them.

    Raises:
        ValueError: one of those cannot be read.
    """
    rows = np.linspace(0, len(paths) - 1, min(NUM_SAMPLED, len(paths))).astype(int)
    sampled = [paths[row] for row in rows]
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(sampled))
    iterator = iter(dataset.map(images.unconverted(images.decode)))
    sizes = [int(tf.size(read_next(iterator, path))) for path in sampled]
    return round(np.mean(sizes) * len(paths))


def read_next(iterator, path):
    """Return the next image of an iterator; if it cannot be read, `path` is named."""
    try:
        return next(iterator)
    except tf.errors.OpError as error:
        batches.refuse_unreadable([path], error)
        raise


def too_large(num_images, expected, free):
    """Return the ValueError about images that do not fit."""
    return common.InputError(
        f'--cache: {num_images} decoded images need {expected / 1e9:.1f} GB or more, '
        f'{free / 1e9:.1f} GB of memory are free; leave --cache out'
    )
