"""Rows of a data set to P x K batches of images.

Every batch is a pure function of (data set, seed, step): a run that was interrupted
goes on with exactly the images it would have seen.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import os
import typing
from collections.abc import (
    Callable,
    Container,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any

import numpy as np
import tensorflow as tf

import common
import datasets
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

    Attributes:
        rows: list of int64 arrays, the rows of each PID.
        pid_codes: int64 [N], the number of each row's PID in that list.

    Raises:
        InputError: there are fewer PIDs than P.
    """

    def __init__(self, pids: np.ndarray, batch_p: int, batch_k: int, seed: int) -> None:
        self.pid_codes = datasets.number_pids(pids)
        self.rows = datasets.split_rows(self.pid_codes)
        if len(self.rows) < batch_p:
            raise common.InputError(
                f'the data set has {len(self.rows)} PIDs, fewer than --batch_p '
                f'{batch_p}; choose a smaller --batch_p'
            )
        self.batch_p = batch_p
        self.batch_k = batch_k
        self.batch_size = batch_p * batch_k
        self.seed = seed
        self.batches_per_pass = len(self.rows) // batch_p
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


class Batch(typing.NamedTuple):
    """Images of a training batch.

    Attributes:
        rows: int64 [B], of the data set; the whole batch's.
        images: float32 [B, H, W, 3] in 0..255, or the part of them that was asked for.
    """

    rows: np.ndarray
    images: tf.Tensor


