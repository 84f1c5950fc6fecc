import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import sklearn.metrics

import common
import golden_evaluation
from evaluation import ranking, rerank


def ignore_nothing(num_gallery):
    return lambda rows: np.zeros((rows.stop - rows.start, num_gallery), bool)


def rank_one(dists, is_match, is_ignored=None):
    """Return the MatchRanks of one query from its distances and matches."""
    dists = np.array([dists], np.float32)  # [1, G]
    if is_ignored is None:
        is_ignored = np.zeros(dists.shape[1], bool)
    (ranks,) = ranking.rank_matches(
        dists, np.array([is_ignored], bool), [np.flatnonzero(is_match)]
    )
    return ranks


# --- oracles: slow and obvious ---------------------------------------------------


def step_ap_by_loop(dists, is_match):
    """Precision at each distance with a match, weighted by the recall gained there."""
    num_matches = sum(is_match)
    ap = 0
    for dist in set(dists):
        gained = sum(m for d, m in zip(dists, is_match, strict=True) if d == dist)
        found = sum(m for d, m in zip(dists, is_match, strict=True) if d <= dist)
        ap += gained / num_matches * found / sum(d <= dist for d in dists)
    return ap


def market1501_ap_by_loop(dists, is_match):
    """Walk down the ranking as the MATLAB code does, adding one trapezoid a step."""
    num_found, recall_before, precision_before, ap = 0, 0, 1, 0
    for rank, i in enumerate(sorted(range(len(dists)), key=lambda i: dists[i]), 1):
        num_found += is_match[i]
        recall, precision = num_found / sum(is_match), num_found / rank
        ap += (recall - recall_before) * (precision_before + precision) / 2
        recall_before, precision_before = recall, precision
    return ap


# --- distances -------------------------------------------------------------------


@pytest.mark.parametrize('metric', golden_evaluation.METRICS)
def test_distances_are_those_of_the_original(metric):
    (_, _, query_embs), (_, _, gallery_embs), _ = golden_evaluation.load('market')
    expected = golden_evaluation.ARRAYS[f'market/dists_{metric}']
    mask = golden_evaluation.ARRAYS['market/excluder_mask'][:6]
    dists = ranking.compute_distances(query_embs[:6], gallery_embs, metric)
    assert dists.dtype == np.float32
    # The original's matrix already has infinity where an image is ignored.
    np.testing.assert_array_equal(np.isinf(expected), mask)
    np.testing.assert_allclose(dists[~mask], expected[~mask], rtol=1e-5)


@pytest.mark.parametrize(
    'metric, expected', [('euclidean', 5), ('sqeuclidean', 25), ('cityblock', 7)]
)
def test_distances_between_corners_of_a_3_4_5_triangle(metric, expected):
    embs = np.float32([[0, 0], [3, 4]])
    dists = ranking.compute_distances(embs, embs, metric)
    np.testing.assert_array_equal(dists, [[0, expected], [expected, 0]])


@pytest.mark.parametrize('metric', ranking.METRIC_CHOICES)
def test_long_galleries_are_computed_in_chunks(metric, monkeypatch):
    rng = np.random.default_rng(0)
    query_embs, gallery_embs = rng.normal(size=(3, 5)), rng.normal(size=(11, 5))
    whole = ranking.compute_distances(query_embs, gallery_embs, metric)
    monkeypatch.setattr(ranking, 'GALLERY_CHUNK', 4)
    chunked = ranking.compute_distances(query_embs, gallery_embs, metric)
    np.testing.assert_array_equal(whole, chunked)


@pytest.mark.parametrize('scale', [1e-18, 1, 1e15])
@pytest.mark.parametrize('offset', [0, 1e-3, 1, 1e4])
def test_near_duplicates_far_from_zero_keep_their_distances(scale, offset):
    # The product form loses all digits of a distance of 1e-4 at an offset of 1e4.
    rng = np.random.default_rng(1)
    steps = rng.integers(-8, 9, size=(6, 4)) * 2.0**-13
    embs = (steps + offset) * scale
    diffs = embs[:, None] - embs[None]  # [6, 6, 4]
    expected = np.sqrt((diffs**2).sum(axis=2))
    dists = ranking.compute_distances(embs, embs, 'euclidean')
    np.testing.assert_allclose(dists, expected, rtol=3e-7, atol=0)
    assert not np.diag(dists).any()


