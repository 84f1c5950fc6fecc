"""P x K batches: who is in them, and that they depend on (data, seed, step) alone."""

import collections
import gc
import itertools
import os
import threading
import weakref

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

import batches
import common
import golden_recipe

SAMPLER = golden_recipe.load_json('sampler.json')


def make_sampler(counts, batch_p, batch_k, seed=7):
    """Return a Sampler of PIDs that have `counts` images each."""
    pids = np.repeat([f'{i:04d}' for i in range(len(counts))], counts).astype(object)
    return batches.Sampler(pids, batch_p, batch_k, seed), pids


@pytest.mark.parametrize('num_images', SAMPLER)
def test_images_of_a_pid_are_drawn_as_the_original_draws_them(num_images):
    golden = SAMPLER[num_images]
    sampler, _ = make_sampler([golden['n_images_of_pid']], 1, golden['K'])
    num_draws = 4000
    patterns, firsts = collections.Counter(), collections.Counter()
    for step in range(num_draws):
        rows = sampler.draw(step)
        counts = sorted(collections.Counter(rows.tolist()).values(), reverse=True)
        patterns['-'.join(map(str, counts))] += 1
        firsts[int(rows[0])] += 1
    exact = golden['multiplicity_pattern_exact_probability']
    assert set(patterns) <= set(exact)
    for pattern, probability in exact.items():
        # Six standard deviations of a binomial share.
        slack = 6 * np.sqrt(probability * (1 - probability) / num_draws)
        assert abs(patterns[pattern] / num_draws - probability) <= slack
    share = 1 / golden['n_images_of_pid']
    slack = 6 * np.sqrt(share * (1 - share) / num_draws)
    assert all(abs(n / num_draws - share) <= slack for n in firsts.values())
    assert len(firsts) == golden['n_images_of_pid']


