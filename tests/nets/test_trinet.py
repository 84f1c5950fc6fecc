"""The published network against what the original computed with Theano."""

import functools
import pickle
import zipfile

import cv2
import keras
import numpy as np
import pytest

import images
import layers
import trinet_embed
import trinet_recipe
from nets import _trinet

TOLERANCE = 1e-4  # The golden README suggests it; single mistakes are 270 times larger.

# In network order, so that the first failure names the layer where it went wrong.
GOLDEN_LAYERS = tuple(trinet_recipe.load_json('layers_float64.json')['layers'])


@functools.cache
def net():
    """Return the net with the recipe's weights; callers must not change it."""
    return _trinet.build_net(trinet_recipe.weights())


def read_image(name):
    """Return a golden image as the command reads it."""
    (path,) = (trinet_recipe.GOLDEN / 'images').glob(f'{name}.*')
    return trinet_embed.read_image(str(path))


def ten_crops(name):
    """Return the crops of a golden image, uint8 [10, 256, 128, 3]."""
    batch = read_image(name)[None]
    crops = [
        images.augment(batch, variant, *_trinet.CROP_SIZE)
        for variant in _trinet.AUGMENTATIONS
    ]
    return np.concatenate(crops)


# --- preprocessing ---------------------------------------------------------------


@pytest.mark.parametrize('name', trinet_recipe.IMAGES)
def test_every_pixel_of_resized_images_is_that_of_the_original(name):
    expected = trinet_recipe.load_json('preprocessing.json')[name]
    decoded = cv2.imread(str(trinet_recipe.GOLDEN / expected['file']))
    assert trinet_recipe.sha256(decoded) == expected['decoded_bgr_sha256']
    resized = read_image(name)
    stored = trinet_recipe.load_npz('preprocessing.npz')[f'resized_bgr_{name}']
    np.testing.assert_array_equal(resized, stored)
    assert trinet_recipe.sha256(resized) == expected['resized_bgr_sha256']


@pytest.mark.parametrize('name', trinet_recipe.IMAGES)
def test_every_bit_of_the_ten_crops_is_that_of_the_original(name):
    expected = trinet_recipe.load_json('preprocessing.json')[name]
    crops = _trinet.subtract_mean(ten_crops(name)).numpy().transpose(0, 3, 1, 2)
    stored = trinet_recipe.load_npz('preprocessing.npz')[f'batch_sub_{name}']
    np.testing.assert_array_equal(crops[:, :, ::32, ::16], stored)
    assert list(crops.shape) == expected['batch_shape']
    assert trinet_recipe.sha256(crops) == expected['batch_sha256']


# --- the net ---------------------------------------------------------------------


@functools.cache
def recorded_pass():
    """Return {layer name: (layer, input, output)} of the first image's ten crops."""
    recorded = {}
    call = keras.layers.Layer.__call__

    def recording_call(layer, inputs, **kwargs):
        outputs = call(layer, inputs, **kwargs)
        recorded[layer.name] = layer, inputs, outputs
        return outputs

    built = net()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.layers.Layer, '__call__', recording_call)
        built(ten_crops('p1_small'))
    return recorded


def layer_of_norm(norm):
    """Return the name of the layer that a batch norm was folded into."""
    (name,) = (name for name, other, _ in _trinet.normed_layers() if other == norm)
    return name


def value_of(golden_layer):
    """Return what our net has in the place of one of Theano's layers, channels last.

    Our layers stand for a convolution, its batch norm and its ReLU at once; what lies
    between is computed from their input, and what came before the batch norm by
    undoing that.
    """
    recorded = recorded_pass()
    if golden_layer == 'pool1':
        return recorded['res2a'][1]
    if golden_layer == 'pool5':
        return recorded['dense1'][1]
    name = golden_layer.removesuffix('_relu')
    if name != golden_layer or name == 'dense2':
        return recorded[name][2]
    if isinstance(recorded.get(name, [None])[0], layers.Residual):
        norm = name.replace('res', 'bn')
        return value_of(f'{norm}_branch1') + value_of(f'{norm}_branch2c')
    if name.startswith('bn'):
        layer, inputs, _ = recorded[layer_of_norm(name)]
        is_dense = isinstance(layer, layers.Dense)
        product = inputs @ layer.weights_ if is_dense else layer.convolve(inputs)
        return product + layer.biases
    (norm,) = (norm for other, norm, _ in _trinet.normed_layers() if other == name)
    beta, gamma, mean, inv_std = (
        trinet_recipe.weights()[norm, kind] for kind in _trinet.NORM_KINDS
    )
    return (value_of(norm) - beta) / (gamma * inv_std) + mean