@pytest.mark.parametrize('metric', ranking.METRIC_CHOICES)
def test_duplicated_gallery_images_are_exactly_tied(metric):
    rng = np.random.default_rng(2)
    gallery_embs = np.tile(rng.normal(size=(501, 67)).astype(np.float32), (10, 1))
    query_embs = rng.normal(size=(5, 67)).astype(np.float32)
    dists = ranking.compute_distances(query_embs, gallery_embs, metric)
    assert not np.ptp(dists.reshape(5, 10, 501), axis=1).any()


def test_cosine_distances_by_hand():
    embs = np.float32([[3, 0], [0, 1e-30], [-1e30, 0], [5, 0]])
    dists = ranking.compute_distances(embs, embs, 'cosine')
    np.testing.assert_array_equal(dists[0], [0, 1, 2, 0])
    np.testing.assert_array_equal(np.diag(dists), 0)


def test_small_angles_keep_their_cosine_distance():
    # 1 - cos(1e-6) is 5e-13: of the cosine itself, float64 keeps three digits.
    embs = np.float64([[1, 0], [1, 1e-6]])
    dists = ranking.compute_distances(embs, embs, 'cosine')
    assert dists[0, 1] == pytest.approx(5e-13, rel=1e-6)


def test_zeros_have_no_cosine_distance():
    embs = np.float32([[0, 0], [1, 2]])
    with pytest.raises(ValueError, match='1 embeddings consist of zeros'):
        ranking.compute_distances(embs, embs, 'cosine')


def test_distances_that_float32_cannot_hold_are_refused():
    embs = np.float32([[1e20], [-1e20]])
    with pytest.raises(ValueError, match='sqeuclidean distance exceeds float32'):
        ranking.compute_distances(embs, embs, 'sqeuclidean')
    assert ranking.compute_distances(embs, embs, 'euclidean')[0, 1] == np.float32(2e20)


# 1e200 overflows as a square, where 1e300 does as a sum; 1e160 only as their sum.
@pytest.mark.parametrize('scale', [1e39, 1e154, 1e160, 1e200, 1e300, 1.7e308])
@pytest.mark.parametrize('metric', ['euclidean', 'sqeuclidean', 'cityblock'])
def test_overflow_within_a_distance_is_refused(metric, scale, recwarn):
    embs = scale * np.float64([[1, 0.5], [0.5, 1], [-1, 0.25]])
    message = f'^a {metric} distance exceeds float32 .3.4e.38.; scale the embeddings d'
    with pytest.raises(common.InputError, match=message):
        ranking.compute_distances(embs, embs, metric)
    assert not recwarn.list
    # The direction of an embedding has no scale.
    dists = ranking.compute_distances(embs, embs, 'cosine')
    np.testing.assert_allclose(dists[0, 1], 1 - 1 / 1.25, rtol=1e-6)


@pytest.mark.parametrize(
    'metric, fine, tiny',
    [
        ('sqeuclidean', 2e-19, 1e-19),
        ('euclidean', 2e-38, 1e-200),
        ('cityblock', 2e-38, 1e-38),
    ],
)
def test_embeddings_whose_distances_would_all_be_0_are_refused(metric, fine, tiny):
    embs = np.float64([[1], [-1]])
    message = (
        f'^{metric} distances of embeddings up to {tiny} are too small for float32'
    )
    for kind in (ranking.EmbeddingDistances, rerank.RerankedDistances):
        if (kind, metric) != (
            rerank.RerankedDistances,
            'euclidean',
        ):  # It takes squares.
            with pytest.raises(common.InputError, match=message):
                kind(tiny * embs, tiny * embs, metric)
            kind(fine * embs, fine * embs, metric)
    ranking.EmbeddingDistances(tiny * embs, embs, 'cosine')
    ranking.EmbeddingDistances(0 * embs, embs, metric)  # A net that has collapsed.


# --- ranks -----------------------------------------------------------------------


