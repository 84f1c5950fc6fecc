"""train.py's --cache: the same batches from memory, and what happens without enough."""

import cv2
import numpy as np
import pytest
import tensorflow as tf

import batches
import images
import tiny_run
from training import image_cache

AUGMENTATION = batches.Augmentation((8, 4), (10, 6), flips=True, crops=True)


@pytest.fixture
def paths(tmp_path):
    """Return six noise images of three sizes: colour JPEGs, and a grey PNG."""
    rng = np.random.default_rng(0)
    sizes = [(12, 8, 3), (12, 8, 3), (9, 7, 3), (30, 20, 3), (9, 7, 3), (5, 5, 1)]
    names = [str(tmp_path / f'{i}.jpg') for i in range(5)] + [str(tmp_path / 'g.png')]
    for name, size in zip(names, sizes, strict=True):
        cv2.imwrite(name, rng.integers(0, 256, size, dtype=np.uint8))
    return names


def test_cached_images_are_the_decoded_ones(paths):
    cache = image_cache.ImageCache(paths, loading_threads=3)
    for row, path in enumerate(paths):
        image = cache.read(tf.constant(row, tf.int64))
        np.testing.assert_array_equal(image, images.decode(path))
    # Three channels each, of the grey image too.
    assert cache.num_bytes == 3 * (2 * 12 * 8 + 2 * 9 * 7 + 30 * 20 + 5 * 5)


def test_batches_are_the_same_with_and_without_cache(paths):
    pids = np.array(list('aabbcc'), object)
    sampler = batches.Sampler(pids, 2, 2, seed=3)
    cache = image_cache.ImageCache(paths, loading_threads=3)
    plain, cached = (
        list(
            batches.TrainingBatches(sampler, paths, AUGMENTATION, range(2, 7), 4, each)
        )
        for each in (None, cache)
    )
    assert len(plain) == len(cached) == 5
    for (rows, images_of_rows), (same_rows, same_images) in zip(
        plain, cached, strict=True
    ):
        np.testing.assert_array_equal(rows, same_rows)
        np.testing.assert_array_equal(images_of_rows, same_images)


def test_images_that_do_not_fit_are_refused_beforehand(paths, monkeypatch):
    monkeypatch.setattr(image_cache, 'free_memory', lambda: 1000)
    with pytest.raises(
        ValueError,
        match=r'^--cache: 6 decoded images need 0\.0 GB or more, 0\.0 GB of memory are '
        'free; leave --cache out$',
    ):
        image_cache.ImageCache(paths, loading_threads=3)


def test_images_larger_than_the_sample_promised_are_refused_too(paths, monkeypatch):
    monkeypatch.setattr(image_cache, 'estimate_bytes', lambda paths: 100)
    monkeypatch.setattr(image_cache, 'free_memory', lambda: 1000)
    with pytest.raises(ValueError, match='are free; leave --cache out'):
        image_cache.ImageCache(paths, loading_threads=3)


def test_images_fit_where_the_free_memory_is_unknown(paths, monkeypatch):
    monkeypatch.setattr(image_cache, 'free_memory', lambda: None)
    assert image_cache.ImageCache(paths, loading_threads=3).num_bytes == 2829


def test_unreadable_image_is_named(paths):
    with open(paths[3], 'wb') as file:
        file.write(b'junk')
    with pytest.raises(ValueError, match='3.jpg is not a readable image'):
        image_cache.ImageCache(paths, loading_threads=3)


def test_dry_run_tells_what_a_cache_takes_or_that_it_does_not_fit(
    tmp_path, monkeypatch, capsys
):
    tiny_run.shrink_net(monkeypatch)
    tiny_run.write_dataset(tmp_path)
    dry = ('--cache', '--dry_run')
    tiny_run.start(tmp_path, tmp_path / 'exp', *dry)
    assert '--cache: 12 images will take about 0 MB' in capsys.readouterr().err
    monkeypatch.setattr(image_cache, 'free_memory', lambda: 1)
    with pytest.raises(ValueError, match='--cache: 12 decoded images need'):
        tiny_run.start(tmp_path, tmp_path / 'exp', *dry)
    assert not (tmp_path / 'exp').exists()


def test_run_with_cache_is_the_run_without_it(tmp_path, monkeypatch):
    tiny_run.shrink_net(monkeypatch)
    tiny_run.write_dataset(tmp_path)
    tiny_run.start(tmp_path, tmp_path / 'plain')
    # The cache comes and goes when a run is resumed.
    tiny_run.start(tmp_path, tmp_path / 'cached', '--cache', '--train_iterations', '1')
    tiny_run.resume(tmp_path / 'cached', '--train_iterations', '2')
    log = (tmp_path / 'cached' / 'train.log').read_text()
    assert log.count('--cache: 12 images take 0 MB') == 1
    plain, cached = (
        tiny_run.read_checkpoint(tmp_path / name, 2) for name in ('plain', 'cached')
    )
    for name in plain:
        np.testing.assert_array_equal(cached[name], plain[name], err_msg=name)