@pytest.mark.parametrize('golden_layer', GOLDEN_LAYERS)
@pytest.mark.parametrize('precision', ['float32', 'float64'])
def test_layer_equals_the_original(golden_layer, precision):
    value = np.asarray(value_of(golden_layer))  # [10, ...]
    if value.ndim == 4:
        value = value.transpose(0, 3, 1, 2)  # Theano's axes.
    arrays = trinet_recipe.load_npz(f'layers_{precision}.npz')
    corners = {
        golden_layer: value[1],
        f'{golden_layer}_topleft': value[1, :6, :3, :3] if value.ndim == 4 else None,
        f'{golden_layer}_bottomright': value[1, :6, -3:, -3:]
        if value.ndim == 4
        else None,
    }
    compared = [name for name in corners if name in arrays]
    assert compared
    for name in compared:
        expected = arrays[name].reshape(corners[name].shape)
        np.testing.assert_allclose(
            corners[name], expected, atol=TOLERANCE, rtol=0, err_msg=name
        )
    stats = trinet_recipe.load_json(f'layers_{precision}.json')['layers'][golden_layer]
    assert value.size == np.prod(stats['shape'])
    for statistic in ('mean', 'std', 'min', 'max'):
        assert abs(getattr(np, statistic)(value) - stats[statistic]) < TOLERANCE


@pytest.mark.parametrize('precision', ['float32', 'float64'])
def test_embeddings_of_every_crop_equal_the_original(precision):
    expected = trinet_recipe.load_npz(f'embeddings_{precision}.npz')
    batches = [([0], read_image(name)[None]) for name in trinet_recipe.IMAGES]
    embs = trinet_embed.embed(net(), batches, _trinet.AUGMENTATIONS)
    for name, (_, batch) in zip(trinet_recipe.IMAGES, embs, strict=True):
        np.testing.assert_allclose(
            batch[:, 0], expected[f'aug_{name}'], atol=TOLERANCE, rtol=0
        )
        np.testing.assert_allclose(
            batch[:, 0].mean(0), expected[f'mean_{name}'], atol=TOLERANCE, rtol=0
        )


def test_one_crop_is_the_centre():
    expected = trinet_recipe.load_npz('embeddings_float64.npz')['aug_p3_wide']
    batches = [([0], read_image('p3_wide')[None])]
    ((_, batch),) = trinet_embed.embed(net(), batches, _trinet.AUGMENTATIONS[:1])
    np.testing.assert_allclose(batch[0], expected[:1], atol=TOLERANCE, rtol=0)


def test_mirrored_crops_are_named_after_their_place_in_the_mirrored_image():
    # Columns count up, so a crop shows where it comes from and whether it is mirrored.
    batch = np.broadcast_to(np.arange(144)[:, None], (1, 288, 144, 1))
    crops = [
        images.augment(batch, variant, *_trinet.CROP_SIZE)[0]
        for variant in _trinet.AUGMENTATIONS
    ]
    for crop, mirrored in zip(crops[:5], crops[5:], strict=True):
        np.testing.assert_array_equal(crop[:, ::-1], mirrored)


# --- the file --------------------------------------------------------------------


def test_layout_is_that_of_the_original():
    expected = [
        (entry['layer'], entry['kind'], tuple(entry['shape']))
        for entry in trinet_recipe.load_json('params.json')['params']
    ]
    assert [tuple(entry) for entry in _trinet.layout()] == expected


class FakeFile(dict):
    """Arrays by name, with the interface of an open .npz file."""

    @property
    def files(self):
        """Return the names."""
        return list(self)


def golden_file():
    """Return the recipe's arrays under the names of the file."""
    return FakeFile(
        {f'arr_{i}': array for i, array in enumerate(trinet_recipe.make_arrays())}
    )


def drop_last(arrays):
    del arrays['arr_272']


def drop_middle(arrays):
    del arrays['arr_100']


def add_one(arrays):
    arrays['arr_273'] = np.zeros(3)


def swap_layers(arrays):
    arrays['arr_6'], arrays['arr_11'] = arrays['arr_11'], arrays['arr_6']


def swap_statistics(arrays):
    arrays['arr_4'], arrays['arr_5'] = arrays['arr_5'], arrays['arr_4']


def transpose(arrays):
    arrays['arr_271'] = arrays['arr_271'].T


def spoil(arrays):
    arrays['arr_3'] = arrays['arr_3'] * np.nan