def test_ignored_images_have_no_rank():
    # The nearest is ignored, as is one of the matches: a - M x M, with - and x ignored.
    ranks = rank_one([1, 2, 3, 4], [0, 1, 1, 1], is_ignored=[1, 0, 1, 0])
    assert ranks.ranks.tolist() == [1, 2]
    assert ranks.last_ranks.tolist() == [1, 2]


def test_ties_rank_by_gallery_row_and_know_the_end_of_their_group():
    # Rows 1, 2 and 4 are tied behind row 3; rows 0 and 5 are tied behind them.
    ranks = rank_one([7, 5, 5, 1, 5, 7], [1, 0, 1, 0, 1, 0])
    assert ranks.ranks.tolist() == [3, 4, 5]
    assert ranks.last_ranks.tolist() == [4, 4, 6]


def test_a_query_without_a_match_has_no_ranks():
    assert len(rank_one([1, 2], [0, 0]).ranks) == 0
    assert len(rank_one([1, 2], [1, 0], is_ignored=[1, 0]).ranks) == 0


def test_no_match_at_all_is_an_error():
    with pytest.raises(ValueError, match='none of the 1 queries has a match'):
        ranking.check_any_match([rank_one([1, 2], [0, 0])])


@pytest.mark.parametrize('metric', ranking.METRIC_CHOICES)
def test_blocks_do_not_change_the_ranks(metric, monkeypatch):
    (query_pids, query_fids, query_embs), gallery, excluder_of = golden_evaluation.load(
        'market'
    )
    gallery_pids, gallery_fids, gallery_embs = gallery
    excluder = excluder_of(gallery_fids)

    def rank(batch_size):
        return ranking.rank(
            ranking.EmbeddingDistances(query_embs, gallery_embs, metric, batch_size),
            query_pids,
            gallery_pids,
            lambda rows, cols: excluder(query_fids[rows], cols),
        )

    whole = rank(256)
    assert len(whole) == len(query_pids)
    for batch_size in (1, 7):
        np.testing.assert_equal(rank(batch_size), whole)
    monkeypatch.setattr(ranking, 'MAX_BLOCK_PAIRS', 2 * len(gallery_pids))
    np.testing.assert_equal(rank(256), whole)
    # Galleries in several blocks take another way: matches first, then all others.
    monkeypatch.setattr(ranking, 'MAX_BLOCK_NUMBERS', 7 * query_embs.shape[1])
    np.testing.assert_equal(rank(256), whole)


@pytest.mark.parametrize('block_rows', range(1, 10))
@pytest.mark.parametrize('seed', range(7))
def test_a_gallery_in_blocks_has_the_ranks_of_a_whole_one(seed, block_rows):
    # Few values, so that ties reach over the borders of blocks.
    rng = np.random.default_rng(seed)
    num_queries, num_gallery = rng.integers(1, 20, size=2)
    query_embs = rng.integers(0, 3, size=(num_queries, 1)).astype(np.float32)
    gallery_embs = rng.integers(0, 3, size=(num_gallery, 1)).astype(np.float32)
    query_pids = rng.integers(0, 4, size=num_queries).astype(str).astype(object)
    gallery_pids = rng.integers(0, 4, size=num_gallery).astype(str).astype(object)
    mask = rng.random((num_queries, num_gallery)) < 0.2

    def is_ignored(rows, cols):
        return mask[rows][:, cols]

    dists = ranking.EmbeddingDistances(query_embs, gallery_embs)
    whole = ranking.rank(dists, query_pids, gallery_pids, is_ignored)
    dists.gallery_blocks = ranking.split(num_gallery, block_rows)
    in_blocks = ranking.rank(dists, query_pids, gallery_pids, is_ignored)
    np.testing.assert_equal(in_blocks, whole)


# --- scores ----------------------------------------------------------------------


def test_scores_of_a_ranking_by_hand():
    # M - M - : precisions 1/1 and 2/3; before the second match it was 1/2.
    ranks = rank_one([1, 2, 3, 4], [1, 0, 1, 0])
    assert ranking.step_average_precision(ranks) == pytest.approx((1 + 2 / 3) / 2)
    assert ranking.market1501_average_precision(ranks) == pytest.approx(
        ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    )
    assert ranking.inverse_negative_penalty(ranks) == pytest.approx(2 / 3)


