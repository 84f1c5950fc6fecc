#!/usr/bin/env python3
"""How fast are ten-crop embeddings? trinet_embed.py against the naive way, in turn.

    python bench/trinet_embed.py

Embeds drawn images with random weights: the naive way (the same network of Keras' own
layers, an image per call, its ten crops cut by NumPy), ours an image per call, and ours
in batches. Prints images/s (median of the rounds, and their range), what fraction that
is of the floating point rate of a matrix product, measured in the same rounds, and the
peak memory of the whole command.
"""

import argparse
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The root instead of bench/, where this file would hide the command of its name.
sys.path[0] = str(ROOT)

import common  # noqa: E402

common.start_tensorflow()

import tensorflow as tf  # noqa: E402

import trinet_embed  # noqa: E402
from nets import _trinet  # noqa: E402

# Rows and columns of the matrices whose product is the yardstick.
MATRIX_SIZE = 2048


def build_parser():
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=5, help='Of each side.')
    parser.add_argument('--images', type=int, default=64, help='In batches.')
    parser.add_argument('--single_images', type=int, default=8, help='One per call.')
    parser.add_argument('--batch_sizes', type=int, nargs='+', default=[8])
    return parser


def draw_images(directory, num_images):
    """Write JPEGs of Market-1501's size; return their names."""
    rng = np.random.default_rng(0)
    names = []
    for i in range(num_images):
        pixels = cv2.resize(rng.integers(0, 256, (8, 4, 3), np.uint8), (64, 128))
        names.append(f'{directory}/{i}.jpg')
        pathlib.Path(names[-1]).write_bytes(cv2.imencode('.jpg', pixels)[1].tobytes())
    return names


def draw_weights():
    """Return random weights that keep activations in a sensible range."""
    rng = np.random.default_rng(0)
    weights = {}
    for layer, kind, shape in _trinet.layout():
        if kind == 'W':
            fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
            value = rng.standard_normal(shape, np.float32) / np.sqrt(fan_in)
        else:
            value = np.full(shape, kind in ('gamma', 'inv_std'))
        weights[layer, kind] = np.float32(value)
    return weights


def flops_of_crop():
    """Return the floating point operations of a crop in convolutions and dense layers.

    A multiplication and an addition count as two.
    """
    height, width = _trinet.CROP_SIZE
    operations = 0
    for name, _, shape in _trinet.normed_layers():
        places = 1
        if name != 'dense1':
            # Resolution is a half after conv1, a quarter in stage 2, an eighth in 3.
            shrinks = 2 if name == 'conv1' else 2 ** int(name[3])
            places = (height // shrinks) * (width // shrinks)
        operations += 2 * places * int(np.prod(shape))
    return operations + 2 * 1024 * _trinet.EMBEDDING_DIM


def naive_net():
    """Return the same network as Keras users would build it."""
    keras = tf.keras
    body = keras.applications.ResNet50(
        weights=None,
        include_top=False,
        input_shape=(*_trinet.CROP_SIZE, 3),
        pooling='avg',
    )
    hidden = keras.layers.Dense(1024)(body.output)
    hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
    return keras.Model(body.input, keras.layers.Dense(_trinet.EMBEDDING_DIM)(hidden))


def embed_naively(net, names):
    """Embed images one by one, their crops cut by NumPy."""
    for name in names:
        image = np.float32(trinet_embed.read_image(name)) - np.float32(
            _trinet.BGR_MEANS
        )
        places = [(16, 8), (0, 0), (0, 16), (32, 0), (32, 16)]
        crops = [image[y : y + 256, x : x + 128] for y, x in places]
        crops += [crop[:, ::-1] for crop in crops]
        net.predict_on_batch(np.stack(crops)).mean(axis=0)


def make_ours(net, batch_size):
    """Return a function that embeds images as the command does."""
    embed_batch = trinet_embed.compile_net(net, _trinet.AUGMENTATIONS)

    def embed(names):
        futures = trinet_embed.read_ahead(names, 8, 2 * batch_size)
        for _, batch in trinet_embed.make_batches(futures, batch_size, None):
            embed_batch(batch).numpy().mean(axis=0)

    return embed


def multiply():
    """Return the floating point operations per second of a float32 matrix product."""
    matrix = tf.random.normal((MATRIX_SIZE, MATRIX_SIZE))
    (matrix @ matrix).numpy()
    num_products = 20
    start = time.perf_counter()
    for _ in range(num_products):
        product = matrix @ matrix
    product.numpy()
    return num_products * 2 * MATRIX_SIZE**3 / (time.perf_counter() - start)


def command_memory(directory, names, weights):
    """Return (peak memory in MB, seconds) of the whole command on these images."""
    file = f'{directory}/weights.npz'
    np.savez(file, *weights.values())
    listed = pathlib.Path(directory, 'list.txt')
    listed.write_text('\n'.join(names))
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, ROOT / 'trinet_embed.py', listed, file],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return peak, seconds


def report(name, values, unit, scale=1.0):
    """Print median and range of some measurements; return the median."""
    values = [value * scale for value in values]
    median = statistics.median(values)
    print(f'{name:28} {median:8.2f} {unit} ({min(values):.2f} to {max(values):.2f})')
    return median


def main():
    args = build_parser().parse_args()
    weights = draw_weights()
    with tempfile.TemporaryDirectory() as directory:
        names = draw_images(directory, args.images)
        # First of all: a new process inherits the peak of the one that starts it.
        peak, seconds = command_memory(directory, names, weights)
        net, naive = _trinet.build_net(weights), naive_net()
        few = names[: args.single_images]
        sides = {
            'naive, one image per call': (lambda n: embed_naively(naive, n), few),
            'ours, --batch_size 1': (make_ours(net, 1), few),
        }
        for size in args.batch_sizes:
            sides[f'ours, --batch_size {size}'] = make_ours(net, size), names
        for embed, embedded in sides.values():
            embed(embedded[: max(args.batch_sizes)])  # Traces and warms up.
        rates = {name: [] for name in sides}
        products = []
        for _ in range(args.rounds):
            for name, (embed, embedded) in sides.items():
                start = time.perf_counter()
                embed(embedded)
                rates[name].append(len(embedded) / (time.perf_counter() - start))
            products.append(multiply())
    flops = len(_trinet.AUGMENTATIONS) * flops_of_crop()
    print(f'{flops / 1e9:.1f} GFLOP an image, ten crops of {_trinet.CROP_SIZE}')
    product = report('matrix product', products, 'GFLOP/s', 1e-9)
    medians = {name: report(name, r, 'images/s') for name, r in rates.items()}
    slowest, *_, ours = medians.values()
    for name, median in medians.items():
        fraction = median * flops / 1e9 / product
        print(
            f'{name:28} {fraction:8.0%} of the matrix product, {median / slowest:.2f}x'
        )
    print(f'{product * 1e9 / flops:.2f} images/s is all that a matrix product allows,')
    print(f'{product * 1e9 / flops / slowest:.2f} times the naive rate')
    print(f'command on {len(names)} images: {peak:.0f} MB at its peak, {seconds:.1f} s')


if __name__ == '__main__':
    main()