def grow(arrays):
    arrays['arr_3'] = arrays['arr_3'] * np.float64(1e300)  # Too large for float32.


def signal(arrays):
    # A NaN at which a processor raises its flag when it is made a float32.
    arrays['arr_3'] = np.full(64, 0x7FF0_0000_0000_0001).view(np.float64)


def use_integers(arrays):
    arrays['arr_2'] = np.zeros(64, np.int64)


@pytest.mark.parametrize(
    'damage, message',
    [
        (
            drop_last,
            r'arr_272 is missing, expected dense2 b \[128\]; '
            'the file has 272 arrays, 273 were expected',
        ),
        (drop_middle, 'arr_100 is missing, expected bn3c_branch2b inv_std'),
        (add_one, 'arr_273 is not an array of this net; the file has 274 arrays'),
        (
            swap_layers,
            r'arr_6 has shape \[64, 64, 1, 1\], expected res2a_branch1 W '
            r'\[256, 64, 1, 1\]',
        ),
        (swap_statistics, r'arr_5 has values of 0 or less, expected bn_conv1 inv_std'),
        (transpose, r'arr_271 has shape \[128, 1024\], expected dense2 W'),
        (spoil, r'arr_3 has NaN or infinite values, expected bn_conv1 gamma \[64\]'),
        (grow, r'arr_3 has NaN or infinite values, expected bn_conv1 gamma \[64\]'),
        (signal, r'arr_3 has NaN or infinite values, expected bn_conv1 gamma \[64\]'),
        (use_integers, 'arr_2 holds int64, not floating point numbers'),
    ],
)
def test_first_array_that_differs_is_named(damage, message):
    arrays = golden_file()
    damage(arrays)
    with pytest.raises(_trinet.ArrayError, match=message):
        _trinet.check_arrays(arrays)


def test_float64_arrays_are_taken_as_float32():
    arrays = golden_file()
    arrays['arr_1'] = np.float64(arrays['arr_1'])
    assert _trinet.check_arrays(arrays)['conv1', 'b'].dtype == np.float32


def test_pickled_arrays_are_refused(tmp_path):
    filename = tmp_path / 'weights.npz'
    np.savez(filename, np.array([{}], dtype=object))
    with pytest.raises(
        ValueError,
        match=r'arr_0 is pickled, which is refused; expected conv1 W .* of float32$',
    ):
        _trinet.read_weights(filename)


def write_pickle(filename):
    filename.write_bytes(pickle.dumps({'arr_0': 1}))


def write_npy(filename):
    with open(filename, 'wb') as file:
        np.save(file, np.zeros(3))


def write_text(filename):
    filename.write_text('weights')


def write_nothing(filename):
    filename.write_bytes(b'')


def write_half(filename):
    np.savez(filename, np.zeros(1000))
    filename.write_bytes(filename.read_bytes()[:500])


def write_flipped_bit(filename):
    np.savez(filename, *trinet_recipe.make_arrays()[:2])
    content = bytearray(filename.read_bytes())
    content[1000] ^= 1
    filename.write_bytes(content)


def write_zip_of_text(filename):
    with zipfile.ZipFile(filename, 'w') as file:
        file.writestr('arr_0.npy', 'no array')


@pytest.mark.parametrize(
    'write, message',
    [
        (write_pickle, 'is not an .npz file of arrays; .*pickles are refused'),
        (write_npy, 'is not an .npz file of arrays'),
        (write_text, 'is not an .npz file of arrays'),
        (write_nothing, 'is damaged or incomplete'),
        (write_half, 'is damaged or incomplete'),
        (write_flipped_bit, 'is damaged or incomplete'),
        (write_zip_of_text, 'is not an .npz file of arrays'),
    ],
)
def test_other_files_are_refused(tmp_path, write, message):
    filename = tmp_path / 'weights.npz'
    write(filename)
    with pytest.raises(ValueError, match=message) as error:
        _trinet.read_weights(filename)
    assert str(filename) in str(error.value)


def test_published_files_are_known_by_their_md5_sums(tmp_path, monkeypatch):
    filename = tmp_path / 'weights.npz'
    filename.write_bytes(b'abc')
    assert _trinet.published_name(filename) is None
    # The md5 sum of 'abc', RFC 1321, appendix A.5.
    digest = '900150983cd24fb0d6963f7d28e17f72'
    monkeypatch.setitem(_trinet.PUBLISHED, digest, 'RFC 1321')
    assert _trinet.published_name(filename) == 'RFC 1321'
