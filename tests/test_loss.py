"""Distances, losses and scores: numbers by hand, oracles, and the original's."""

import math

import numpy as np
import pytest
import tensorflow as tf

import golden_recipe
import loss
from evaluation import ranking

INDEX = golden_recipe.load_json('loss_index.json')
MARGINS = {'soft': 'soft', 'none': 'none', '0.2': 0.2, '1.0': 1.0}

# The metrics that the original knows.
GOLDEN_METRICS = ('euclidean', 'sqeuclidean', 'cityblock')

# Batches of points in the plane: (PIDs, points [B, 2]).
RNG = np.random.default_rng(0)
BATCHES = {
    'P x K': (np.repeat(np.arange(4), 3), np.float32(RNG.normal(size=(12, 2)))),
    'unequal': (
        np.array(['a', 'b', 'a', 'c', 'b', 'a', 'd', 'b', 'a']),
        np.float32(RNG.normal(size=(9, 2))),
    ),
}
DEGENERATE_BATCHES = {
    'K = 1': ([0, 1, 2], np.float32([[0, 0], [1, 0], [0, 2]])),
    'a single PID': ([0, 0, 0], np.float32([[0, 0], [1, 0], [0, 2]])),
    'two images of one PID': ([5, 5], np.float32([[0, 0], [1, 0]])),
    'two images of two PIDs': ([5, 6], np.float32([[0, 0], [1, 0]])),
    'identical images': ([0, 0, 1, 1], np.ones((4, 2), np.float32)),
}


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
    names = ', '.join(loss.METRIC_CHOICES)
    with pytest.raises(
        ValueError, match=f"'cosin' is unknown; expected one of {names}$"
    ):
        loss.cdist(np.zeros((2, 2)), np.zeros((2, 2)), 'cosin')


@pytest.mark.parametrize('metric', loss.METRIC_CHOICES)
def test_gradient_is_finite_when_images_are_identical(metric):
    embs = tf.Variable(np.ones((4, 3), np.float32))
    with tf.GradientTape() as tape:
        dists = loss.cdist(embs, embs, metric)
        mean = tf.reduce_mean(loss.batch_hard(dists, ['a', 'a', 'b', 'b'], 'soft'))
    assert np.isfinite(mean)
    assert np.all(np.isfinite(tape.gradient(mean, embs)))


def test_cosine_is_the_one_that_the_evaluator_means():
    points, others = np.float32(RNG.normal(size=(2, 5, 3)))
    points[0] = others[0] * 3  # The same direction: distance 0, not some rounding.
    dists = loss.cdist(points, others, 'cosine')
    expected = ranking.compute_distances(points, others, 'cosine')
    np.testing.assert_allclose(dists, expected, rtol=1e-5, atol=1e-7)
    assert loss.cdist([[1.0, 0.0]], [[-7.0, 0.0]], 'cosine') == 2


def test_gradient_of_cosine_is_finite_for_a_vector_of_zeros():
    embs = tf.Variable([[0.0, 0.0], [1.0, 0.0]])
    with tf.GradientTape() as tape:
        dists = loss.cdist(embs, embs, 'cosine')
    np.testing.assert_array_equal(dists, [[0, 0.5], [0.5, 0]])
    assert np.all(np.isfinite(tape.gradient(dists, embs)))


# --- losses over the whole batch --------------------------------------------------


def cost(difference, margin):
    """Return the loss of one difference of distances."""
    if margin == 'soft':
        return math.log1p(math.exp(difference))
    return difference if margin == 'none' else max(0.0, difference + margin)


def triplets_of(pids):
    """Yield (anchor, positive, negative) of a batch."""
    rows = range(len(pids))
    for a in rows:
        for p in rows:
            for n in rows:
                if a != p and pids[a] == pids[p] and pids[a] != pids[n]:
                    yield a, p, n


def batch_all_by_loop(dists, pids, margin):
    """Return the mean loss of all triplets."""
    costs = [cost(dists[a, p] - dists[a, n], margin) for a, p, n in triplets_of(pids)]
    return np.mean(costs) if costs else 0


def batch_all_nonzero_by_loop(dists, pids, margin):
    """Return the mean loss of the triplets whose loss is above 0."""
    costs = [cost(dists[a, p] - dists[a, n], margin) for a, p, n in triplets_of(pids)]
    costs = [c for c in costs if c > 0]
    return np.mean(costs) if costs else 0


