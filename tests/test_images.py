"""Image reading and cropping against the original; random ops against their seeds."""

import hashlib

import cv2
import numpy as np
import pytest
import tensorflow as tf

import golden_recipe
import images

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


# What OpenCV writes; tests/test_make_csv.py looks at all that is listed.
@pytest.mark.parametrize('suffix', ['.bmp', '.jpe', '.jpeg', '.jpg', '.png'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_grey_and_transparent_images_can_be_read(tmp_path, suffix, channels):
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


# --- augmentation in training ----------------------------------------------------


def seeds(count):
    """Return that many seeds, int64 [count, 2]."""
    return tf.constant([[3, i] for i in range(count)], tf.int64)


def over_seeds(function, count, dtype):
    """Return function(seed) for that many seeds, an array [count, ...]."""
    return tf.function(
        lambda: tf.map_fn(function, seeds(count), fn_output_signature=dtype)
    )().numpy()


COLOURS = np.float32([[[10, 20, 30], [200, 100, 50]], [[0, 0, 0], [255, 255, 255]]])


def test_pad_crop_shifts_the_image_and_black_comes_in():
    image = tf.constant(np.arange(1.0, 19.0).reshape(3, 2, 3), tf.float32)
    padded = np.zeros((7, 6, 3), np.float32)
    padded[2:5, 2:4] = image
    windows = {
        padded[y : y + 3, x : x + 2].tobytes() for y in range(5) for x in range(5)
    }
    drawn = {
        images.random_pad_crop(image, 2, seed).numpy().tobytes() for seed in seeds(300)
    }
    assert drawn <= windows
    # Nine of 25 equally likely places show something; each is missed once in 10^5.
    assert len(drawn) == len(windows)


def test_color_jitter_of_strength_0_changes_nothing():
    for seed in seeds(5):
        image = images.random_color(COLOURS, 0.0, seed)
        np.testing.assert_array_equal(image, COLOURS)


def test_color_jitter_blends_with_black_mean_grey_and_grey():
    seed = tf.constant([3, 1], tf.int64)
    factors = tf.random.stateless_uniform([3], seed, 0.5, 1.5).numpy()
    luma = [0.2989, 0.587, 0.114]  # ITU-R BT.601.
    expected = COLOURS * factors[0]
    mean = (expected @ luma).mean()
    expected = factors[1] * expected + (1 - factors[1]) * mean
    grey = (expected @ luma)[..., None]
    expected = np.clip(factors[2] * expected + (1 - factors[2]) * grey, 0, 255)
    image = images.random_color(COLOURS, 0.5, seed)
    np.testing.assert_allclose(image, expected, rtol=1e-3, atol=1e-2)


def test_color_jitter_draws_factors_of_the_whole_range_and_clips():
    grey = np.full((2, 2, 3), 200, np.float32)  # Brightness alone can change it.
    values = over_seeds(
        lambda seed: images.random_color(grey, 0.5, seed), 400, tf.float32
    )
    assert values.max() == 255
    # Factors above 255 / 200 = 1.275, of those from 0.5 to 1.5; a binomial share.
    share = (values[:, 0, 0, 0] == 255).mean()
    assert abs(share - 0.225) < 6 * np.sqrt(0.225 * 0.775 / 400)
    assert 100 <= values.min() < 105
    assert np.ptp(values, axis=(1, 2, 3)).max() < 0.1  # Grey stays grey.


def test_color_jitter_keeps_the_hue():
    for seed in seeds(20):
        image = images.random_color(COLOURS[:1, :1], 0.2, seed)[0, 0].numpy()
        # 20 lies halfway between 10 and 30, and stays halfway.
        np.testing.assert_allclose(image[1], (image[0] + image[2]) / 2, atol=1e-4)


def test_erasing_fills_a_rectangle_with_noise_and_nothing_else():
    image = np.full((64, 32, 3), -1, np.float32)  # No value that noise can have.
    for seed in seeds(20):
        erased = images.random_erasing(image, 1.0, seed).numpy()
        again = images.random_erasing(image, 1.0, seed).numpy()
        np.testing.assert_array_equal(erased, again)
        is_inside = (erased >= 0).any(axis=2)
        rows, columns = (
            np.flatnonzero(is_inside.any(1)),
            np.flatnonzero(is_inside.any(0)),
        )
        noise = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert noise.size == 3 * is_inside.sum()  # It is a rectangle.
        assert noise.max() < 255
        assert len(np.unique(noise)) > 0.99 * noise.size  # Every value its own draw.
        # Of uniform numbers: 127.5 with a deviation of 255 / sqrt(12).
        assert abs(noise.mean() - 127.5) < 6 * 73.7 / np.sqrt(noise.size)


def test_erasing_hits_the_asked_share_of_images():
    image = np.zeros((8, 4, 3), np.float32)
    for probability in (0.0, 0.3, 1.0):

        def is_hit(seed, probability=probability):
            return tf.reduce_any(images.random_erasing(image, probability, seed) > 0)

        hits = over_seeds(is_hit, 200, tf.bool)
        slack = 6 * np.sqrt(probability * (1 - probability) / 200)
        assert abs(np.mean(hits) - probability) <= slack


@pytest.mark.parametrize('height, width', [(256, 128), (100, 100)])
def test_erased_rectangles_are_those_of_rejection_sampling(height, width):
    masks = over_seeds(
        lambda s: images.random_rectangle(height, width, s), 1500, tf.bool
    )
    areas = masks.mean(axis=(1, 2))
    heights, widths = masks.any(axis=2).sum(axis=1), masks.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(masks.sum(axis=(1, 2)), heights * widths)
    # Rounding to whole pixels may leave the ranges a little.
    assert areas.min() > 0.019
    assert areas.max() < 0.405
    aspects = heights / widths
    assert aspects.min() > 0.28
    assert aspects.max() < 3.6
    expected = draw_rectangles(height, width, 3000)
    for ours, theirs in zip((areas, aspects), expected, strict=True):
        error = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))
        assert abs(ours.mean() - theirs.mean()) < 5 * error
    # Where the corner is uniform and the rest rejected, every side loses alike.
    centre = masks.mean(axis=0)
    np.testing.assert_allclose(centre, centre[::-1, ::-1], atol=0.08)


