"""What figures are measured with: drawn images, and what a net and a machine could do.

Needs NumPy and OpenCV only, which all environments have; TensorFlow and PyTorch are
imported by the functions that are asked about them.
"""

import statistics
import subprocess
import time

import cv2
import numpy as np

from bench import _sides

# Height and width of Market-1501's images, pixels.
IMAGE_SIZE = 128, 64

# Rows and columns of the matrices whose product is the yardstick, and products timed.
MATRIX_SIZE, NUM_PRODUCTS = 2048, 20


def draw_jpegs(directory, num_images):
    """Write JPEGs of coarse noise, of Market-1501's size; return their names."""
    rng = np.random.default_rng(0)
    height, width = IMAGE_SIZE
    names = []
    for i in range(num_images):
        coarse = rng.integers(0, 256, (8, 4, 3), np.uint8)
        names.append(f'{directory}/{i}.jpg')
        cv2.imwrite(names[-1], cv2.resize(coarse, (width, height)))
    return names


def draw_people(directory):
    """Draw the demo data set to DIRECTORY/data, and its CSV files beside that.

    Returns:
        The flags of train.py that name it, a dict.
    """
    images = f'{directory}/data'
    for command in (
        _sides.module('drawn_people', images),
        _sides.script('make_csv.py', 'market1501', images, output_dir=directory),
    ):
        subprocess.run(command, check=True, capture_output=True)
    return {'train_set': f'{directory}/market1501_train.csv', 'image_root': images}


def count_operations(net_size, embedding_dim=128, is_caffe=False):
    """Return the floating point operations of ResNet-50 with fc1024 for one image.

    Those of convolutions and dense layers; a multiplication and an addition are two.

    Args:
        net_size: (height, width), pixels.
        embedding_dim: D.
        is_caffe: whether a stage's stride is in its first unit's 1x1 convolutions, as
            in TriNet's net, not in its last unit's 3x3 convolution, as in slim's.
    """
    height, width = net_size[0] // 2, net_size[1] // 2
    total = 7 * 7 * 3 * 64 * height * width
    places = height // 2 * (width // 2)
    channels = 64
    stages = ((64, 3, 1, 2), (128, 4, 2, 2), (256, 6, 2, 2), (512, 3, 2, 1))
    for depth, units, caffe_stride, slim_stride in stages:
        if is_caffe:
            places //= caffe_stride**2
        for unit in range(1, units + 1):
            is_last = unit == units and not is_caffe
            after = places // slim_stride**2 if is_last else places
            if unit == 1:
                total += channels * 4 * depth * places
            total += channels * depth * places
            total += (9 * depth * depth + 4 * depth * depth) * after
            places, channels = after, 4 * depth
    total += channels * 1024 + 1024 * embedding_dim
    return 2 * total


def product_rate(multiply):
    """Return the floating point operations per second of a matrix product.

    Args:
        multiply: function without arguments that multiplies two matrices of
            MATRIX_SIZE rows and columns and returns when it is done.
    """
    multiply()
    start = time.perf_counter()
    for _ in range(NUM_PRODUCTS):
        multiply()
    return NUM_PRODUCTS * 2 * MATRIX_SIZE**3 / (time.perf_counter() - start)


def tensorflow_product_rate(precision):
    """Return product_rate of TensorFlow.

    Args:
        precision: 'float32' or 'bfloat16'.
    """
    import common

    common.start_tensorflow()
    import tensorflow as tf

    matrix = tf.random.normal((MATRIX_SIZE, MATRIX_SIZE))
    matrix = tf.cast(matrix, precision)
    return product_rate((matrix @ matrix)[0, 0].numpy)


def torch_product_rate(precision):
    """Return product_rate of PyTorch.

    Args:
        precision: 'float32' or 'bfloat16'.
    """
    import torch

    matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE).to(getattr(torch, precision))
    return product_rate(lambda: matrix @ matrix)


def spread(values, scale=1.0, digits=2):
    """Return 'median (smallest to largest)' of some numbers."""
    values = [value * scale for value in values]
    return (
        f'{statistics.median(values):.{digits}f} '
        f'({min(values):.{digits}f} to {max(values):.{digits}f})'
    )
