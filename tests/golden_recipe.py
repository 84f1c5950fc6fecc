"""Weights and images of the golden numbers, as tests/golden/original/README.md says."""

import json
import pathlib
import zlib

import numpy as np
import tensorflow as tf

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'original'


def load_json(name):
    """Return the content of a golden JSON file."""
    return json.loads((GOLDEN / name).read_text())


def draw(name, shape):
    """Return the recipe's value, float32, of the TF1 variable or Adam slot `name`."""
    rng = np.random.default_rng(zlib.crc32(name.encode('utf-8')))
    leaf = name.split('/')[-1]
    if leaf == 'moving_variance':
        return np.float32(0.5 + rng.random(shape))
    if leaf == 'Adam_1':
        return np.float32(1e-4 * (0.5 + rng.random(shape)))
    z = rng.standard_normal(shape)
    if leaf == 'Adam':
        scale, shift = 0.01, 0
    elif leaf in ('moving_mean', 'beta', 'biases'):
        scale, shift = 0.1, 0
    elif leaf == 'gamma':
        value = 1 + 0.1 * z
        return np.float32(
            value * 0.3 if name.endswith('conv3/BatchNorm/gamma') else value
        )
    elif leaf == 'depthwise_weights':
        scale, shift = np.sqrt(2 / (shape[0] * shape[1])), 0
    elif len(shape) == 4:
        scale, shift = np.sqrt(2 / np.prod(shape[:3])), 0
        if name in ('resnet_v1_50/conv1/weights', 'resnet_v1_101/conv1/weights'):
            scale /= 64
    else:
        scale, shift = np.sqrt(1 / shape[0]), 0
    return np.float32(z * scale + shift)


def fill(variables):
    """Give every Keras variable the recipe's value for its path."""
    for variable in variables:
        variable.assign(draw(variable.path, variable.shape))


def images(seed, n, height, width):
    """Return float32 [n, height, width, 3] of whole numbers 0..255."""
    rng = np.random.default_rng(seed)
    return np.float32(rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def blocky_images(seed, config):
    """Return a P x K batch of the trajectories, float32 [P * K, h, w, 3]."""
    p, k, h, w = (config[key] for key in ('P', 'K', 'h', 'w'))
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (p, h // 8, w // 8, 3))
    noise = rng.integers(0, 256, (p * k, h // 8, w // 8, 3))
    small = (7 * np.repeat(base, k, axis=0) + 3 * noise) // 10
    big = np.repeat(np.repeat(small, 8, axis=1), 8, axis=2)
    return np.float32(np.uint8(big))


def error_in_rms(actual, expected):
    """Return the largest absolute difference, in units of the expected rms."""
    expected = np.asarray(expected, np.float64)
    rms = np.sqrt(np.mean(expected**2))
    return np.max(np.abs(np.asarray(actual, np.float64) - expected)) / rms


def write_tf1_checkpoint(prefix, net, head):
    """Write a checkpoint by name, step 25, with all that the original's has."""
    stored = load_json('variables.json')['nets'][net]['heads'][head]
    shapes = stored['checkpoint_variables']
    names = sorted(shapes)
    values = []
    for name in names:
        shape, dtype = shapes[name]
        value = draw(name, shape) if shape else 25
        values.append(tf.constant(value, dtype))
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[''] * len(names),
        tensors=values,
    )
