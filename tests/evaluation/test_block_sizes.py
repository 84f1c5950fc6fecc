"""The blocks that bound the memory of evaluations: as large as they may be."""

import numpy as np
import pytest

from evaluation import pooling, ranking


def shapes_of_blocks(num_queries, num_gallery, dim, batch_size):
    """Return the shapes of the blocks of distances, in order."""
    dists = ranking.EmbeddingDistances(
        np.zeros((num_queries, dim)), np.zeros((num_gallery, dim)), 'euclidean', 256
    )
    dists.batch_size = batch_size
    return [block.shape for _, _, block in dists.blocks()]


@pytest.mark.parametrize(
    'numbers, pairs, batch_size, expected',
    [
        # 12 numbers are 4 gallery images of 3 dimensions; all five queries at once.
        (12, 10**9, 99, [(5, 4), (5, 2)]),
        # 8 pairs are 2 queries with 4 images, and 4 with 2.
        (12, 8, 99, [(2, 4), (2, 4), (1, 4), (4, 2), (1, 2)]),
        # As many as there are: blocks are no larger than asked for.
        (10**9, 10**9, 2, [(2, 6), (2, 6), (1, 6)]),
        # One image, and one query, however small the bounds are.
        (1, 10**9, 99, [(5, 1)] * 6),
        (1, 1, 99, [(1, 1)] * 30),
    ],
)
def test_blocks_hold_as_many_numbers_and_pairs_as_they_may(
    monkeypatch, numbers, pairs, batch_size, expected
):
    monkeypatch.setattr(ranking, 'MAX_BLOCK_NUMBERS', numbers)
    monkeypatch.setattr(ranking, 'MAX_BLOCK_PAIRS', pairs)
    assert shapes_of_blocks(5, 6, 3, batch_size) == expected


def test_default_bounds_are_those_that_are_documented():
    # 128 MB of float32 distances, and 64 and 32 MB of float64 embeddings.
    assert 4 * ranking.MAX_BLOCK_PAIRS == 128 * 2**20
    assert 8 * ranking.MAX_BLOCK_NUMBERS == 64 * 2**20
    assert 8 * pooling.BLOCK_NUMBERS == 32 * 2**20
    # 32768 rows of few dimensions.
    (first, *_) = shapes_of_blocks(1, 2**15 + 1, 1, 256)
    assert first == (1, 2**15)


class Recording:
    """Embeddings that note how many rows they are asked for at once."""

    def __init__(self, embs):
        self.embs, self.shape, self.asked = embs, embs.shape, []

    def __getitem__(self, rows):
        self.asked.append(len(self.embs[rows]))
        return self.embs[rows]


def test_pooling_reads_as_many_rows_at_once_as_it_may(monkeypatch):
    embs = Recording(np.arange(15.0).reshape(5, 3))
    monkeypatch.setattr(pooling, 'BLOCK_NUMBERS', 8)
    pooled = pooling.pool(embs, np.array([0, 0, 0, 0, 1]), 'mean')
    assert embs.asked == [2, 2, 1]
    np.testing.assert_array_equal(pooled, [[4.5, 5.5, 6.5], [12, 13, 14]])