class TrainingBatches:
    """Iterator over the training batches of some steps, each a Batch.

    Args:
        sampler: a Sampler.
        paths: sequence [N] of str, the image files.
        augmentation: an Augmentation.
        steps: range, the numbers of the batches.
        loading_threads: images read at the same time.
        cache: an image_cache.ImageCache of these files, or None to read them. The
            batches are the same, bit for bit.
        part: slice of the batch, where other processes read the rest of it.
    """

    def __init__(
        self,
        sampler: Sampler,
        paths: Sequence[str],
        augmentation: Augmentation,
        steps: range,
        loading_threads: int,
        cache: Any = None,
        part: slice = slice(None),
    ) -> None:
        self.paths = paths
        self.part = part
        self.drawn: collections.deque = (
            collections.deque()
        )  # Rows of the batches that are on their way.
        seed_of_images = seed_from(sampler.seed, AUGMENT_STREAM)
        all_paths = tf.constant(paths)  # [N]

        def load(row: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
            seed = tf.stack([seed_of_images, number])
            image = images.decode(all_paths[row]) if cache is None else cache.read(row)
            return training_image(image, augmentation, seed)

        part_size = len(range(sampler.batch_size)[part])
        shape = tf.TensorSpec([part_size], tf.int64)
        # It must not hold this object, which holds the iterator: in such a circle the
        # iterator would live until Python ends, and its threads keep it from ending.
        dataset = tf.data.Dataset.from_generator(
            functools.partial(draw_batches, sampler, steps, part, self.drawn),
            output_signature=(shape, shape),
        )
        dataset = dataset.unbatch().map(
            images.unconverted(load), num_parallel_calls=loading_threads
        )
        self.images = iter(dataset.batch(part_size, drop_remainder=True).prefetch(2))

    def __iter__(self) -> TrainingBatches:
        return self

    def __next__(self) -> Batch:
        """Return the Batch of the next step.

        Raises:
            StopIteration: there is none.
            InputError: one of its images cannot be read; it is named.
        """
        try:
            batch_images = next(self.images)
        except tf.errors.OpError as error:
            refuse_unreadable(
                [self.paths[row] for row in self.drawn[0][self.part]], error
            )
            raise
        return Batch(self.drawn.popleft(), batch_images)


def draw_batches(
    sampler: Sampler, steps: range, part: slice, drawn: collections.deque
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows, numbers) of the part of every batch; numbers tell images apart.

    Images of different batches have different numbers, hence other flips.

    Args:
        sampler: a Sampler.
        steps: range, the numbers of the batches.
        part: slice of each batch.
        drawn: gets the rows of the whole batches.
    """
    for step in steps:
        rows = sampler.draw(step)
        drawn.append(rows)
        numbers = step * sampler.batch_size + np.arange(sampler.batch_size)
        yield rows[part], numbers[part]


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
    paths: Sequence[str],
    size: tuple[int, int],
    batch_size: int,
    loading_threads: int,
    skip: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[Sequence[int], tf.Tensor]]:
    """Yield the images of a data set, in order.

    Args:
        paths: sequence [N] of str, the image files.
        size: (height, width), pixels.
        batch_size: images per batch, B; the last may have fewer.
        loading_threads: images read at the same time.
        skip: function of the position and the reason of an image that cannot be read;
            its batch has one image less, and the others stay where they are. None:
            such an image is an error.

    Yields:
        (rows, images): positions in `paths`, and float32 [B, height, width, 3] in
        0..255.

    Raises:
        InputError: one of the images cannot be read; it is named.
    """
    # Reading a pipe might never end.
    missing = set() if skip is None else set(datasets.find_missing(paths, ''))
    files = [path for path in paths if path not in missing] if missing else paths
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(files, tf.string))
    dataset = dataset.map(
        images.unconverted(lambda path: images.read_image(path, *size)),
        num_parallel_calls=loading_threads,
    )
    if skip is not None:
        yield from readable_batches(paths, missing, iter(dataset), batch_size, skip)
        return
    iterator = iter(dataset.batch(batch_size).prefetch(2))
    for first in range(0, len(paths), batch_size):
        rows = range(first, min(first + batch_size, len(paths)))
        try:
            batch = next(iterator)
        except tf.errors.OpError as error:
            refuse_unreadable([paths[row] for row in rows], error)
            raise
        yield rows, batch


def readable_batches(
    paths: Sequence[str],
    missing: Container[str],
    iterator: Iterator[tf.Tensor],
    batch_size: int,
    skip: Callable[[int, str], None],
) -> Iterator[tuple[list[int], tf.Tensor]]:
    """Yield the batches of image_batches without what cannot be read.

    Args:
        paths, batch_size, skip: see image_batches.
        missing: those that are no files.
        iterator: of the other images, one by one; after an error it goes on with the
            next.
    """
    for first in range(0, len(paths), batch_size):
        rows, batch = [], []
        for row in range(first, min(first + batch_size, len(paths))):
            if paths[row] in missing:
                skip(row, images.describe_missing(paths[row]))
                continue
            try:
                batch.append(next(iterator))
            except tf.errors.OpError:
                culprit = images.find_unreadable([paths[row]])
                if culprit is None:  # The fault is not the image's.
                    raise
                skip(row, culprit[1])
            else:
                rows.append(row)
        if rows:
            yield rows, tf.stack(batch)


def mixed_batches(
    items: Iterable[Any], size: tuple[int, int], batch_size: int, loading_threads: int
) -> Iterator[tuple[range, tf.Tensor]]:
    """Yield images of any kind as image_batches does; few are held at a time.

    Args:
        items: iterable of images, each a path, the bytes of an image file, or a uint8
            array [H, W, 3], RGB.
        size, batch_size, loading_threads: see image_batches.

    Raises:
        InputError: one of them is something else, or cannot be read; it is named.
    """
    decode = compile_decoder(*size)

    def prepare(numbered: tuple[int, Any]) -> tf.Tensor:
        number, item = numbered
        if is_content(item):
            try:
                return decode(bytes(item))
            except tf.errors.OpError as error:
                raise common.InputError(
                    f'image {number} is not readable ({len(item)} bytes); expected the '
                    'content of an image file'
                ) from error
        if is_path(item):
            path = os.fspath(item)
            if not os.path.isfile(path):  # Reading a pipe might never end.
                refuse_unreadable([path])
            try:
                return decode(tf.io.read_file(path))
            except tf.errors.OpError as error:
                refuse_unreadable([path], error)
                raise
        return images.resize(check_pixels(item, number), *size)

    ahead = read_ahead(prepare, enumerate(items), loading_threads, 2 * batch_size)
    with contextlib.closing(ahead) as futures:
        first, batch = 0, []
        for future in futures:
            batch.append(future.result())
            if len(batch) == batch_size:
                yield range(first, first + batch_size), tf.stack(batch)
                first, batch = first + batch_size, []
        if batch:
            yield range(first, first + len(batch)), tf.stack(batch)


@functools.cache  # Compiling takes a tenth of a second, an image a thousandth.
def compile_decoder(height: int, width: int) -> Callable[[Any], tf.Tensor]:
    """Return a function of an image file's content to float32 [height, width, 3]."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    def decode(content: tf.Tensor) -> tf.Tensor:
        return images.resize(images.decode_content(content), height, width)

    return decode


def is_path(item: Any) -> bool:
    """Say whether an image is given as a path."""
    return isinstance(item, (str, os.PathLike))


def is_content(item: Any) -> bool:
    """Say whether an image is given as the bytes of its file."""
    return isinstance(item, (bytes, bytearray, memoryview))


def check_pixels(item: Any, number: int) -> np.ndarray:
    """Return an image given as an array, uint8 [H, W, 3], or raise InputError.

    Args:
        item: what should be one.
        number: its position, for the message.
    """
    array = np.asarray(item)
    is_image = array.ndim == 3 and array.shape[2] == 3 and array.size > 0
    if array.dtype != np.uint8 or not is_image:
        found = type(item).__name__
        if array.dtype != object:
            found += f' of shape {list(array.shape)} and type {array.dtype}'
        raise common.InputError(
            f'image {number} is a {found}; expected a path, the bytes of an image '
            'file, or uint8 [H, W, 3] in RGB'
        )
    return array


def read_ahead(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    num_threads: int,
    num_ahead: int,
) -> Generator[concurrent.futures.Future]:
    """Yield the Future of function(item) for every item, in order.

    Args:
        function: is called in threads.
        items: any number of them.
        num_threads: calls at the same time.
        num_ahead: calls before their results are asked for, at most.
    """
    upcoming: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                upcoming.append(pool.submit(function, item))
                if len(upcoming) > num_ahead:
                    yield upcoming.popleft()
            while upcoming:
                yield upcoming.popleft()
        finally:
            for future in upcoming:
                future.cancel()


def refuse_unreadable(paths: Sequence[str], error: Exception | None = None) -> None:
    """Raise an InputError that names the first unreadable file, if there is one.

    Args:
        paths: list of str, image files.
        error: what TensorFlow raised when it read them, if it did.
    """
    culprit = images.find_unreadable(paths)
    if culprit is not None:
        name, reason = culprit
        raise common.InputError(
            f'{name} is not a readable image ({reason}); replace it, or leave it out '
            'of the data set'
        ) from error
