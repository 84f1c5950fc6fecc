"""Image reading and cropping against the original; random ops against their seeds."""

import hashlib

import cv2
import numpy as np
import pytest
import tensorflow as tf

import golden_recipe
import images
from data import _folders

READS = golden_recipe.load_json('images.json')
FOLDER = golden_recipe.GOLDEN / 'images'


@pytest.fixture(scope='module')
def golden():
    """Return the golden arrays of images.npz."""
    with np.load(golden_recipe.GOLDEN / 'images.npz') as arrays:
        return dict(arrays)


@pytest.mark.parametrize('key', READS)
def test_read_image_equals_the_original_bit_for_bit(key):
    name, size = key.split('/')
    height, width = map(int, size.split('x'))
    image = images.read_image(str(FOLDER / name), height, width).numpy()
    assert image.dtype == np.float32
    assert hashlib.sha256(image.tobytes()).hexdigest() == READS[key]['float32_sha256']


def test_read_image_stretches_as_tensorflow_1(tmp_path):
    # Source column = target column * 2 / 4, so 0, 0.5, 1 and 1.5, which ends at 1.
    png = tf.io.encode_png(np.uint8([[[0] * 3, [100] * 3]]))
    tf.io.write_file(str(tmp_path / 'two.png'), png)
    image = images.read_image(str(tmp_path / 'two.png'), 1, 4)
    np.testing.assert_array_equal(image[0, :, 0], [0, 50, 100, 100])


@pytest.mark.parametrize('suffix', _folders.IMAGE_SUFFIXES)
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_every_format_that_make_csv_lists_can_be_read(tmp_path, suffix, channels):
    filename = tmp_path / f'grey{suffix}'
    pixels = np.full((6, 4, channels), 90, np.uint8)
    filename.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    image = images.read_image(str(filename), 3, 2)
    np.testing.assert_array_equal(image, np.full((3, 2, 3), 90))


def test_variants_equal_the_original(golden):
    source = np.float32(golden['crops/source'])
    height, width = golden['crops/crop_size']
    both = [
        images.augment(source[None], f'{side}_resize', height, width)[0]
        for side in ('original', 'original_flip')
    ]
    np.testing.assert_array_equal(both, golden['crops/flip_augment'])
    for name in images.FIVE_CROPS:
        crop = images.augment(source[None], f'original_{name}', height, width)[0]
        np.testing.assert_array_equal(crop, golden[f'crops/five/{name}'])


def test_flip_comes_before_crop():
    image = np.arange(4.0, dtype=np.float32).reshape(1, 1, 4, 1)  # Columns 0 1 2 3.
    crop = images.augment(image, 'original_flip_top_left', 1, 2)
    np.testing.assert_array_equal(crop[0, 0, :, 0], [3, 2])


def test_a_crop_as_large_as_the_image_is_the_image():
    image = np.ones((1, 4, 2, 3), np.float32)
    for variant in images.augmentation_plan(flips=False, crop='five'):
        np.testing.assert_array_equal(images.augment(image, variant, 4, 2), image)
    seed = tf.constant([1, 2], tf.int64)
    np.testing.assert_array_equal(images.random_crop(image[0], 4, 2, seed), image[0])


def test_random_ops_depend_on_the_seed_alone():
    image = tf.constant(np.random.default_rng(0).random((6, 5, 3)), tf.float32)
    seeds = tf.constant([[3, i] for i in range(200)], tf.int64)
    flipped, corners = 0, set()
    for seed in seeds:
        first, again = (images.random_flip(image, seed) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        flipped += int(not np.array_equal(first, image))
        crop, same = (images.random_crop(image, 4, 4, seed) for _ in range(2))
        np.testing.assert_array_equal(crop, same)
        corners.add(float(crop[0, 0, 0]))
    # 200 fair coins: 100 +- 7; six standard deviations either way.
    assert 58 < flipped < 142
    assert len(corners) == 3 * 2  # Every place where 4x4 fits into 6x5.


@pytest.mark.parametrize(
    'content, reason', [(None, 'does not exist'), (b'', 'is empty'), (b'junk', '.')]
)
def test_find_unreadable_names_the_first_bad_file(tmp_path, content, reason):
    good, bad = FOLDER / 'tiny_h5_w3.png', tmp_path / 'bad.jpg'
    if content is not None:
        bad.write_bytes(content)
    name, why = images.find_unreadable([str(good), str(bad), str(good)])
    assert name == str(bad)
    assert reason in why or content == b'junk'
    assert why
    assert images.find_unreadable([str(good)]) is None
