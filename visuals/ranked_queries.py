"""Which queries a picture shows, and which gallery images beside them.

aps = find_average_precisions(ranks)
rows = choose_queries(aps, candidates, num_queries, 'worst')
for one in rank_queries(rows, aps, task, top_k): ...
"""

import typing

import numpy as np

import common
from evaluation import ranking

# Queries whose distances to the whole gallery are in memory at once.
BLOCK_SIZE = 16

ORDER_CHOICES = ('worst', 'spread', 'unmatched')


class RankedQuery(typing.NamedTuple):
    """A query and the k gallery images nearest to it, with the ignored among them.

    Attributes:
        row: row of the query in its data set.
        average_precision: in 0..1; NaN without a match.
        is_known: whether the gallery has its PID; else no image is right or wrong.
        num_matches: gallery images of its PID that it does not ignore.
        first_rank: rank of the nearest of them; 0 without a match.
        gallery_rows: int64 [n], nearest first: all up to the k-th that counts and, if
            none of those is a match, the nearest match.
        ranks: int64 [n], 1 = the nearest that counts, 0 = ignored.
        dists: float32 [n], distances to the query.
    """

    row: int
    average_precision: float
    is_known: bool
    num_matches: int
    first_rank: int
    gallery_rows: np.ndarray
    ranks: np.ndarray
    dists: np.ndarray


class Score(typing.NamedTuple):
    """What is told of a query besides its images.

    Attributes:
        row: row of the query in its data set.
        average_precision: in 0..1; NaN without a match.
        is_known: whether the gallery has its PID.
        num_matches: gallery images of its PID that it does not ignore.
        first_rank: rank of the nearest of them; 0 without a match.
    """

    row: int
    average_precision: float
    is_known: bool
    num_matches: int
    first_rank: int


class Nearest(typing.NamedTuple):
    """The gallery images to show beside one query, as RankedQuery has them.

    Attributes:
        first_rank: rank of the nearest match; 0 if there is none.
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


def find_average_precisions(ranks):
    """Return the step average precision of each query, float64 [Q]; NaN: no match.

    Args:
        ranks: list [Q] of ranking.MatchRanks.
    """
    return np.array(
        [ranking.step_average_precision(r) if len(r.ranks) else np.nan for r in ranks]
    )


def choose_queries(aps, candidates, num_queries, order):
    """Return the rows of the queries to show, int64 [n].

    Args:
        aps: float64 [Q], average precisions; NaN without a match.
        candidates: int64 [n], the rows to choose from.
        num_queries: how many to choose, at most.
        order: 'worst', the first of the list of candidates sorted by average
            precision; 'spread', some in equal steps of the whole list; 'unmatched',
            the first of those without any match. Where no candidate has a match, it is
            always these.

    Raises:
        ValueError: 'unmatched' is asked for, but every candidate has a match.
    """
    is_unmatched = np.isnan(aps[candidates])
    if order == 'unmatched' and not is_unmatched.any():
        raise common.InputError(
            f'--order unmatched given, but all {len(candidates)} queries have a match '
            'in the gallery; choose worst or spread'
        )
    if order == 'unmatched' or is_unmatched.all():
        return candidates[is_unmatched][:num_queries]
    matched = candidates[~is_unmatched]
    ascending = matched[np.argsort(aps[matched], kind='stable')]
    if order == 'worst':
        return ascending[:num_queries]
    num_shown = min(num_queries, len(ascending))
    return ascending[np.linspace(0, len(ascending) - 1, num_shown).astype(np.int64)]


def score_others(rows, aps, ranks, task):
    """Return the list of Score of all queries but some, the worst first.

    Args:
        rows: int64 [n], rows of those to leave out.
        aps: float64 [Q], average precisions.
        ranks: list [Q] of ranking.MatchRanks.
        task: ranking.Task.
    """
    known_pids, left_out = set(task.gallery_pids), set(rows)
    return [
        Score(
            row=row,
            average_precision=aps[row],
            is_known=task.query_pids[row] in known_pids,
            num_matches=len(ranks[row].ranks),
            first_rank=ranks[row].ranks[0] if len(ranks[row].ranks) else 0,
        )
        for row in np.argsort(aps, kind='stable')  # NaN comes last.
        if row not in left_out
    ]


def rank_queries(rows, aps, task, top_k):
    """Yield a RankedQuery for each of the chosen queries.

    Args:
        rows: int64 [n], rows of the queries.
        aps: float64 [Q], average precisions of all.
        task: ranking.Task.
        top_k: how many gallery images that count, at most.
    """
    known_pids = set(task.gallery_pids)
    for start in range(0, len(rows), BLOCK_SIZE):
        block = rows[start : start + BLOCK_SIZE]
        dists = task.dists.of_rows(block)
        ignored = task.is_ignored(block, slice(None))
        for i, row in enumerate(block):
            pid = task.query_pids[row]
            is_match = (task.gallery_pids == pid) & ~ignored[i]
            nearest = find_nearest(dists[i], ignored[i], is_match, top_k)
            yield RankedQuery(
                row=row,
                average_precision=aps[row],
                is_known=pid in known_pids,
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
        is_match: bool [G], True where a match is that is not ignored.
        top_k: how many that count, at most.

    Returns:
        Nearest.
    """
    order = np.argsort(dists, kind='stable')
    num_counted = np.cumsum(~is_ignored[order])
    last = np.searchsorted(num_counted, min(top_k, num_counted[-1]))
    places = np.arange(last + 1)
    first_rank = 0
    if is_match.any():
        first_match = np.argmax(is_match[order])
        first_rank = num_counted[first_match]
        if first_match > last:
            places = np.append(places, first_match)
    rows = order[places]
    ranks = np.where(is_ignored[rows], 0, num_counted[places])
    return Nearest(
        first_rank=first_rank, gallery_rows=rows, ranks=ranks, dists=dists[rows]
    )
