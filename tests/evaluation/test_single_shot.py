import numpy as np
import pytest

from evaluation import ranking, single_shot


def run(
    positions, query_pids, gallery_pids, mask, num_galleries=50, seed=0, drops=False
):
    """Return the CMCs of queries at 0 and a gallery at positions on a line."""
    mask = np.array(mask, bool)
    dists = ranking.EmbeddingDistances(
        np.zeros((len(query_pids), 1)), np.float64(positions)[:, None]
    )
    return single_shot.single_shot_cmcs(
        dists,
        np.array(query_pids, object),
        np.array(gallery_pids, object),
        lambda rows, cols: mask[rows][:, cols],
        num_galleries,
        seed,
        drops,
    )


def test_one_image_per_identity_leaves_nothing_to_chance():
    cmcs = run([2, 1, 3], ['a', 'b', 'x'], ['a', 'b', 'c'], np.zeros((3, 3)), 4)
    # b is first, a second, x has no match.
    np.testing.assert_allclose(cmcs, [[1 / 3, 2 / 3, 2 / 3]] * 4)


def test_each_image_is_shown_as_often_as_the_others():
    # Of a's three images only one is nearer than b's.
    cmcs = run([1, 3, 4, 2], ['a'], ['a', 'a', 'a', 'b'], np.zeros((1, 4)), 3000)
    # The standard deviation of such a mean is 0.009.
    assert cmcs.mean(axis=0) == pytest.approx([1 / 3, 1], abs=0.04)
    assert set(cmcs[:, 0]) == {0, 1}


def test_the_match_is_never_an_ignored_image():
    # a's far image and junk near by are ignored.
    cmcs = run([9, 1, 2, 0], ['a'], ['a', 'a', 'b', '-1'], [[1, 0, 0, 1]])
    np.testing.assert_array_equal(cmcs[:, 0], 1)


def test_queries_without_a_match_are_failures_or_left_out():
    # a is first; x is in no gallery; b's one image is ignored by b's query alone.
    task = ([1, 2], ['a', 'x', 'b', 'x'], ['a', 'b'], [[0, 0]] * 2 + [[0, 1]] * 2)
    np.testing.assert_array_equal(run(*task, num_galleries=3), [[1 / 4, 1 / 4]] * 3)
    np.testing.assert_array_equal(run(*task, num_galleries=3, drops=True), [[1, 1]] * 3)


def test_what_every_query_ignores_is_no_identity():
    # Junk has a PID of its own, and one of b's: of b, always the far image is shown.
    mask = np.zeros((100, 5))
    mask[:, [0, 2]] = 1
    mask[0, 1] = 1  # Ignored by one query, not by all.
    pids = ['-1', 'a', 'b', 'b', 'c']
    cmcs = run([0, 3, 1, 9, 5], ['a'] * 99 + ['b'], pids, mask)
    # The first query has no match; b comes after c at 5, a at 3 before both.
    np.testing.assert_array_equal(cmcs, [[0.98, 0.98, 0.99]] * 50)


def test_a_gallery_of_nothing_but_junk_has_no_identity():
    assert run([0, 3], ['a'], ['-1', '-1'], [[1, 1]], 4).shape == (4, 0)


def test_the_seed_decides():
    task = ([1, 3, 2], ['a'], ['a', 'a', 'b'], np.zeros((1, 3)))
    np.testing.assert_array_equal(run(*task, seed=1), run(*task, seed=1))
    assert (run(*task, seed=1) != run(*task, seed=2)).any()


def test_ties_rank_in_the_order_of_the_gallery():
    cmcs = run([1, 1], ['a', 'b'], ['a', 'b'], np.zeros((2, 2)), 3)
    np.testing.assert_array_equal(cmcs, [[0.5, 1]] * 3)
