"""Weights of the golden numbers, as tests/golden/trinet/README.md says."""

import functools
import hashlib
import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'trinet'
IMAGES = ('p1_small', 'p2_tall', 'p3_wide', 'p4_alpha')


def load_json(name):
    """Return the content of a golden JSON file."""
    return json.loads((GOLDEN / name).read_text())


def load_npz(name):
    """Return the arrays of a golden .npz file, as a dict."""
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


def sha256(array):
    """Return the hex digest of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@functools.cache
def make_arrays():
    """Return arr_0 to arr_272, float32, and check their sha256 sums."""
    recipe = load_json('params.json')
    arrays = []
    for entry in recipe['params']:
        array = draw(recipe['seed'], entry)
        assert sha256(array) == entry['sha256'], entry['key']
        arrays.append(array)
    return arrays


def draw(seed, entry):
    """Return one array, float32; `entry` is that of params.json."""
    layer, kind, shape = entry['layer'], entry['kind'], entry['shape']
    u = np.random.default_rng([seed, entry['index']]).random(shape)
    if kind == 'W':
        value = draw_kernel(u - 0.5, layer)
    elif kind == 'b':
        value = u - 0.5
    elif kind == 'mean':
        value = (u - 0.5) * 0.5
    elif kind == 'beta':
        value = (u - (0.6 if layer.endswith('branch2c') else 0.5)) * 0.5
    else:
        value = 0.75 + 0.5 * u
        if kind == 'gamma' and layer.endswith('branch2c'):
            value *= 0.5
        # Their product stays near 1, but no variance has this inverse deviation once
        # the epsilon is taken off.
        value[5::37] *= {'gamma': 1 / 128, 'inv_std': 128}[kind]
    return np.float32(value)


def draw_kernel(r, layer):
    """Return a kernel made of uniform numbers `r` around 0."""
    if layer == 'conv1':
        return r * np.sqrt(12 / 147) / 40
    if r.ndim == 4:
        return (r - np.roll(r, 1, axis=1)) * np.sqrt(12 / np.prod(r.shape[1:]))
    value = (r - np.roll(r, 1, axis=0)) * np.sqrt(24 / r.shape[0])
    return value * 1.5 if layer == 'dense1' else value


@functools.cache
def weights():
    """Return the arrays as _trinet.read_weights does; callers must not change them."""
    entries = load_json('params.json')['params']
    return {
        (entry['layer'], entry['kind']): array
        for entry, array in zip(entries, make_arrays(), strict=True)
    }