def lifted_by_loop(dists, pids, margin):
    """Return Oh Song's loss, pair by pair."""
    total, num_pairs = 0, 0
    for i in range(len(pids)):
        for j in range(i + 1, len(pids)):
            if pids[i] != pids[j]:
                continue
            num_pairs += 1
            pushes = sum(
                math.exp(margin - dists[i, n]) + math.exp(margin - dists[j, n])
                for n in range(len(pids))
                if pids[n] != pids[i]
            )
            if pushes:
                total += max(0, dists[i, j] + math.log(pushes)) ** 2
    return total / (2 * num_pairs) if num_pairs else 0


def lifted_general_by_loop(dists, pids, margin):
    """Return the mean over the anchors of the paper's generalised lifted loss."""
    costs = []
    for a in range(len(pids)):
        pulls = sum(
            math.exp(dists[a, p])
            for p in range(len(pids))
            if p != a and pids[p] == pids[a]
        )
        pushes = sum(
            math.exp(-dists[a, n]) for n in range(len(pids)) if pids[n] != pids[a]
        )
        has_both = pulls and pushes
        costs.append(
            cost(math.log(pulls) + math.log(pushes), margin) if has_both else 0
        )
    return np.mean(costs)


ORACLES = {
    'batch_all': batch_all_by_loop,
    'batch_all_nonzero': batch_all_nonzero_by_loop,
    'lifted': lifted_by_loop,
    'lifted_general': lifted_general_by_loop,
}


def margins_of(name):
    """Return margins that a loss takes."""
    return (0.3,) if name in loss.HINGE_LOSSES else (0.3, 'soft', 'none')


def losses_and_gradient(name, pids, points, margin):
    """Return a loss's values [B] and the gradient [B, 2] of their mean."""
    points = tf.Variable(points)
    with tf.GradientTape() as tape:
        dists = loss.cdist(points, points, 'euclidean')
        losses = loss.batch_losses(name, dists, pids, margin, [1, 2])
        mean = tf.reduce_mean(losses)
    return losses.numpy(), tape.gradient(mean, points)


@pytest.mark.parametrize('batch', [*BATCHES, *DEGENERATE_BATCHES])
@pytest.mark.parametrize(
    'name, margin', [(name, margin) for name in ORACLES for margin in margins_of(name)]
)
def test_mean_over_anchors_equals_the_loss_by_loops(name, margin, batch):
    pids, points = (BATCHES | DEGENERATE_BATCHES)[batch]
    # To float64 only now: both sides see the same rounded distances.
    dists = np.float64(loss.cdist(points, points, 'euclidean'))
    expected = ORACLES[name](dists, pids, margin)
    losses, _ = losses_and_gradient(name, pids, points, margin)
    assert losses.shape == (len(pids),)
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('batch', DEGENERATE_BATCHES)
@pytest.mark.parametrize('name', sorted(set(loss.LOSS_CHOICES) - set(loss.PAIR_LOSSES)))
def test_losses_and_gradients_of_degenerate_batches_are_finite(name, batch):
    pids, points = DEGENERATE_BATCHES[batch]
    for margin in margins_of(name):
        losses, gradient = losses_and_gradient(name, pids, points, margin)
        assert np.all(np.isfinite(losses))
        assert np.all(np.isfinite(gradient))
        if batch != 'identical images':  # No other has a triplet.
            np.testing.assert_array_equal(losses, 0)
            np.testing.assert_array_equal(gradient, 0)


def test_batch_all_counts_every_triplet_and_nonzero_the_unsolved():
    points = np.float32([0, 1, 3, 7])
    dists = np.abs(points[:, None] - points[None])  # [4, 4]
    # Anchors in order: 1 - 3, 1 - 7; 1 - 2, 1 - 6; 4 - 3, 4 - 2; 4 - 7, 4 - 6. With a
    # margin of 2, three are above 0: 1 (second anchor), 3 and 4 (third anchor).
    pids = ['a', 'a', 'b', 'b']
    means = loss.batch_all(dists, pids, 2.0)
    np.testing.assert_allclose(means, np.float32([0, 1, 7, 0]) * 4 / 8)
    means = loss.batch_all_nonzero(dists, pids, 2.0)
    np.testing.assert_allclose(means, np.float32([0, 1, 7, 0]) * 4 / 3, rtol=1e-6)


