"""Losses and distances at the limits of numbers and of memory."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import loss

METRICS = ('euclidean', 'sqeuclidean', 'cityblock')
PIDS = np.repeat(np.arange(4), 3)
POINTS = np.float32(np.random.default_rng(0).normal(size=(12, 5)))


def losses_of(points, name, margin):
    """Return a loss [B] of points, in a graph, as a training step computes it."""

    # Graphs are rewritten: what holds outside of them need not hold in them.
    @tf.function
    def compute(points):
        dists = loss.cdist(points, points, 'euclidean')
        return loss.batch_losses(name, dists, PIDS, margin, tf.constant([1, 2]))

    return compute(tf.constant(points)).numpy()


@pytest.mark.parametrize('margin', [0.3, 'soft', 'none'])
@pytest.mark.parametrize('num_bad', [1, 12])
@pytest.mark.parametrize('name', loss.LOSS_CHOICES)
def test_embedding_that_is_not_a_number_makes_the_loss_none(name, num_bad, margin):
    if name in loss.HINGE_LOSSES and isinstance(margin, str):
        return
    points = POINTS.copy()
    points[:num_bad, 1] = np.nan
    assert np.isnan(losses_of(points, name, margin).mean())


def test_soft_loss_below_the_smallest_float_counts_as_above_0():
    # Two triplets: of x = 1, and of x = -191, whose softplus is 0 in float32. The mean
    # has both in its denominator.
    dists = np.float32([[0, 9, 8], [9, 0, 200], [8, 200, 0]])
    assert tf.nn.softplus(-191.0) == 0
    unsolved = loss.batch_all_nonzero(dists, ['a', 'a', 'b'], 'soft')
    np.testing.assert_allclose(np.mean(unsolved), np.log1p(np.e) / 2, rtol=1e-6)


def dists_and_gradients(a, b, weights, metric):
    """Return distances, and the gradients of their weighted sum for a and for b."""
    a, b = tf.Variable(a), tf.Variable(b)

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            dists = loss.cdist(a, b, metric)
            total = tf.reduce_sum(dists * weights)
        return dists, *tape.gradient(total, (a, b))

    return [array.numpy() for array in compute()]


def gradients_by_loop(a, b, weights, metric):
    """Return the same gradients in float64, pair by pair."""
    a, b = np.float64(a), np.float64(b)
    a_gradient, b_gradient = np.zeros_like(a), np.zeros_like(b)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        diff = a[i] - b[j]
        slope = {
            'euclidean': diff / np.sqrt((diff**2).sum() + 1e-12),
            'sqeuclidean': 2 * diff,
            'cityblock': np.sign(diff),
        }[metric]
        a_gradient[i] += weights[i, j] * slope
        b_gradient[j] -= weights[i, j] * slope
    return a_gradient, b_gradient


# Rows of `a` in a block: all, two (the last block has one), and never less than one.
@pytest.mark.parametrize('numbers', [2**24, 2 * 7 * 5 + 1, 3])
@pytest.mark.parametrize('metric', METRICS)
def test_blocks_give_the_distances_and_gradients_of_all_pairs(
    monkeypatch, metric, numbers
):
    monkeypatch.setattr(loss, 'BLOCK_NUMBERS', numbers)
    a, b = POINTS[:5], POINTS[3:10]
    weights = np.float32(np.random.default_rng(1).normal(size=(5, 7)))
    dists, *gradients = dists_and_gradients(a, b, weights, metric)
    diffs = a[:, None] - b[None]
    sums = (np.abs(diffs) if metric == 'cityblock' else diffs**2).sum(2)
    expected = np.sqrt(sums + 1e-12) if metric == 'euclidean' else sums
    # Sums of five numbers of one sign: each rounds five times or less.
    np.testing.assert_allclose(dists, expected, rtol=6 * 2**-24)
    assert dists[3, 0] == (np.float32(1e-6) if metric == 'euclidean' else 0)
    for found, wanted in zip(
        gradients, gradients_by_loop(a, b, weights, metric), strict=True
    ):
        # Seven terms of mixed signs, of 10 or less, round at 2**-24 of the largest.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=7 * 10 * 2**-23)


def peak_of_graph(batch, dim):
    """Return the largest tensor of forward and backward pass, in numbers."""

    @tf.function
    def gradient(embs):
        with tf.GradientTape() as tape:
            tape.watch(embs)
            mean = tf.reduce_mean(loss.cdist(embs, embs, 'euclidean'))
        return tape.gradient(mean, embs)

    graph = gradient.get_concrete_function(tf.TensorSpec((batch, dim))).graph
    graphs = [graph, *(f.graph for f in graph._functions.values())]
    return max(
        tensor.shape.num_elements() or 0
        for part in graphs
        for operation in part.get_operations()
        for tensor in operation.outputs
    )


def test_no_tensor_holds_the_differences_of_all_pairs():
    # B * B * D would be 2^31 numbers, 8.6 GB.
    assert peak_of_graph(1024, 2048) <= 1024 * 2048
