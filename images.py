"""Image files to tensors; flips and crops, in training and at test time."""

import os

import common

# Imported at first use: the names of crops are choices of a flag.
tf = common.lazy_import('tensorflow')

# What embed.py's --crop_augment makes of one image, in the order of the original.
CROP_CHOICES = ('center', 'avgpool', 'five')
FIVE_CROPS = ('center', 'top_left', 'top_right', 'bottom_left', 'bottom_right')


def read_image(filename, height, width):
    """Read and resize one image file.

    The resize is TensorFlow 1's bilinear one (source row = target row * in / out, no
    antialiasing), which published weights expect, and JPEGs are decoded with
    TensorFlow's default method for the same reason.

    Args:
        filename: string tensor; JPEG, PNG, BMP; grey becomes RGB, alpha is dropped.
        height, width: of the result, pixels.

    Returns:
        float32 [height, width, 3], RGB in 0..255.

    Raises:
        tf.errors.NotFoundError, tf.errors.InvalidArgumentError: no such file, or not
            a readable image; find_unreadable says which.
    """
    content = tf.io.read_file(filename)
    # Unlike decode_jpeg it takes BMP; of an animation, the first frame.
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    resized = tf.raw_ops.ResizeBilinear(
        images=image[None],
        size=[height, width],
        align_corners=False,
        half_pixel_centers=False,
    )
    return tf.ensure_shape(resized[0], (height, width, 3))


def find_unreadable(filenames):
    """Return the first file that read_image cannot read, and why; else None.

    Args:
        filenames: iterable of str.

    Returns:
        (filename, reason), both str, or None.
    """
    for filename in filenames:
        if not os.path.isfile(filename):
            return filename, 'the file does not exist'
        if os.path.getsize(filename) == 0:
            return filename, 'the file is empty'
        try:
            read_image(filename, 1, 1)
        except tf.errors.OpError as error:
            return filename, common.tensorflow_reason(error)
    return None


def random_flip(image, seed):
    """Mirror an image [H, W, 3] left-right with probability 1/2.

    Args:
        image: [H, W, 3].
        seed: int64 [2]; the same seed flips the same way.
    """
    is_flipped = tf.random.stateless_uniform([], seed) < 0.5
    return tf.cond(is_flipped, lambda: image[:, ::-1], lambda: image)


def random_crop(image, height, width, seed):
    """Cut a uniformly drawn [height, width, 3] window out of an image [H, W, 3].

    Args:
        image: [H, W, 3], at least as large as the window.
        height, width: of the window, pixels.
        seed: int64 [2]; the same seed cuts the same window.
    """
    return tf.image.stateless_random_crop(image, (height, width, 3), seed)


def augmentation_plan(flips, crop):
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


def augment(images, variant, height, width):
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
        images = images[:, :, ::-1]
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