def draw_rectangles(height, width, count):
    """Return areas and aspects [count] of rectangles drawn as Zhong et al. say."""
    rng = np.random.default_rng(0)
    drawn = []
    while len(drawn) < count:
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        h, w = np.sqrt(area * aspect), np.sqrt(area / aspect)
        top, left = rng.uniform(0, height), rng.uniform(0, width)
        if top + h <= height and left + w <= width:
            drawn.append((area / height / width, aspect))
    return np.transpose(drawn)


def test_one_pixel_can_be_erased():
    assert images.random_rectangle(1, 1, seeds(1)[0]).numpy().all()


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


def test_random_flip_reverses_the_columns_exactly():
    image = np.random.default_rng(0).random((3, 4, 3), np.float32)
    sides = {images.random_flip(image, [1, i]).numpy().tobytes() for i in range(20)}
    assert sides == {image.tobytes(), image[:, ::-1].tobytes()}


@pytest.mark.parametrize('number', range(12))
def test_erased_rectangle_is_the_first_that_fits_of_those_drawn(number):
    height, width, seed = 24, 12, tf.constant([3, number], tf.int64)
    draws = tf.random.stateless_uniform([4, images.ERASING_TRIES], seed).numpy()
    expected = np.zeros((height, width), bool)
    for share, ratio, down, right in draws.T.astype(np.float64):
        area = height * width * (0.02 + (0.4 - 0.02) * share)
        aspect = 0.3 + (1 / 0.3 - 0.3) * ratio
        rows = max(1, round((area * aspect) ** 0.5))
        columns = max(1, round((area / aspect) ** 0.5))
        top, left = int(height * down), int(width * right)
        if top + rows <= height and left + columns <= width:
            expected[top : top + rows, left : left + columns] = True
            break
    np.testing.assert_array_equal(
        images.random_rectangle(height, width, seed), expected
    )