def test_step_ap_takes_tied_images_as_one_group():
    # All four at one distance, two of them matches: precision 2/4 for both.
    ranks = rank_one([5, 5, 5, 5], [1, 0, 0, 1])
    assert ranking.step_average_precision(ranks) == pytest.approx(0.5)


def test_only_matches_score_one():
    ranks = rank_one([3, 1, 2], [1, 1, 1])
    assert ranking.step_average_precision(ranks) == 1
    assert ranking.market1501_average_precision(ranks) == 1
    assert ranking.inverse_negative_penalty(ranks) == 1


def test_cmc_counts_queries_without_a_match_as_failures():
    ranks = [
        rank_one([1, 2, 3], [1, 0, 0]),
        rank_one([1, 2, 3], [0, 0, 1]),
        rank_one([1, 2, 3], [0, 1, 1]),
        rank_one([1, 2, 3], [0, 0, 0]),
    ]
    cmc = ranking.cumulative_matching_characteristic(ranks, num_gallery=3)
    np.testing.assert_array_equal(cmc, [0.25, 0.5, 0.75])


@st.composite
def ranked_lists(draw):
    """Draw (dists, is_match, is_ignored) with at least one match; ties are common.

    One match alone, and nothing but matches, are cases of their own.
    """
    num_gallery = draw(st.integers(1, 25))
    values = st.one_of(st.integers(0, 4), st.floats(0, 100, width=32))
    dists = draw(hnp.arrays(np.float32, num_gallery, elements=values))
    is_match, is_ignored = draw(hnp.arrays(bool, (2, num_gallery)))
    lucky = draw(st.integers(0, num_gallery - 1))
    is_match[:] = draw(st.sampled_from([is_match, np.False_, np.True_]))
    is_match[lucky], is_ignored[lucky] = True, False
    return dists, is_match, is_ignored


@hypothesis.given(ranked_lists())
@hypothesis.settings(max_examples=300, deadline=None)
def test_scores_equal_the_slow_ones(ranked_list):
    dists, is_match, is_ignored = ranked_list
    ranks = rank_one(dists, is_match, is_ignored)
    dists, is_match = dists[~is_ignored].tolist(), is_match[~is_ignored].tolist()

    step_ap = ranking.step_average_precision(ranks)
    assert step_ap == pytest.approx(step_ap_by_loop(dists, is_match), abs=1e-12)
    scores = [-dist for dist in dists]
    assert step_ap == pytest.approx(
        sklearn.metrics.average_precision_score(is_match, scores), abs=1e-12
    )
    market1501_ap = ranking.market1501_average_precision(ranks)
    assert market1501_ap == pytest.approx(
        market1501_ap_by_loop(dists, is_match), abs=1e-12
    )
    order = sorted(range(len(dists)), key=dists.__getitem__)  # Stable.
    slow_ranks = [rank for rank, i in enumerate(order, 1) if is_match[i]]
    assert ranks.ranks.tolist() == slow_ranks
    assert ranking.inverse_negative_penalty(ranks) == len(slow_ranks) / slow_ranks[-1]


def test_tiny_distances_differ_from_the_original_by_its_rounded_scores_alone():
    # It scored 1 / (1 + d) in float32, where many a tiny distance becomes the same.
    # Ranked by such scores, our APs are its own; ranked by distances, they need not be.
    query, gallery, _ = golden_evaluation.load('tiny_distances')
    mask = golden_evaluation.ARRAYS['tiny_distances/excluder_mask']
    results = golden_evaluation.CASES['tiny_distances']['results']
    matches = [np.flatnonzero(gallery[0] == pid) for pid in query[0]]
    for metric in golden_evaluation.METRICS:
        dists = ranking.compute_distances(query[2], gallery[2], metric)
        scores = (1 / (1 + dists)).astype(np.float32)
        ranks = ranking.rank_matches(-scores, mask, matches)
        for average_precision, key in [
            (ranking.step_average_precision, metric),
            (ranking.market1501_average_precision, f'{metric}+market_ap'),
        ]:
            aps = [average_precision(r) for r in ranks]
            np.testing.assert_allclose(aps, results[key]['aps'], atol=1e-6)
