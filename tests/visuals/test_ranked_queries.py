import numpy as np
import pytest

import embedding_files
import excluders
from evaluation import ranking
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


@pytest.mark.parametrize(
    'order, num_queries, expected',
    [
        ('worst', 3, [5, 2, 6]),
        ('worst', 100, [5, 2, 6, 4, 0]),
        ('spread', 3, [5, 6, 0]),
        ('spread', 1, [5]),
        ('spread', 100, [5, 2, 6, 4, 0]),
    ],
)
def test_queries_come_from_the_worst_to_the_best(order, num_queries, expected):
    rows, aps = ranked_queries.choose_queries(RANKS, num_queries, order)
    assert rows.tolist() == expected
    np.testing.assert_allclose(aps, [1 / RANKS[row].ranks[0] for row in expected])


def test_no_match_at_all_is_an_error():
    with pytest.raises(ValueError, match='none of the 1 queries has a match'):
        ranked_queries.choose_queries([match_ranks()], 3, 'worst')


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


@pytest.mark.parametrize('block_size', [1, 100])
def test_ranks_are_those_of_the_evaluation(block_size, monkeypatch):
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
    ranks = ranking.rank(
        ranking.EmbeddingDistances(query.embs, gallery.embs),
        query.pids,
        gallery.pids,
        is_ignored,
    )
    rows, aps = ranked_queries.choose_queries(ranks, 100, 'worst')
    ranked = ranked_queries.rank_queries(
        rows, aps, query, gallery, is_ignored, 'euclidean', top_k=60
    )
    for one in ranked:
        is_match = (gallery.pids[one.gallery_rows] == query.pids[one.row]) & (
            one.ranks > 0
        )
        assert one.ranks[is_match].tolist() == ranks[one.row].ranks.tolist()
        assert one.num_matches == is_match.sum()
        assert one.first_rank == ranks[one.row].ranks[0]
        assert one.average_precision == ranking.step_average_precision(ranks[one.row])