def test_batch_all_keeps_one_number_for_each_anchor_positive_and_image():
    losses, is_triplet = loss.triplet_losses(
        np.zeros((12, 12), np.float32), np.repeat(np.arange(4), 3), 'soft'
    )
    assert losses.shape == is_triplet.shape == (12, 3 - 1, 12)
    assert np.count_nonzero(is_triplet) == 12 * 2 * 9


def test_lifted_of_one_pair():
    # One pair at distance 2, its negative at 1 and 3: J = 2 + log(e^-1 + e^-3) with
    # the margin 0; the loss is J^2 / 2, in equal shares of the two, times B = 3.
    dists = np.float32([[0, 2, 1], [2, 0, 3], [1, 3, 0]])
    share = (2 + math.log(math.exp(-1) + math.exp(-3))) ** 2 / 4 * 3
    losses = loss.lifted(dists, ['a', 'a', 'b'], 0.0)
    np.testing.assert_allclose(losses, [share, share, 0], rtol=1e-6)


def test_lifted_general_with_one_pair_each_is_batch_hard():
    dists = np.float32([[0, 2, 5], [2, 0, 3], [5, 3, 0]])
    pids = ['a', 'a', 'b']
    for margin in (2.5, 'soft', 'none'):
        expected = loss.batch_hard(dists, pids, margin)[:2]
        found = loss.lifted_general(dists, pids, margin)
        np.testing.assert_allclose(found[:2], expected, rtol=1e-6)
        assert found[2] == 0  # Without a positive.


def test_lifted_takes_numbers_only():
    for margin in ('soft', 'none'):
        with pytest.raises(ValueError, match='takes a number as margin, not'):
            loss.lifted(np.zeros((2, 2), np.float32), ['a', 'a'], margin)


@pytest.mark.parametrize('name', ['batch_all', 'batch_all_nonzero', 'lifted_general'])
def test_other_losses_refuse_an_unknown_margin(name):
    dists = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match="margin 'sotf'; expected a number, 'soft'"):
        loss.LOSS_CHOICES[name](dists, ['a', 'a', 'b'], 'sotf')


def test_columns_are_drawn_with_the_probabilities_of_the_softmax():
    num_rows = 20000
    logits = np.float32([[np.log(1), np.log(3), 9, np.log(4)]] * num_rows)
    is_allowed = np.array([[True, True, False, True]] * num_rows)
    columns = loss.draw_columns(tf.constant(logits), is_allowed, [3, 4])
    shares = np.bincount(columns, minlength=4) / num_rows
    # Four standard deviations of a share of 20000 draws are at most 0.0142.
    np.testing.assert_allclose(shares, [1 / 8, 3 / 8, 0, 4 / 8], atol=0.0142)


def test_batch_sample_pairs_a_drawn_positive_with_a_drawn_negative():
    pids, points = BATCHES['P x K']
    dists = loss.cdist(points, points, 'euclidean').numpy()
    for seed in range(5):
        drawn = loss.batch_sample(dists, pids, 'none', [7, seed]).numpy()
        for a, difference in enumerate(drawn):
            triplets = [t for t in triplets_of(pids) if t[0] == a]
            possible = [dists[a, p] - dists[a, n] for _, p, n in triplets]
            assert np.min(np.abs(possible - difference)) < 1e-6


def test_batch_sample_takes_what_is_far_likelier():
    # Positives at 1 and 50, negatives at 90 and 20: the others have e^-49 and e^-70.
    row = np.float32([[0, 1, 50, 90, 20]] * 5)
    found = loss.batch_sample(row, ['a', 'a', 'a', 'b', 'b'], 'none', [1, 2])
    assert found[0] == 50 - 20


def test_batch_sample_depends_on_nothing_but_its_seed():
    pids, points = BATCHES['P x K']
    dists = loss.cdist(points, points, 'euclidean')
    a, again, other = (
        loss.batch_sample(dists, pids, 'soft', [7, step]).numpy() for step in (0, 0, 1)
    )
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, other)


# --- the original's numbers --------------------------------------------------------


@pytest.mark.parametrize('metric', GOLDEN_METRICS)
def test_cdist_of_different_sets_equals_the_original(golden, metric):
    a, b = golden['cdist_rect/a'], golden['cdist_rect/b']
    expected = golden[f'cdist_rect/{metric}']
    np.testing.assert_allclose(loss.cdist(a, b, metric), expected, rtol=1e-5)


@pytest.mark.parametrize('case', INDEX)
@pytest.mark.parametrize('metric', GOLDEN_METRICS)
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
@pytest.mark.parametrize('metric', GOLDEN_METRICS)
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
