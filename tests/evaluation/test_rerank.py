import numpy as np
import pytest

from evaluation import ranking, rerank


def rerank_by_definition(embs, num_queries, k1, k2, weight, metric):
    """The formulas on top of rerank.py, with sets and dense vectors."""
    n = len(embs)
    metric = 'sqeuclidean' if metric == 'euclidean' else metric
    dists = ranking.compute_distances(embs, embs, metric).astype(np.float64)
    order = np.argsort(dists, axis=1, kind='stable')
    dists /= np.maximum(dists.max(axis=1, keepdims=True), 1e-300)

    def nearest(p, k):
        return {int(g) for g in order[p, : k + 1]}

    def reciprocal(p, k):
        return {g for g in nearest(p, k) if p in nearest(g, k)}

    encoding = np.zeros((n, n))
    for p in range(n):
        mutual = reciprocal(p, k1)
        expanded = set(mutual)
        for q in mutual:
            half = reciprocal(q, round(k1 / 2))
            if len(mutual & half) > 2 / 3 * len(half):
                expanded |= half
        for g in expanded:
            encoding[p, g] = np.exp(-dists[p, g])
        encoding[p] /= encoding[p].sum()
    encoding = np.array([encoding[order[p, :k2]].mean(axis=0) for p in range(n)])
    jaccard = np.array(
        [
            [1 - np.minimum(v, w).sum() / np.maximum(v, w).sum() for w in encoding]
            for v in encoding
        ]
    )
    final = (1 - weight) * jaccard + weight * dists
    return final[:num_queries, num_queries:]


def rerank_fast(embs, num_queries, **options):
    """Return what rerank.py makes of it, [Q, G], and check the blocks."""
    dists = rerank.RerankedDistances(
        embs[:num_queries], embs[num_queries:], batch_size=3, **options
    )
    blocks = list(dists.blocks())
    assert dists.shape == (num_queries, len(embs) - num_queries)
    assert all(block.dtype == np.float32 for _, _, block in blocks)
    return np.concatenate([block for _, _, block in blocks])


@pytest.mark.parametrize('metric', ranking.METRIC_CHOICES)
@pytest.mark.parametrize('k1, k2, weight', [(20, 6, 0.3), (4, 1, 0), (7, 3, 1)])
def test_distances_are_those_of_the_definition(metric, k1, k2, weight):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(9, 5))
    embs = centres[rng.integers(9, size=70)] + 0.4 * rng.normal(size=(70, 5))
    embs = embs.astype(np.float32)
    fast = rerank_fast(embs, 11, metric=metric, k1=k1, k2=k2, weight=weight)
    slow = rerank_by_definition(embs, 11, k1, k2, weight, metric)
    np.testing.assert_allclose(fast, slow, atol=1e-6)


@pytest.mark.parametrize('k1', range(1, 9))
@pytest.mark.parametrize('k2', range(1, 5))
@pytest.mark.parametrize('seed', range(3))
def test_small_sets_and_any_number_of_neighbours(seed, k1, k2):
    rng = np.random.default_rng(seed)
    embs = rng.normal(size=(rng.integers(2, 25), 2)).astype(np.float32)
    fast = rerank_fast(embs, 1, k1=k1, k2=k2)
    slow = rerank_by_definition(embs, 1, k1, k2, 0.3, 'euclidean')
    np.testing.assert_allclose(fast, slow, atol=1e-6)


def test_neighbours_are_nearest_first_and_ties_in_order():
    embs = np.float32([[0], [2], [-2], [1], [2]])
    neighbours, largest = rerank.find_neighbours(embs, 3, 'euclidean', batch_size=2)
    assert neighbours.tolist() == [
        [0, 3, 1],
        [1, 4, 3],
        [2, 0, 3],
        [3, 0, 1],
        [1, 4, 3],
    ]
    assert largest.tolist() == [2, 4, 4, 3, 4]


def test_images_that_are_all_the_same_have_a_finite_distance():
    assert np.isfinite(rerank_fast(np.ones((9, 2), np.float32), 2, k1=3)).all()


def test_neighbours_in_common_beat_a_stranger_at_the_same_distance():
    # Both gallery images 0.3 away; the left one, like the query, belongs to a crowd.
    crowd = np.linspace(-0.29, 0.05, 7)
    strangers = 0.3 + np.arange(9) / 100
    embs = np.concatenate([[0, -0.3], strangers, crowd]).astype(np.float32)[:, None]
    dists = rerank_fast(embs, 1, k1=8, k2=2)[0]
    assert dists[0] < dists[1]
