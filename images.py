"""Image files to tensors; how they are varied, in training and at test time."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import common

# Imported at first use: the names of crops are choices of a flag.
if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = common.lazy_import('tensorflow')

# What embed.py's --crop_augment makes of one image, in the order of the original.
CROP_CHOICES = ('center', 'avgpool', 'five')
FIVE_CROPS = ('center', 'top_left', 'top_right', 'bottom_left', 'bottom_right')

# How the files end that `decode` can read. All else (Thumbs.db, readme.txt) is none.
SUFFIXES = (
    *('.bmp', '.gif', '.jfif', '.jpe', '.jpeg', '.jpg', '.jxl', '.png', '.webp'),
)

# The rectangles of random erasing: share of the image's area, height over width.
ERASED_AREAS = (0.02, 0.4)
ERASED_ASPECTS = (0.3, 1 / 0.3)

# Rectangles that random erasing tries. Three of ten fit (0.28 into a square, 0.30 into
# 256x128), so that all of these fail once in 10**14 images.
ERASING_TRIES = 100

# Unreadable images that an error names; each has a line of its own besides.
MOST_NAMED = 10

# Images that check_all decodes at a time, between two looks at what libjpeg said.
CHECKED_AT_ONCE = 256

# Where a BMP says where its pixels are, the size of its second header (the palette
# follows it), bits per pixel, and their packing; of packing 3, three masks follow.
BMP_PIXELS, BMP_HEADER, BMP_BITS, BMP_PACKING, BMP_MASKS = 10, 14, 28, 30, 54

# Of the usual order in a pixel: blue, green, red, unused.
BGR_MASKS = bytes.fromhex('0000ff00 00ff0000 ff000000')

# The tag in EXIF that says how an image is to be turned; 1: not at all.
EXIF_ORIENTATION = 0x0112


def is_image_name(name: str) -> bool:
    """Say whether a file name is an image's; hidden files (`._x.jpg`) are not."""
    return name.lower().endswith(SUFFIXES) and not name.startswith('.')


def unconverted(function: Callable) -> Callable:
    """Return a function for tf.data's `map` that is traced as it stands.

    TensorFlow would rewrite it first (AutoGraph), and all that it calls. That takes
    seconds at each start, for Python's `if` and `for` over tensors: we have none.
    """
    return tf.autograph.experimental.do_not_convert(function)


def read_image(filename: str | tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Read and resize one image file.

    The resize is TensorFlow 1's bilinear one (source row = target row * in / out, no
    antialiasing), which published weights expect, and JPEGs are decoded with
    TensorFlow's default method for the same reason.

    Args:
        filename: string tensor; JPEG, PNG, BMP (of 8, 24 or 32 bits), GIF (the first
            frame), and WebP or JPEG XL in RGB; grey and palettes become RGB, alpha is
            dropped, 16 bits become 8, and a rotation in EXIF is ignored.
        height, width: of the result, pixels.

    Returns:
        float32 [height, width, 3], RGB in 0..255.

    Raises:
        tf.errors.NotFoundError, tf.errors.InvalidArgumentError: no such file, or not
            a readable image; find_unreadable says which.
    """
    return resize(decode(filename), height, width)


def decode(filename: str | tf.Tensor) -> tf.Tensor:
    """Read one image file as read_image does, uint8 [H, W, 3], in its own size."""
    return decode_content(tf.io.read_file(filename))


def decode_content(content: bytes | tf.Tensor) -> tf.Tensor:
    """Decode what an image file holds, a string tensor, as `decode` does."""
    # Unlike decode_jpeg it takes BMP; of an animation, the first frame.
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    is_bmp = tf.strings.substr(content, 0, 2) == b'BM'
    colours = tf.cond(is_bmp, lambda: apply_palette(content, image), lambda: image)
    return tf.ensure_shape(colours, (None, None, 3))


def apply_palette(content: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Return the colours of a BMP, of which TensorFlow takes indices for greys.

    Args:
        content: string tensor, the file.
        image: uint8 [H, W, 3], of tf.io.decode_image.

    Raises:
        tf.errors.InvalidArgumentError: its pixels are packed in a way that TensorFlow
            takes for another one, without a word.
    """

    def number(start: int, dtype: tf.DType) -> tf.Tensor:
        text = tf.strings.substr(content, start, dtype.size)
        return tf.cast(tf.io.decode_raw(text, dtype)[0], tf.int32)

    header, bits = number(BMP_HEADER, tf.int32), number(BMP_BITS, tf.uint16)
    packing = number(BMP_PACKING, tf.int32)
    masks = tf.strings.substr(content, BMP_MASKS, len(BGR_MASKS))
    is_usual = (packing == 3) & (bits == 32) & (masks == BGR_MASKS)
    tf.debugging.Assert((packing == 0) | is_usual, ['a BMP of a rare kind'])

    def look_up() -> tf.Tensor:
        start = BMP_HEADER + header
        size = (number(BMP_PIXELS, tf.int32) - start) // 4 * 4
        entries = tf.io.decode_raw(tf.strings.substr(content, start, size), tf.uint8)
        palette = tf.reshape(entries, (-1, 4))[:, 2::-1]  # Blue, green, red, unused.
        return tf.gather(palette, tf.cast(image[:, :, 0], tf.int32))

    return tf.cond(bits == 8, look_up, lambda: image)


