"""Rows of a data set to P x K batches of images.

Every batch is a pure function of (data set, seed, step): a run that was interrupted
goes on with exactly the images it would have seen.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import common
import images

# Independent random streams of one seed.
PID_STREAM, FID_STREAM, AUGMENT_STREAM, LOSS_STREAM = range(4)

# Independent random streams of an image's seed, beside those of flips and crops.
COLOR_STREAM, ERASING_STREAM = range(2)


class Augmentation(typing.NamedTuple):
    """How a training image comes about.

    Attributes:
        net_size: (height, width) that the net sees, pixels.
        pre_crop_size: (height, width) an image is resized to before it is cropped.
        flips: whether images are mirrored at random.
        crops: whether a random window is cut out; else images are resized to net_size.
        pad_crop: pixels by which an image is shifted at most; 0: not at all.
        color_jitter: strength of images.random_color; 0: none.
        random_erasing: probability that a rectangle is filled with noise.
    """

    net_size: tuple[int, int]
    pre_crop_size: tuple[int, int]
    flips: bool
    crops: bool
    pad_crop: int = 0
    color_jitter: float = 0.0
    random_erasing: float = 0.0


class Sampler:
    """Draws the rows of P x K batches.

    A pass over the data visits P * (num_pids // P) PIDs in random order, a new
    selection in a new order each time. Of a PID with n images, K are drawn from the
    shuffled ceil(K / n) copies of its images: none comes twice where n >= K.

    Args:
        pids: object array [N] of str.
        batch_p: PIDs per batch, P.
        batch_k: images per PID, K.
        seed: non-negative int.

    Raises:
        ValueError: there are fewer PIDs than P.
    """

    def __init__(self, pids: np.ndarray, batch_p: int, batch_k: int, seed: int) -> None:
        names, self.rows = common.group_rows(pids)
        if len(names) < batch_p:
            raise common.InputError(
                f'the data set has {len(names)} PIDs, fewer than --batch_p {batch_p}; '
                'choose a smaller --batch_p'
            )
        self.batch_p = batch_p
        self.batch_k = batch_k
        self.seed = seed
        self.batches_per_pass = len(names) // batch_p
        # A batch needs its pass's order of PIDs, the next batch mostly the same one.
        self.order_of_pass = functools.lru_cache(maxsize=2)(self.draw_order)

    def draw_order(self, number: int) -> np.ndarray:
        """Return all PIDs' codes [num_pids] in the random order of a pass."""
        rng = np.random.default_rng([self.seed, PID_STREAM, number])
        return rng.permutation(len(self.rows))

    def draw(self, step: int) -> np.ndarray:
        """Return the rows of batch `step`, int64 [P * K], images of a PID together."""
        number, position = divmod(step, self.batches_per_pass)
        first = position * self.batch_p
        codes = self.order_of_pass(number)[first : first + self.batch_p]  # [P]
        rng = np.random.default_rng([self.seed, FID_STREAM, step])
        return np.concatenate([self.draw_images(code, rng) for code in codes])

    def draw_images(self, code: int, rng: np.random.Generator) -> np.ndarray:
        """Return K rows of one PID, int64 [K]."""
        rows = self.rows[code]
        copies = -(-self.batch_k // len(rows))
        return rng.permutation(np.tile(rows, copies))[: self.batch_k]


def training_batches(
    sampler: Sampler,
    paths: Sequence[str],
    augmentation: Augmentation,
    first_step: int,
    last_step: int,
    loading_threads: int,
    cache: Any = None,
    part: slice = slice(None),
) -> tf.data.Dataset:
    """Return the training batches of the steps in [first_step, last_step).

    Args:
        sampler: a Sampler.
        paths: sequence [N] of str, the image files.
        augmentation: an Augmentation.
        first_step, last_step: numbers of the first batch and of the one after the
            last.
        loading_threads: images read at the same time.
        cache: an image_cache.ImageCache of these files, or None to read them. The
            batches are the same, bit for bit.
        part: slice of the batch, where other processes read the rest of it.

    Returns:
        tf.data.Dataset of (rows int64 [B], images float32 [B, H, W, 3] in 0..255), or
        of that part of them.
    """
    seed_of_images = seed_from(sampler.seed, AUGMENT_STREAM)
    all_paths = tf.constant(paths)  # [N]
    batch_size = sampler.batch_p * sampler.batch_k
    positions = np.arange(batch_size)[part]  # Of the part's images in their batch.

    def rows_of_steps() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for step in range(first_step, last_step):
            # Images of different batches have different numbers, hence other flips.
            yield sampler.draw(step)[part], step * batch_size + positions

    def load(row: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.stack([seed_of_images, number])
        image = images.decode(all_paths[row]) if cache is None else cache.read(row)
        return row, training_image(image, augmentation, seed)

    shape = tf.TensorSpec([len(positions)], tf.int64)
    dataset = tf.data.Dataset.from_generator(
        rows_of_steps, output_signature=(shape, shape)
    )
    dataset = dataset.unbatch().map(load, num_parallel_calls=loading_threads)
    return dataset.batch(len(positions), drop_remainder=True).prefetch(2)


def seed_from(seed: int, stream: int) -> np.int64:
    """Return an int64 that stands for a random stream of a seed of any size."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)
    return np.int64(state[0] >> np.uint64(1))


def training_image(
    image: tf.Tensor, augmentation: Augmentation, seed: tf.Tensor
) -> tf.Tensor:
    """Resize an image and vary its colours, flip, crop or shift, and erase, as asked.

    The same seed gives the same image, and what one of these draws does not depend on
    which of the others take place.

    Args:
        image: uint8 [H, W, 3], of images.decode.
        augmentation: an Augmentation.
        seed: int64 [2].

    Returns:
        float32 [H, W, 3] in 0..255.
    """
    size = augmentation.pre_crop_size if augmentation.crops else augmentation.net_size
    return augment(images.resize(image, *size), augmentation, seed)


def augment(image: tf.Tensor, augmentation: Augmentation, seed: tf.Tensor) -> tf.Tensor:
    """Do what training_image does after resizing.

    Args:
        image: float32 [H, W, 3] in 0..255, of the pre-crop size if there are crops,
            else of the net's.
        augmentation: an Augmentation.
        seed: int64 [2].

    Returns:
        float32 [H, W, 3] in 0..255, of the net's size.
    """
    crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
    if augmentation.color_jitter:
        color_seed = tf.random.fold_in(seed, COLOR_STREAM)
        image = images.random_color(image, augmentation.color_jitter, color_seed)
    if augmentation.flips:
        image = images.random_flip(image, flip_seed)
    if augmentation.crops:
        image = images.random_crop(image, *augmentation.net_size, crop_seed)
    if augmentation.pad_crop:
        image = images.random_pad_crop(image, augmentation.pad_crop, crop_seed)
    if augmentation.random_erasing:
        erasing_seed = tf.random.fold_in(seed, ERASING_STREAM)
        image = images.random_erasing(image, augmentation.random_erasing, erasing_seed)
    return image


def image_batches(
    paths: Sequence[str], size: tuple[int, int], batch_size: int, loading_threads: int
) -> tf.data.Dataset:
    """Return the images of a data set, in order.

    Args:
        paths: sequence [N] of str, the image files.
        size: (height, width), pixels.
        batch_size: images per batch, B; the last may have fewer.
        loading_threads: images read at the same time.

    Returns:
        tf.data.Dataset of float32 [B, height, width, 3] in 0..255.
    """
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(paths))
    dataset = dataset.map(
        lambda path: images.read_image(path, *size),
        num_parallel_calls=loading_threads,
    )
    return dataset.batch(batch_size).prefetch(2)


def next_batch(
    iterator: Iterator[Any], upcoming_paths: Callable[[], Sequence[str]]
) -> Any:
    """Return an iterator's next batch; an unreadable image is named.

    Args:
        iterator: over a data set of this module.
        upcoming_paths: function that returns the files of that batch, list of str.

    Raises:
        StopIteration: there is none.
        ValueError: one of its images cannot be read.
    """
    try:
        return next(iterator)
    except tf.errors.OpError as error:
        culprit = images.find_unreadable(upcoming_paths())
        if culprit is None:
            raise
        name, reason = culprit
        raise common.InputError(
            f'{name} is not a readable image ({reason}); replace it, or remove its '
            'line from the CSV'
        ) from error
