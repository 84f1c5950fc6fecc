"""CMC in galleries of one random image per identity, CUHK03's classic protocol.

    cmcs = single_shot_cmcs(dists, query_pids, gallery_pids, is_ignored, 100, seed=0)
    print(cmcs.mean(axis=0)[0], cmcs.std(axis=0)[0])    # rank 1

Of a query's own identity, the random image is one that the query does not ignore, for
example of another camera than its own. What every query ignores, such as junk, is in no
gallery, and is no identity.
"""

import numpy as np

import datasets
from evaluation import ranking

# Queries asked at once what they ignore. After the first few, little is left to ask.
ASKED_AT_ONCE = 64


def single_shot_cmcs(
    dists,
    query_pids,
    gallery_pids,
    is_ignored,
    num_galleries,
    seed=0,
    drops_unmatched=False,
):
    """Return the CMC in each of several random galleries.

    Args:
        dists: ranking.EmbeddingDistances, or whatever has its shape and methods.
        query_pids: [Q] of str.
        gallery_pids: [G] of str.
        is_ignored: see ranking.rank.
        num_galleries: T.
        seed: of the random choice; the same seed chooses the same images.
        drops_unmatched: leave queries without a match out, of which not all may be;
            otherwise they are failures.

    Returns:
        float64 [T, P], the share of queries whose match is among the k nearest of the
        P identities' images, k = 1 .. P. Ties rank in the order of gallery rows.
    """
    rng = np.random.default_rng(seed)
    shown_cols = findable_rows(is_ignored, *dists.shape)
    cols_of_pid = {
        pid: shown_cols[rows]
        for pid, rows in datasets.group_rows(gallery_pids[shown_cols]).items()
    }
    number_of_pid = {pid: number for number, pid in enumerate(cols_of_pid)}
    # An image's turn, at random: each identity shows the one whose turn is first.
    turns = rng.permuted(
        np.tile(np.arange(dists.shape[1], dtype=np.int32), (num_galleries, 1)), axis=1
    )
    shown = np.empty((num_galleries, len(cols_of_pid)), np.int64)  # [T, P]
    for cols, number in zip(cols_of_pid.values(), number_of_pid.values(), strict=True):
        shown[:, number] = choose_first(cols, turns)
    counts = np.zeros(shown.shape, np.int64)
    num_matched = 0
    for rows, block in dists.whole_rows():
        mask = is_ignored(rows, slice(None))
        np.copyto(block, np.inf, where=mask)
        for q, pid in enumerate(query_pids[rows]):
            cols = cols_of_pid.get(pid, np.empty(0, np.int64))
            cols = cols[~mask[q, cols]]
            if len(cols):
                num_matched += 1
                match_cols = choose_first(cols, turns)
                places = count_nearer(block[q], shown, match_cols, number_of_pid[pid])
                counts[np.arange(num_galleries), places] += 1
    num_queries = num_matched if drops_unmatched else dists.shape[0]
    return np.cumsum(counts, axis=1) / num_queries


def findable_rows(is_ignored, num_queries, num_gallery):
    """Return the gallery rows that at least one query does not ignore, ascending.

    Args:
        is_ignored: see ranking.rank.
        num_queries: Q.
        num_gallery: G.
    """
    ignored = np.arange(num_gallery)  # By all queries so far.
    for rows in ranking.split(num_queries, ASKED_AT_ONCE, num_gallery):
        ignored = ignored[is_ignored(rows, ignored).all(axis=0)]
    return np.setdiff1d(np.arange(num_gallery), ignored)


def choose_first(cols, turns):
    """Return int64 [T], which of the gallery rows `cols` has its turn first.

    Args:
        cols: int64 [n].
        turns: int32 [T, G].
    """
    return cols[np.argmin(turns[:, cols], axis=1)]


def count_nearer(dists, shown, match_cols, own_number):
    """Return int64 [T], how many identities come before the query's own.

    Args:
        dists: float32 [G] of one query, infinite where ignored.
        shown: int64 [T, P], gallery rows.
        match_cols: int64 [T], gallery rows of the query's own identity.
        own_number: which of the P that is.
    """
    others, match_dists = dists[shown], dists[match_cols][:, None]
    is_before = others < match_dists
    is_before |= (others == match_dists) & (shown < match_cols[:, None])
    is_before[:, own_number] = False
    return np.count_nonzero(is_before, axis=1)