def resize(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resize what decode returns as read_image does, float32 [height, width, 3]."""
    resized = tf.raw_ops.ResizeBilinear(
        images=image[None],
        size=[height, width],
        align_corners=False,
        half_pixel_centers=False,
    )
    return tf.ensure_shape(resized[0], (height, width, 3))


def find_unreadable(filenames: Iterable[str]) -> tuple[str, str] | None:
    """Return the first file that read_image cannot read, and why; else None.

    Args:
        filenames: iterable of str.

    Returns:
        (filename, reason), both str, or None.
    """
    for filename in filenames:
        if not os.path.isfile(filename):  # Reading a pipe might never end.
            return filename, describe_missing(filename)
        if os.path.getsize(filename) == 0:
            return filename, 'the file is empty'
        # libjpeg complains on stderr as well, in words of its own.
        with common.silent_stderr():
            try:
                read_image(filename, 1, 1)
            except tf.errors.OpError as error:
                reason = describe_bmp(filename) or common.tensorflow_reason(error)
                return filename, reason
    return None


def describe_missing(filename: str) -> str:
    """Return why a file is none."""
    is_there = os.path.lexists(filename)
    return 'it is no file' if is_there else 'the file does not exist'


def describe_bmp(filename: str) -> str | None:
    """Return why a BMP of a rare kind is not read, and what to do; else None."""
    with open(filename, 'rb') as file:
        start = file.read(BMP_MASKS)
    if start[:2] != b'BM' or len(start) < BMP_MASKS:
        return None
    bits = int.from_bytes(start[BMP_BITS:BMP_PACKING], 'little')
    packing = int.from_bytes(start[BMP_PACKING : BMP_PACKING + 4], 'little')
    is_old = start[BMP_HEADER] < 40
    if not is_old and bits in (8, 24, 32) and packing == 0:
        return None
    kind = 'of OS/2' if is_old else f'of {bits} bits a pixel and compression {packing}'
    return (
        f'a BMP {kind}, where 8, 24 or 32 bits without compression are read; convert '
        'it to PNG'
    )


def check_all(
    filenames: Sequence[str],
    logger: logging.Logger,
    quiet: bool,
    skips: bool = False,
) -> list[tuple[int, int]]:
    """Decode every image file once, in parallel, and name all that cannot be read.

    Args:
        filenames: sequence [N] of str.
        logger: gets a warning for each that cannot be read, and why; likewise for
            those that can be, but are damaged or say that they are to be turned.
        quiet: whether there is no progress bar.
        skips: whether what cannot be read is left to who reads it next, and skips it.

    Returns:
        [(height, width), ...] of those that can be read: N of them, unless `skips`.

    Raises:
        InputError: some cannot be read, unless `skips`; names the first ten.
    """
    hidden = True if quiet else None  # None: shown on a terminal only.
    sizes: list[tuple[int, int]] = []
    unreadable: list[str] = []
    turned: list[str] = []
    with common.tqdm.tqdm(total=len(filenames), unit=' images', disable=hidden) as bar:
        for start in range(0, len(filenames), CHECKED_AT_ONCE):
            some = filenames[start : start + CHECKED_AT_ONCE]
            found = find_out(some)
            sizes += found.sizes
            named = found.damaged
            if not skips:
                unreadable += found.unreadable
                named = {**found.unreadable, **named}
            for filename, reason in named.items():
                logger.warning(common.one_line(f'{filename}: {reason}'))
            turned += [filename for filename in some if is_turned(filename)]
            bar.update(len(some))
    if turned:
        logger.warning(
            f'{len(turned)} of {len(filenames)} images say in EXIF that they are to be '
            'turned, which is ignored (first: '
            f'{common.one_line(turned[0])}); turn their pixels if they do not stand '
            'upright'
        )
    if unreadable:
        raise common.InputError(
            f'{len(unreadable)} of {len(filenames)} images cannot be read (first: '
            f'{", ".join(unreadable[:MOST_NAMED])}); replace them, or remove them and '
            'their lines in the CSV'
        )
    return sizes


class Found(NamedTuple):
    """What decoding image files told of them.

    Attributes:
        sizes: [(height, width), ...] of those that can be read, in order.
        unreadable: {filename: reason}.
        damaged: likewise, of those that give an image nevertheless.
    """

    sizes: list[tuple[int, int]]
    unreadable: dict[str, str]
    damaged: dict[str, str]


def find_out(filenames: Sequence[str]) -> Found:
    """Decode image files in parallel, and return what is Found."""
    files = [filename for filename in filenames if os.path.isfile(filename)]
    suspects = [filename for filename in filenames if not os.path.isfile(filename)]
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(files, tf.string))
    # Of the pixels, the shape is kept: the memory stays small.
    look = unconverted(lambda filename: tf.shape(decode(filename)))
    dataset = dataset.map(look, tf.data.AUTOTUNE)
    shapes = iter(dataset)
    sizes = []
    with common.silent_stderr() as chatter:
        for filename in files:
            try:
                # After an error, the iterator goes on with the next file.
                height, width, _ = next(shapes).numpy().tolist()
                sizes.append((height, width))
            except tf.errors.OpError:
                suspects.append(filename)
        is_noisy = os.fstat(chatter.fileno()).st_size > 0
    found = (find_unreadable([filename]) for filename in suspects)
    unreadable = dict(one for one in found if one is not None)
    damaged = {}
    # libjpeg says what is wrong with a file on stderr alone, and not with which.
    for filename in files if is_noisy else ():
        complaint = None if filename in unreadable else find_complaint(filename)
        if complaint:
            damaged[filename] = f'it gives an image, but is damaged ({complaint})'
    return Found(sizes, unreadable, damaged)


def find_complaint(filename: str) -> str:
    """Return what a decoder says on stderr of an image that it decodes, if anything."""
    with common.silent_stderr() as chatter:
        decode(filename)
        chatter.seek(0)
        lines = chatter.read().decode(errors='replace').splitlines()
    return lines[0] if lines else ''


def is_turned(filename: str) -> bool:
    """Say whether an image's EXIF asks that it be turned or mirrored to be seen."""
    from PIL import Image  # Its header alone is read.

    with warnings.catch_warnings(action='ignore'):
        try:
            if not os.path.isfile(filename):
                return False
            with Image.open(filename) as image:
                return image.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
        # Whatever it does not like: whether it can be decoded is not its question.
        except Exception:
            return False


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror an image [H, W, 3] left-right with probability 1/2.

    Args:
        image: [H, W, 3].
        seed: int64 [2]; the same seed flips the same way.
    """
    is_flipped = tf.random.stateless_uniform([], seed) < 0.5
    # image[:, ::-1] gives the same, but took longer than all else of an image together.
    return tf.raw_ops.Reverse(tensor=image, dims=tf.stack([False, is_flipped, False]))


def random_crop(
    image: tf.Tensor, height: int, width: int, seed: tf.Tensor
) -> tf.Tensor:
    """Cut a uniformly drawn [height, width, 3] window out of an image [H, W, 3].

    Args:
        image: [H, W, 3], at least as large as the window.
        height, width: of the window, pixels.
        seed: int64 [2]; the same seed cuts the same window.
    """
    return tf.image.stateless_random_crop(image, (height, width, 3), seed)


def random_pad_crop(image: tf.Tensor, pixels: int, seed: tf.Tensor) -> tf.Tensor:
    """Shift an image by up to `pixels` in each direction; black comes in.

    That is, pad it with `pixels` of black on every side, and cut a uniformly drawn
    window of the image's own size out.

    Args:
        image: float32 [H, W, 3].
        pixels: int, at least 0.
        seed: int64 [2]; the same seed gives the same shift.
    """
    height, width, _ = image.shape
    padded = tf.pad(image, [[pixels, pixels], [pixels, pixels], [0, 0]])
    return random_crop(padded, height, width, seed)


def random_color(image: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Vary brightness, contrast and saturation of an image, in this order.

    Each blends the image with another, `factor * image + (1 - factor) * other`: with
    black, with the mean of its grey values, and with its grey values. The factors are
    uniform in [1 - strength, 1 + strength]. Values are clipped to 0..255 at the end
    alone. The hue stays: of two people, a coat's may be the only difference.

    Args:
        image: float32 [H, W, 3], RGB in 0..255.
        strength: float in [0, 1]; 0 changes nothing.
        seed: int64 [2]; the same seed draws the same factors.
    """
    factors = tf.random.stateless_uniform([3], seed, 1 - strength, 1 + strength)
    brightness, contrast, saturation = tf.unstack(factors)
    image = brightness * image
    mean = tf.reduce_mean(tf.image.rgb_to_grayscale(image))
    image = contrast * image + (1 - contrast) * mean
    grey = tf.image.rgb_to_grayscale(image)  # [H, W, 1]
    image = saturation * image + (1 - saturation) * grey
    return tf.clip_by_value(image, 0.0, 255.0)


def random_erasing(image: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Fill a random rectangle of an image with noise, with some probability.

    Area and aspect of the rectangle are uniform in ERASED_AREAS and ERASED_ASPECTS,
    its corner is uniform in the image; what does not fit is drawn again. Every value
    in it is drawn anew, uniformly from 0..255.

    Args:
        image: float32 [H, W, 3] in 0..255.
        probability: float in [0, 1], that there is such a rectangle.
        seed: int64 [2]; the same seed erases the same way.

    An image so small that none of ERASING_TRIES rectangles fits stays as it is.
    Source: Zhong et al. 2017, arXiv:1708.04896, algorithm 1.
    """
    decision_seed, place_seed, noise_seed = tf.unstack(tf.random.split(seed, 3))

    def erase() -> tf.Tensor:
        height, width, _ = image.shape
        is_inside = random_rectangle(height, width, place_seed)  # [H, W]
        noise = tf.random.stateless_uniform(image.shape, noise_seed, 0.0, 255.0)
        return tf.where(is_inside[:, :, None], noise, image)

    is_erased = tf.random.stateless_uniform([], decision_seed) < probability
    return tf.cond(is_erased, erase, lambda: image)


def random_rectangle(height: int, width: int, seed: tf.Tensor) -> tf.Tensor:
    """Return a mask, bool [height, width], of random_erasing's rectangle.

    Args:
        height, width: of the image, pixels.
        seed: int64 [2]; the same seed draws the same rectangle.
    """
    draws = tf.random.stateless_uniform([4, ERASING_TRIES], seed)  # In [0, 1).
    area = height * width * between(*ERASED_AREAS, draws[0])
    aspect = between(*ERASED_ASPECTS, draws[1])
    heights = tf.maximum(1.0, tf.round(tf.sqrt(area * aspect)))
    widths = tf.maximum(1.0, tf.round(tf.sqrt(area / aspect)))
    tops = tf.floor(height * draws[2])
    lefts = tf.floor(width * draws[3])
    fits = (tops + heights <= height) & (lefts + widths <= width)  # [tries]
    first = tf.argmax(fits)  # Of equal values, the first.
    top, left = tops[first], lefts[first]
    rows, columns = tf.range(float(height)), tf.range(float(width))
    is_row = (top <= rows) & (rows < top + heights[first])  # [height]
    is_column = (left <= columns) & (columns < left + widths[first])  # [width]
    return is_row[:, None] & is_column[None] & fits[first]


def between(low: float, high: float, draws: tf.Tensor) -> tf.Tensor:
    """Return draws from [0, 1) as draws from [low, high)."""
    return low + (high - low) * draws


def augmentation_plan(flips: bool, crop: str | None) -> list[str]:
    """Return the names of the test-time variants of an image, in the original's order.

    All crops of the original image come first, then those of its mirror image.

    Args:
        flips: whether mirror images take part.
        crop: one of CROP_CHOICES, or None for a plain resize.

    Returns:
        list of str, such as 'original_center' or 'original_flip_top_left'.
    """
    crops = {None: ('resize',), 'five': FIVE_CROPS}.get(crop, (crop,))
    sides = ('original', 'original_flip') if flips else ('original',)
    return [f'{side}_{name}' for side in sides for name in crops]


def augment(images: tf.Tensor, variant: str, height: int, width: int) -> tf.Tensor:
    """Return one test-time variant of a batch.

    Args:
        images: [B, H, W, 3].
        variant: a name of augmentation_plan.
        height, width: of a crop; 'resize' and 'avgpool' keep the whole image.

    Returns:
        [B, height, width, 3], or [B, H, W, 3] for whole images.
    """
    if variant.startswith('original_flip_'):
        # Flips come before crops: the left crop of a mirror image shows the right.
        images = tf.reverse(images, [2])  # Far faster than [:, :, ::-1].
    crop = variant.removeprefix('original_').removeprefix('flip_')
    if crop in ('resize', 'avgpool'):
        return images
    free_y, free_x = images.shape[1] - height, images.shape[2] - width
    y, x = {
        'center': (free_y // 2, free_x // 2),
        'top_left': (0, 0),
        'top_right': (0, free_x),
        'bottom_left': (free_y, 0),
        'bottom_right': (free_y, free_x),
    }[crop]
    return images[:, y : y + height, x : x + width]