@hypothesis.given(
    pids=st.lists(st.sampled_from('abcdefg'), min_size=1, max_size=30),
    batch_p=st.integers(1, 7),
    batch_k=st.integers(1, 6),
    seed=st.integers(0, 2**70),
    number=st.integers(0, 10**6),
)
@hypothesis.settings(deadline=None)
def test_any_pass_has_p_other_pids_in_each_batch_and_k_images_of_each(
    pids, batch_p, batch_k, seed, number
):
    num_images = collections.Counter(pids)
    hypothesis.assume(batch_p <= len(num_images))
    pids = np.array(pids, object)
    sampler = batches.Sampler(pids, batch_p, batch_k, seed)
    num_batches = len(num_images) // batch_p
    steps = range(number * num_batches, (number + 1) * num_batches)
    visited = []
    for step in steps:
        rows = sampler.draw(step)
        assert rows.shape == (batch_p * batch_k,)
        for group in rows.reshape(batch_p, batch_k):
            (pid,) = {*pids[group]}  # Images of a PID stand together.
            # Again only when all others were drawn as often, a ceil(K / n)th time.
            most = collections.Counter(group.tolist()).most_common(1)[0][1]
            assert most <= -(-batch_k // num_images[pid])
            visited.append(pid)
        # A run that is resumed here has never drawn the batches before.
        resumed = batches.Sampler(pids, batch_p, batch_k, seed).draw(step)
        np.testing.assert_array_equal(resumed, rows)
    assert len(visited) == len({*visited}) == num_batches * batch_p


def test_pass_visits_a_pid_once_and_leaves_out_the_remainder():
    sampler, pids = make_sampler([2] * 7, batch_p=3, batch_k=1)
    assert sampler.batches_per_pass == 2
    passes = [
        pids[np.concatenate([sampler.draw(2 * i), sampler.draw(2 * i + 1)])]
        for i in range(40)
    ]
    assert all(len(set(drawn)) == 6 for drawn in passes)
    left_out = [({*pids} - {*drawn}).pop() for drawn in passes]
    assert len(set(left_out)) > 3  # Drawn anew: not the same PID forever.


def test_batch_depends_on_seed_and_step_alone():
    counts = [3, 1, 5, 2, 4]
    forwards, _ = make_sampler(counts, 2, 3)
    backwards, _ = make_sampler(counts, 2, 3)
    other, _ = make_sampler(counts, 2, 3, seed=8)
    steps = range(30)
    drawn = [forwards.draw(step).tolist() for step in steps]
    assert drawn == [backwards.draw(step).tolist() for step in reversed(steps)][::-1]
    assert drawn != [other.draw(step).tolist() for step in steps]


def test_fewer_pids_than_p_are_refused():
    with pytest.raises(ValueError, match='has 2 PIDs, fewer than --batch_p 3; choose'):
        make_sampler([1, 1], batch_p=3, batch_k=1)


@pytest.fixture
def paths(tmp_path):
    """Return eight noise images, 12 x 8 pixels."""
    rng = np.random.default_rng(0)
    names = [str(tmp_path / f'{i} ü.png') for i in range(8)]
    for name in names:
        cv2.imwrite(name, rng.integers(0, 256, (12, 8, 3), dtype=np.uint8))
    return names


AUGMENTATION = batches.Augmentation((8, 4), (10, 6), flips=True, crops=True)


def read_all(sampler, paths, steps, augmentation=AUGMENTATION, threads=4):
    """Return [(rows, images)] of the training batches of `steps`."""
    drawn = batches.TrainingBatches(sampler, paths, augmentation, steps, threads)
    return [(rows, images.numpy()) for rows, images in drawn]


def test_resumed_batches_equal_uninterrupted_ones_bit_for_bit(paths):
    sampler, _ = make_sampler([2] * 4, 2, 2)
    whole = read_all(sampler, paths, range(6))
    parts = read_all(sampler, paths, range(2)) + read_all(sampler, paths, range(2, 6))
    assert len(whole) == len(parts) == 6
    for (rows, images), (same_rows, same_images) in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(rows, same_rows)
        np.testing.assert_array_equal(images, same_images)


def test_parts_of_a_batch_make_up_the_whole_bit_for_bit(paths):
    sampler, _ = make_sampler([2] * 4, 2, 2)
    whole = read_all(sampler, paths, range(2, 5))
    parts = [
        batches.TrainingBatches(sampler, paths, AUGMENTATION, range(2, 5), 4, part=part)
        for part in (slice(0, 3), slice(3, 4))
    ]
    for (rows, images), *shares in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(
            np.concatenate([share.images for share in shares]), images
        )
        for share in shares:  # The PIDs of all are needed everywhere.
            np.testing.assert_array_equal(share.rows, rows)


def test_batches_that_nobody_wants_any_more_are_let_go(paths):
    sampler, _ = make_sampler([2] * 4, 2, 2)
    batch = batches.TrainingBatches(sampler, paths, AUGMENTATION, range(99), 2)
    next(batch)
    is_alive = weakref.ref(batch)
    gc.disable()  # Their threads would keep Python from ending, where no gc comes.
    try:
        del batch
        assert is_alive() is None
    finally:
        gc.enable()


def test_rows_of_a_batch_are_drawn_once(paths, monkeypatch):
    sampler, _ = make_sampler([2] * 4, 2, 2)
    drawn = []
    draw = batches.Sampler.draw

    def draw_and_note(self, step):
        drawn.append(step)
        return draw(self, step)

    monkeypatch.setattr(batches.Sampler, 'draw', draw_and_note)
    assert len(read_all(sampler, paths, range(1, 6))) == 5
    assert drawn == [1, 2, 3, 4, 5]


def test_number_of_threads_does_not_change_the_images(paths):
    sampler, _ = make_sampler([2] * 4, 2, 2)
    one = read_all(sampler, paths, range(4), threads=1)
    many = read_all(sampler, paths, range(4), threads=8)
    for (_, images), (_, same) in zip(one, many, strict=True):
        np.testing.assert_array_equal(images, same)


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason='TensorFlow has a thread per processor'
)
@pytest.mark.parametrize('kind', ['training', 'in order'])
def test_two_threads_read_two_images_at_the_same_time(paths, monkeypatch, kind):
    # No image is done before another one has begun. Alone it waits in vain, so long
    # that two of them meet on any machine.
    meeting = threading.Barrier(2, timeout=60)
    decode = batches.images.decode

    def wait(path):
        meeting.wait()
        return path

    def decode_together(path):
        return decode(tf.ensure_shape(tf.numpy_function(wait, [path], tf.string), []))

    monkeypatch.setattr(batches.images, 'decode', decode_together)
    if kind == 'training':
        sampler, _ = make_sampler([2] * 4, 2, 2)
        assert len(read_all(sampler, paths, range(3), threads=2)) == 3
    else:
        read = list(batches.image_batches(paths, (8, 4), 4, loading_threads=2))
        assert len(read) == 2


def test_images_are_flipped_and_cropped_anew_each_time(paths):
    sampler, _ = make_sampler([1] * 2, 2, 1)
    variants = {
        image.tobytes() for _, b in read_all(sampler, paths, range(40)) for image in b
    }
    # Two images, two sides, nine places where 8x4 fits into 10x6: 36 at most.
    assert 20 < len(variants) <= 36


