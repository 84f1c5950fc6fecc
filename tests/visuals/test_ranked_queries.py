import numpy as np
import pytest

import embedding_files
import excluders
from evaluation import ranking, rerank
from visuals import ranked_queries


def match_ranks(*ranks):
    return ranking.MatchRanks(np.array(ranks), np.array(ranks))


# A single match at rank r has AP 1/r; queries 1 and 3 have none.
RANKS = [
    match_ranks(1),
    match_ranks(),
    match_ranks(4),
    match_ranks(),
    match_ranks(2),
    match_ranks(5),
    match_ranks(3),
]


APS = ranked_queries.find_average_precisions(RANKS)


def test_a_query_without_a_match_has_no_average_precision():
    np.testing.assert_allclose(APS, [1, np.nan, 1 / 4, np.nan, 1 / 2, 1 / 5, 1 / 3])


@pytest.mark.parametrize(
    'order, num_queries, expected',
    [
        ('worst', 3, [5, 2, 6]),
        ('worst', 100, [5, 2, 6, 4, 0]),
        ('spread', 3, [5, 6, 0]),
        ('spread', 1, [5]),
        ('spread', 100, [5, 2, 6, 4, 0]),
        ('unmatched', 1, [1]),
        ('unmatched', 100, [1, 3]),
    ],
)
def test_queries_come_from_the_worst_to_the_best(order, num_queries, expected):
    everything = np.arange(len(APS))
    rows = ranked_queries.choose_queries(APS, everything, num_queries, order)
    assert rows.tolist() == expected


@pytest.mark.parametrize(
    'order, candidates, expected',
    [
        ('worst', [0, 1, 6], [6, 0]),
        ('spread', [0, 1, 6], [6, 0]),
        ('unmatched', [0, 1, 6], [1]),
        # Where nothing else is, they are shown unasked.
        ('worst', [1, 3], [1, 3]),
        ('spread', [1, 3], [1, 3]),
    ],
)
def test_queries_are_chosen_among_the_candidates(order, candidates, expected):
    rows = ranked_queries.choose_queries(APS, np.array(candidates), 10, order)
    assert rows.tolist() == expected


def test_unmatched_queries_must_exist():
    with pytest.raises(
        ValueError, match='all 2 queries have a match .*choose worst or spread$'
    ):
        ranked_queries.choose_queries(APS, np.array([0, 2]), 3, 'unmatched')


def test_the_others_are_told_of_from_the_worst_to_those_without_a_match():
    pids = np.array(list('abcdefg'), object)
    task = ranking.Task(None, pids, pids[[0, 1, 2, 4, 5, 6]], None)
    others = ranked_queries.score_others([5, 6], APS, RANKS, task)
    assert [tuple(one) for one in others[:3]] == [
        (2, 0.25, True, 1, 4),
        (4, 0.5, True, 1, 2),
        (0, 1, True, 1, 1),
    ]
    # That of PID b ignores its matches, that of PID d has none in the gallery.
    assert [(one.row, *one[2:]) for one in others[3:]] == [
        (1, True, 0, 0),
        (3, False, 0, 0),
    ]


def find(dists, ignored, matches, top_k):
    """Return find_nearest's first rank, rows and ranks, as lists."""
    is_ignored, is_match = np.zeros((2, len(dists)), bool)
    is_ignored[ignored] = is_match[matches] = True
    nearest = ranked_queries.find_nearest(
        np.float32(dists), is_ignored, is_match, top_k
    )
    rows = nearest.gallery_rows.tolist()
    assert nearest.dists.tolist() == [dists[row] for row in rows]
    return nearest.first_rank, rows, nearest.ranks.tolist()


def test_the_ignored_are_shown_on_the_way_but_have_no_rank():
    # Nearest first: row 2 (ignored), 1, 3 (a tie, in gallery order), 0 (ignored), 4.
    dists = [3, 1, 0, 1, 4]
    assert find(dists, [0, 2], [3], top_k=2) == (2, [2, 1, 3], [0, 1, 2])
    # Where fewer than k count, nothing follows the last that does.
    assert find(dists, [0, 4], [3], top_k=9) == (3, [2, 1, 3], [1, 2, 3])


def test_the_nearest_match_is_shown_even_if_it_comes_late():
    dists = [0, 1, 2, 3, 4, 5]
    assert find(dists, [3], [4, 5], top_k=2) == (4, [0, 1, 4], [1, 2, 4])


def test_without_a_match_the_nearest_are_shown_alone():
    assert find([3, 1, 2, 0], [3], [], top_k=2) == (0, [3, 1, 2], [0, 1, 2])


@pytest.mark.parametrize('kind', [ranking.EmbeddingDistances, rerank.RerankedDistances])
@pytest.mark.parametrize('block_size', [1, 100])
def test_ranks_are_those_of_the_evaluation(block_size, kind, monkeypatch):
    monkeypatch.setattr(ranked_queries, 'BLOCK_SIZE', block_size)
    rng = np.random.default_rng(0)

    def draw(num_images, pids):
        pids = rng.choice(pids, num_images).astype(object)
        cameras = rng.integers(1, 4, num_images)
        fids = [f'{pids[i]}_c{cameras[i]}s1_{i}.jpg' for i in range(num_images)]
        return embedding_files.EmbeddedDataset(
            pids, np.array(fids, object), None, rng.normal(size=(num_images, 3))
        )

    query, gallery = draw(20, ['1', '2', '3']), draw(60, ['1', '2', '3', '-1', '0'])
    is_ignored = excluders.make_mask('market1501', query, gallery)
    task = ranking.Task(
        kind(query.embs, gallery.embs), query.pids, gallery.pids, is_ignored
    )
    ranks = ranking.rank(*task)
    aps = ranked_queries.find_average_precisions(ranks)
    rows = ranked_queries.choose_queries(aps, np.arange(20), 100, 'worst')
    assert len(rows) == 20
    ranked = ranked_queries.rank_queries(rows, aps, task, top_k=60)
    for one in ranked:
        is_match = (gallery.pids[one.gallery_rows] == query.pids[one.row]) & (
            one.ranks > 0
        )
        assert one.ranks[is_match].tolist() == ranks[one.row].ranks.tolist()
        assert one.num_matches == is_match.sum()
        assert one.first_rank == ranks[one.row].ranks[0]
        assert one.average_precision == ranking.step_average_precision(ranks[one.row])
