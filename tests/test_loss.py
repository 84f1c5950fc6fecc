"""Distances, losses and scores: numbers by hand, and the original's."""

import numpy as np
import pytest
import tensorflow as tf

import golden_recipe
import loss

INDEX = golden_recipe.load_json('loss_index.json')
MARGINS = {'soft': 'soft', 'none': 'none', '0.2': 0.2, '1.0': 1.0}


@pytest.fixture(scope='module')
def golden():
    """Return the golden arrays of loss.npz."""
    with np.load(golden_recipe.GOLDEN / 'loss.npz') as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    'margin, expected',
    [(2.5, [0.5, 1.5, 4.5, 0.5]), ('none', [-2, -1, 2, -2])],
)
def test_batch_hard_pairs_farthest_positive_with_nearest_negative(margin, expected):
    points = np.float32([0, 1, 3, 7])  # On a line, so distances are differences.
    dists = np.abs(points[:, None] - points[None])  # [4, 4]
    losses = loss.batch_hard(dists, ['a', 'a', 'b', 'b'], margin)
    np.testing.assert_allclose(losses, expected)


def test_batch_hard_refuses_an_unknown_margin():
    with pytest.raises(ValueError, match="margin 'sotf'; expected a number, 'soft'"):
        loss.batch_hard(np.zeros((2, 2), np.float32), ['a', 'b'], 'sotf')


def test_cdist_refuses_an_unknown_metric():
    with pytest.raises(ValueError, match="'cosin' is unknown; expected one of eucl"):
        loss.cdist(np.zeros((2, 2)), np.zeros((2, 2)), 'cosin')


@pytest.mark.parametrize('metric', loss.METRIC_CHOICES)
def test_gradient_is_finite_when_images_are_identical(metric):
    embs = tf.Variable(np.ones((4, 3), np.float32))
    with tf.GradientTape() as tape:
        dists = loss.cdist(embs, embs, metric)
        mean = tf.reduce_mean(loss.batch_hard(dists, ['a', 'a', 'b', 'b'], 'soft'))
    assert np.isfinite(mean)
    assert np.all(np.isfinite(tape.gradient(mean, embs)))


@pytest.mark.parametrize('metric', loss.METRIC_CHOICES)
def test_cdist_of_different_sets_equals_the_original(golden, metric):
    a, b = golden['cdist_rect/a'], golden['cdist_rect/b']
    expected = golden[f'cdist_rect/{metric}']
    np.testing.assert_allclose(loss.cdist(a, b, metric), expected, rtol=1e-5)


@pytest.mark.parametrize('case', INDEX)
@pytest.mark.parametrize('metric', loss.METRIC_CHOICES)
def test_losses_and_gradients_equal_the_original(golden, case, metric):
    pids = golden[f'{case}/pids']
    key = f'{case}/{metric}'
    for name, margin in MARGINS.items():
        embs = tf.Variable(golden[f'{case}/emb'])
        with tf.GradientTape() as tape:
            dists = loss.cdist(embs, embs, metric)
            losses = loss.batch_hard(dists, pids, margin)
            mean = tf.reduce_mean(losses)
        expected = golden[f'{key}/diff/{name}']
        # A difference of distances is as exact as the distances, not as itself.
        atol = 1e-5 * np.max(golden[f'{key}/dists'])
        np.testing.assert_allclose(dists, golden[f'{key}/dists'], rtol=1e-5)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=atol)
        expected = golden[f'{key}/grad/{name}']
        atol = 1e-4 * np.sqrt(np.mean(np.square(expected)))
        np.testing.assert_allclose(
            tape.gradient(mean, embs), expected, rtol=1e-4, atol=atol
        )
        if name == 'soft':
            num_active = np.sum(np.asarray(losses) > 1e-5)
            assert num_active == golden[f'{key}/num_active/soft']


@pytest.mark.parametrize('case', INDEX)
@pytest.mark.parametrize('metric', loss.METRIC_CHOICES)
def test_scores_and_pair_distances_equal_the_original(golden, case, metric):
    pids, embs = golden[f'{case}/pids'], golden[f'{case}/emb']
    k = INDEX[case]['batch_precision_at_k']
    key = f'{case}/{metric}'
    dists = loss.cdist(embs, embs, metric)
    is_same = loss.nearest_are_same(dists, pids, k)
    np.testing.assert_array_equal(is_same, golden[f'{key}/topk_is_same'])
    top1, precision = loss.batch_scores(dists, pids, k)
    np.testing.assert_allclose(top1, golden[f'{key}/top1'], rtol=1e-6)
    np.testing.assert_allclose(precision, golden[f'{key}/prec_at_k'], rtol=1e-6)
    pairs = dict(zip(('pos', 'neg'), loss.split_dists(dists, pids), strict=True))
    for sign, values in pairs.items():
        if f'{key}/{sign}_dists' in golden:
            expected = golden[f'{key}/{sign}_dists']
            np.testing.assert_allclose(values, expected, rtol=1e-5)
        else:
            count, total = golden[f'{key}/{sign}_dists_len_sum']
            assert len(values) == count
            np.testing.assert_allclose(np.sum(values), total, rtol=1e-5)