def test_without_augmentation_images_are_resized_to_the_net_input(paths):
    sampler, _ = make_sampler([2] * 4, 2, 2)
    plain = batches.Augmentation((8, 4), (10, 6), flips=False, crops=False)
    (rows, images), *_ = read_all(sampler, paths, range(1), plain)
    expected = batches.images.read_image(paths[rows[1]], 8, 4)
    np.testing.assert_array_equal(images[1], expected)


def augmented(path, index, **changes):
    """Return an image drawn with a seed, AUGMENTATION being changed."""
    seed = tf.constant([5, index], tf.int64)
    augmentation = AUGMENTATION._replace(**changes)
    image = batches.images.decode(path)
    return batches.training_image(image, augmentation, seed).numpy()


def test_flip_and_crop_do_not_depend_on_the_other_augmentations(paths):
    for index in range(20):
        plain = augmented(paths[0], index)
        # A probability and a strength so small that they change next to nothing.
        same = augmented(paths[0], index, random_erasing=1e-9, color_jitter=1e-6)
        np.testing.assert_allclose(same, plain, atol=1e-2)


def test_flips_and_crops_are_drawn_as_in_the_first_version(paths):
    # Runs of older versions are resumed with the very images they would have seen.
    for index in range(20):
        seed = tf.constant([5, index], tf.int64)
        crop_seed, flip_seed = tf.random.split(seed, 2)
        image = batches.images.read_image(paths[0], 10, 6)
        if tf.random.stateless_uniform([], flip_seed) < 0.5:
            image = image[:, ::-1]
        expected = tf.image.stateless_random_crop(image, (8, 4, 3), crop_seed)
        np.testing.assert_array_equal(augmented(paths[0], index), expected)


def test_erasing_does_not_depend_on_the_other_augmentations(paths):
    off = {'flips': False, 'crops': False, 'pre_crop_size': (8, 4)}
    for index in range(10):
        both = augmented(paths[0], index, random_erasing=1.0)
        alone = augmented(paths[0], index, random_erasing=1.0, **off)
        is_erased = both != augmented(paths[0], index)
        np.testing.assert_array_equal(both[is_erased], alone[is_erased])
        assert is_erased.any()


def test_every_augmentation_gives_the_net_its_size_and_range(paths):
    for index in range(5):
        every = {'pad_crop': 3, 'color_jitter': 1.0, 'random_erasing': 1.0}
        image = augmented(paths[0], index, crops=False, **every)
        assert image.shape == (8, 4, 3)
        assert 0 <= image.min() <= image.max() <= 255


def test_resumed_batches_are_the_same_with_every_augmentation(paths):
    sampler, _ = make_sampler([2] * 4, 2, 2)
    every = batches.Augmentation((8, 4), (10, 6), True, False, 2, 0.3, 0.5)
    whole = read_all(sampler, paths, range(4), every)
    later = read_all(sampler, paths, range(2, 4), every, threads=1)
    for (_, images), (_, same_images) in zip(whole[2:], later, strict=True):
        np.testing.assert_array_equal(images, same_images)


def test_image_batches_keep_the_order_and_the_last_few(paths):
    read = list(batches.image_batches(paths, (8, 4), 3, 4))
    assert [rows for rows, _ in read] == [range(3), range(3, 6), range(6, 8)]
    expected = [batches.images.read_image(path, 8, 4) for path in paths]
    np.testing.assert_array_equal(
        np.concatenate([images for _, images in read]), expected
    )


def test_unreadable_image_of_a_data_set_is_named(paths):
    with open(paths[4], 'wb') as file:
        file.write(b'no image')
    read = batches.image_batches(paths, (8, 4), 3, 4)
    next(read)
    with pytest.raises(common.InputError, match=f'^{paths[4]} is not a readable image'):
        next(read)


def test_unreadable_image_is_named_when_its_batch_comes(paths):
    sampler, _ = make_sampler([2] * 4, 2, 2)
    steps = range(6)
    victim = sampler.draw(4)[1]
    first = next(step for step in steps if victim in sampler.draw(step))
    with open(paths[victim], 'wb') as file:
        file.write(b'no image')
    drawn = batches.TrainingBatches(sampler, paths, AUGMENTATION, steps, 2)
    for _ in steps[:first]:
        next(drawn)
    with pytest.raises(
        common.InputError, match=f'{victim} ü.png is not a readable image'
    ):
        next(drawn)


def test_images_are_read_ahead_in_order_and_not_all_at_once():
    read = []

    def read_image(name):
        read.append(name)
        return name

    futures = batches.read_ahead(
        read_image, itertools.count(), num_threads=4, num_ahead=6
    )
    assert [next(futures).result() for _ in range(100)] == list(range(100))
    futures.close()
    # All that were ever asked for; fewer if some were cancelled.
    assert max(read) <= 100 + 6
