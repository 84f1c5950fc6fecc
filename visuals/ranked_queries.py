"""Which queries a picture shows, and which gallery images beside them.

rows, aps = choose_queries(ranks, num_queries, 'worst')
for one in rank_queries(rows, aps, query, gallery, excluder, metric, top_k): ...
"""

import typing

import numpy as np

from evaluation import ranking

# Queries whose distances to the whole gallery are in memory at once.
BLOCK_SIZE = 16

ORDER_CHOICES = ('worst', 'spread')


class RankedQuery(typing.NamedTuple):
    """A query and the k gallery images nearest to it, with the ignored among them.

    Attributes:
        row: row of the query in its data set.
        average_precision: in 0..1.
        num_matches: gallery images of its PID that it does not ignore.
        first_rank: rank of the nearest of them.
        gallery_rows: int64 [n], nearest first: all up to the k-th that counts and, if
            none of those is a match, the nearest match.
        ranks: int64 [n], 1 = the nearest that counts, 0 = ignored.
        dists: float32 [n], distances to the query.
    """

    row: int
    average_precision: float
    num_matches: int
    first_rank: int
    gallery_rows: np.ndarray
    ranks: np.ndarray
    dists: np.ndarray


class ChosenQueries(typing.NamedTuple):
    """The queries to show, those of the lowest average precision first.

    Attributes:
        rows: int64 [n], rows of the queries.
        average_precisions: float64 [n], ascending.
    """

    rows: np.ndarray
    average_precisions: np.ndarray


class Nearest(typing.NamedTuple):
    """The gallery images to show beside one query, as RankedQuery has them.

    Attributes:
        first_rank: rank of the nearest match.
        gallery_rows: int64 [n], nearest first.
        ranks: int64 [n], 0 = ignored.
        dists: float32 [n], distances to the query.
    """

    first_rank: int
    gallery_rows: np.ndarray
    ranks: np.ndarray
    dists: np.ndarray


class RankedImages(typing.NamedTuple):
    """What a picture of rankings needs besides the ranks.

    Attributes:
        query: embedding_files.EmbeddedDataset.
        gallery: embedding_files.EmbeddedDataset.
        query_cids, gallery_cids: [Q] and [G] of str, cameras; None: not known.
        image_root: directory that the FIDs are relative to.
    """

    query: typing.Any
    gallery: typing.Any
    query_cids: typing.Sequence | None
    gallery_cids: typing.Sequence | None
    image_root: str


def choose_queries(ranks, num_queries, order):
    """Return the queries to show, those of the lowest average precision first.

    Args:
        ranks: list [Q] of ranking.MatchRanks.
        num_queries: how many to choose, at most.
        order: 'worst', the first of the list of all queries sorted by average
            precision; or 'spread', queries in equal steps of the whole list.

    Returns:
        ChosenQueries.

    Raises:
        ValueError: no query has a match.
    """
    ranking.check_any_match(ranks)
    matched = np.array([row for row, r in enumerate(ranks) if len(r.ranks)], np.int64)
    aps = np.array([ranking.step_average_precision(ranks[row]) for row in matched])
    ascending = np.argsort(aps, kind='stable')
    num_queries = min(num_queries, len(ascending))
    places = np.arange(num_queries)
    if order == 'spread':
        places = np.linspace(0, len(ascending) - 1, num_queries).astype(np.int64)
    chosen = ascending[places]
    return ChosenQueries(rows=matched[chosen], average_precisions=aps[chosen])


def rank_queries(rows, aps, query, gallery, is_ignored, metric, top_k):
    """Yield a RankedQuery for each of the chosen queries.

    Args:
        rows: int64 [n], rows of the queries, each of which has a match.
        aps: float64 [n], their average precisions.
        query, gallery: embedding_files.EmbeddedDataset.
        is_ignored: of excluders.make_mask.
        metric: one of ranking.METRIC_CHOICES.
        top_k: how many gallery images that count, at most.
    """
    for start in range(0, len(rows), BLOCK_SIZE):
        block = rows[start : start + BLOCK_SIZE]
        dists = ranking.compute_distances(query.embs[block], gallery.embs, metric)
        ignored = is_ignored(block, slice(None))
        for i, row in enumerate(block):
            is_match = (gallery.pids == query.pids[row]) & ~ignored[i]
            nearest = find_nearest(dists[i], ignored[i], is_match, top_k)
            yield RankedQuery(
                row=row,
                average_precision=aps[start + i],
                num_matches=is_match.sum(),
                first_rank=nearest.first_rank,
                gallery_rows=nearest.gallery_rows,
                ranks=nearest.ranks,
                dists=nearest.dists,
            )


def find_nearest(dists, is_ignored, is_match, top_k):
    """Return the gallery images to show beside one query.

    Args:
        dists: float32 [G].
        is_ignored: bool [G].
        is_match: bool [G], True where a match is that is not ignored; there is one.
        top_k: how many that count, at most.

    Returns:
        Nearest.
    """
    order = np.argsort(dists, kind='stable')
    num_counted = np.cumsum(~is_ignored[order])
    first_match = np.argmax(is_match[order])
    last = np.searchsorted(num_counted, min(top_k, num_counted[-1]))
    places = np.arange(last + 1)
    if first_match > last:
        places = np.append(places, first_match)
    rows = order[places]
    ranks = np.where(is_ignored[rows], 0, num_counted[places])
    return Nearest(
        first_rank=num_counted[first_match],
        gallery_rows=rows,
        ranks=ranks,
        dists=dists[rows],
    )
