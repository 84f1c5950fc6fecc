"""The nearest images and identities, against a slow, obvious ranking."""

import collections

import numpy as np
import pytest
from scipy.spatial import distance

import common
import embedding_files
from evaluation import ranking
from searching import nearest

METRICS = {'euclidean': 'euclidean', 'cityblock': 'cityblock', 'cosine': 'cosine'}


@pytest.fixture(params=[1000, 7], ids=['one block', 'blocks'])
def blocks(request, monkeypatch):
    """Let galleries come in one block, or in blocks of 7 images."""
    monkeypatch.setattr(ranking, 'MAX_BLOCK_NUMBERS', request.param * 5)


def draw(seed, num_queries=6, num_gallery=40):
    """Return (queries, gallery, PIDs), whole numbers: many distances are equal."""
    rng = np.random.default_rng(seed)
    queries = rng.integers(1, 4, (num_queries, 5)).astype(np.float32)
    gallery = rng.integers(1, 4, (num_gallery, 5)).astype(np.float32)
    pids = np.array([f'p{i}' for i in rng.integers(0, 9, num_gallery)], object)
    return queries, gallery, pids


def compute_all(queries, gallery, metric):
    """Return all distances, rounded as ranking.py rounds them."""
    return distance.cdist(queries, gallery, METRICS[metric]).astype(np.float32)


@pytest.mark.parametrize('metric', METRICS)
@pytest.mark.parametrize('count', [1, 6, 40, 50])
def test_images_are_sorted_by_distance_then_row(blocks, metric, count):
    queries, gallery, _ = draw(1)
    found = nearest.nearest_images(
        ranking.EmbeddingDistances(queries, gallery, metric, 4), count
    )
    # Against the same rounding: SciPy's cosine has other last bits.
    dists = ranking.compute_distances(queries, gallery, metric)
    np.testing.assert_allclose(dists, compute_all(queries, gallery, metric), atol=1e-6)
    for one, row in zip(found, dists, strict=True):
        order = sorted(range(40), key=lambda i: (row[i], i))[:count]
        assert one.rows.tolist() == order
        np.testing.assert_array_equal(one.dists, row[order])


def draw_embeddings(kind, rng):
    """Return a gallery float32 [500, 16] that makes float32 err."""
    if kind == 'ties':
        return rng.integers(0, 3, (500, 16)).astype(np.float32) + 1
    embs = rng.normal(size=(500, 16))
    if kind == 'far away':  # Their differences are lost in float32's squares.
        embs = embs * 1e-3 + 100
    if kind == 'near duplicates':
        embs = np.repeat(embs[:50], 10, axis=0) * (1 + 1e-7 * rng.normal(size=(500, 1)))
    if kind == 'lengths':
        embs *= 10.0 ** rng.integers(-6, 7, (500, 1))
    if kind == 'overflow':
        embs *= 1e19
    return embs.astype(np.float32)


@pytest.mark.parametrize('metric', nearest.SCREENED)
@pytest.mark.parametrize(
    'kind', ['plain', 'ties', 'far away', 'near duplicates', 'lengths', 'overflow']
)
def test_screened_images_are_those_of_the_exact_ranking(kind, metric):
    rng = np.random.default_rng(7)
    gallery = draw_embeddings(kind, rng)
    if (kind, metric) == ('overflow', 'sqeuclidean'):
        gallery /= 10  # Squares of float32's range are refused elsewhere.
    queries = np.concatenate([gallery[:20], gallery[:20] * np.float32(1.01)])
    screen = nearest.Screen(gallery, metric)
    for count in (1, 10, 600):
        found = screen.find(queries, count)
        exact = nearest.nearest_images(
            ranking.EmbeddingDistances(queries, gallery, metric), count
        )
        for one, other in zip(found, exact, strict=True):
            np.testing.assert_array_equal(one.rows, other.rows)
            np.testing.assert_array_equal(one.dists, other.dists)


@pytest.mark.parametrize('how', ['best', 'mean'])
def test_identities_are_ranked_by_their_best_or_mean_distance(blocks, how):
    queries, gallery, pids = draw(2)
    distances = ranking.EmbeddingDistances(queries, gallery, 'euclidean', 4)
    found = nearest.nearest_identities(distances, pids, how, 4)
    for one, row in zip(found, compute_all(queries, gallery, 'euclidean'), strict=True):
        of_pid = collections.defaultdict(list)
        for pid, dist in zip(pids, row.astype(float), strict=True):
            of_pid[pid].append(dist)
        score = {'best': min, 'mean': np.mean}[how]
        scores = {pid: score(dists) for pid, dists in of_pid.items()}
        expected = sorted(scores, key=lambda pid: (np.float32(scores[pid]), pid))[:4]
        assert pids[one.rows].tolist() == expected
        np.testing.assert_allclose(
            one.dists, [scores[pid] for pid in expected], rtol=1e-6
        )
        for pid, shown in zip(expected, one.rows, strict=True):
            assert row[shown] == min(of_pid[pid])


def test_identities_of_many_queries_come_in_parts(monkeypatch):
    queries, gallery, pids = draw(3)
    distances = ranking.EmbeddingDistances(queries, gallery)
    whole = nearest.nearest_identities(distances, pids, 'best', 3)
    # Distances of two queries to nine identities at once.
    monkeypatch.setattr(ranking, 'MAX_BLOCK_PAIRS', 18)
    parts = nearest.nearest_identities(distances, pids, 'best', 3)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.dists, other.dists)


def test_nearest_image_of_an_identity_may_stay_in_its_file():
    queries, gallery, pids = draw(4)
    kept = embedding_files.Kept(gallery, np.arange(40))
    found = [
        nearest.nearest_identities(
            ranking.EmbeddingDistances(queries, embs), pids, 'mean', 3
        )
        for embs in (gallery, kept)
    ]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)


def test_duplicates_are_near_pairs_of_different_pids(blocks):
    _, gallery, pids = draw(5)
    pids[::5] = None  # Nobody tells: equal to no other.
    distances = ranking.EmbeddingDistances(gallery, gallery, 'euclidean', 4)
    dists = compute_all(gallery, gallery, 'euclidean')
    expected = sorted(
        (float(dists[i, j]), i, j)
        for i in range(40)
        for j in range(i + 1, 40)
        if dists[i, j] <= 1 and (pids[i] is None or pids[i] != pids[j])
    )
    assert any(pids[i] is None and pids[j] is None for _, i, j in expected)
    assert sum(pids[i] is not None and pids[j] is not None for *_, i, j in expected) > 2
    found = nearest.find_duplicates(distances, pids, 1.0)
    assert [(one.dist, one.first, one.second) for one in found] == expected


def test_too_many_duplicates_are_refused(monkeypatch):
    _, gallery, pids = draw(6)
    distances = ranking.EmbeddingDistances(gallery, gallery)
    monkeypatch.setattr(nearest, 'MOST_PAIRS', 10)
    with pytest.raises(common.InputError, match='more than 10 pairs of different PIDs'):
        nearest.find_duplicates(distances, pids, 9.0)
