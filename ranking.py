"""From embeddings to ranks and scores: AP, CMC, mINP. NumPy only, nothing printed.

    ranks = rank_all(query_embs, gallery_embs, query_pids, gallery_pids,
                     lambda rows: excluder(query_fids[rows]), metric='euclidean')
    aps = [step_average_precision(r) for r in ranks if len(r.ranks)]

The [Q, G] matrix is never held whole: queries come in blocks. Of each row only the
few true matches are ranked, by looking them up in the sorted distances.

Ties. Distances are computed in float64 and rounded to float32, the precision of the
embeddings. So distances that are equal in mathematics but differ in the last bits of
the matrix product, as for a duplicated gallery image, are equal here too. Tied images
count in the order of their gallery rows, except where a definition (the step AP) says
that ties are one group.
"""

import typing

import numpy as np

# Float64 distances of 256 queries to so many gallery images fit a CPU's cache.
GALLERY_CHUNK = 4096

# Bounds the distances of a block to 128 MB, whatever the gallery's length.
MAX_BLOCK_PAIRS = 2**25

# Below this share of |q|^2 + |g|^2, rounding spoils the product form of a squared
# distance: at 1e-8 its relative error is 2^-52 / 1e-8, still under float32's 2^-24.
CANCELLATION = 1e-8


# --- distances -------------------------------------------------------------------


def euclidean(query_embs, gallery_embs):
    """Return the Euclidean distances, float64 [Q, G], of float64 embeddings."""
    sq_dists = sqeuclidean(query_embs, gallery_embs)
    return np.sqrt(sq_dists, out=sq_dists)


def sqeuclidean(query_embs, gallery_embs):
    """Return the squared Euclidean distances of all pairs.

        |q - g|^2 = |q|^2 + |g|^2 - 2 q.g

    The product is a matrix product, hence fast, but for near-duplicates the right side
    is a small difference of large numbers; those few are computed from the left side.

    Args:
        query_embs: float64 [Q, D].
        gallery_embs: float64 [G, D].

    Returns:
        float64 [Q, G], nowhere negative, exactly 0 for equal embeddings.
    """
    query_sq_lens = np.einsum('qd,qd->q', query_embs, query_embs)[:, None]  # [Q, 1]
    gallery_sq_lens = np.einsum('gd,gd->g', gallery_embs, gallery_embs)  # [G]
    sq_dists = (-2 * query_embs) @ gallery_embs.T  # [Q, G]
    sq_dists += query_sq_lens
    sq_dists += gallery_sq_lens
    # Against the longest gallery embedding: errs towards computing a pair again.
    is_inexact = sq_dists <= CANCELLATION * (query_sq_lens + gallery_sq_lens.max())
    for row in np.flatnonzero(is_inexact.any(axis=1)):
        cols = np.flatnonzero(is_inexact[row])
        diffs = gallery_embs[cols] - query_embs[row]  # [near-duplicates, D]
        sq_dists[row, cols] = np.einsum('nd,nd->n', diffs, diffs)
    return sq_dists


def cityblock(query_embs, gallery_embs):
    """Return the sums of absolute differences, float64 [Q, G], of float64 rows."""
    # Imported here because SciPy's 0.2 s would double the time of evaluate.py --help.
    from scipy.spatial import distance

    return distance.cdist(query_embs, gallery_embs, 'cityblock')


METRICS = {
    'euclidean': euclidean,
    'sqeuclidean': sqeuclidean,
    'cityblock': cityblock,
}
METRIC_CHOICES = tuple(METRICS)


def compute_distances(query_embs, gallery_embs, metric):
    """Return the distances of a block of queries to the gallery.

    Args:
        query_embs: [Q, D], any float or integer type.
        gallery_embs: [G, D], likewise.
        metric: one of METRIC_CHOICES.

    Returns:
        float32 [Q, G]: computed in float64 and rounded, see the top of this file.

    Raises:
        ValueError: a distance is too large for float32.
    """
    query_embs = np.asarray(query_embs, np.float64)
    dists = np.empty((len(query_embs), len(gallery_embs)), np.float32)
    try:
        with np.errstate(over='raise'):
            for start in range(0, len(gallery_embs), GALLERY_CHUNK):
                cols = slice(start, start + GALLERY_CHUNK)
                chunk = np.asarray(gallery_embs[cols], np.float64)
                dists[:, cols] = METRICS[metric](query_embs, chunk)
    except FloatingPointError as error:
        raise ValueError(
            f'a {metric} distance exceeds float32 (3.4e38); scale the embeddings down'
        ) from error
    return dists


# --- ranks -----------------------------------------------------------------------


class MatchRanks(typing.NamedTuple):
    """Where a query's M true matches stand among the images that it does not ignore.

    Attributes:
        ranks: int64 [M], ascending, 1 = nearest; ties in the order of gallery rows.
        last_ranks: int64 [M], how many images are at most as far as the match, that
            is, the rank of the last image tied with it.
    """

    ranks: np.ndarray
    last_ranks: np.ndarray


def rank_all(
    query_embs,
    gallery_embs,
    query_pids,
    gallery_pids,
    is_ignored,
    metric='euclidean',
    batch_size=256,
):
    """Rank the true matches of every query.

    Args:
        query_embs: [Q, D], finite numbers.
        gallery_embs: [G, D], finite numbers.
        query_pids: [Q] of str.
        gallery_pids: [G] of str. A match is a gallery image of the query's PID.
        is_ignored: function of a slice of query rows that returns bool [rows, G], True
            where the query ignores the gallery image, be it a match or not.
        metric: one of METRIC_CHOICES.
        batch_size: queries per block, fewer if the gallery is long. It bounds memory;
            at most the last bit of a distance depends on it.

    Returns:
        list [Q] of MatchRanks; one without ranks has no match.
    """
    rows_of_pid = group_rows(gallery_pids)
    no_rows = np.empty(0, np.int64)
    block_size = max(1, min(batch_size, MAX_BLOCK_PAIRS // len(gallery_pids)))
    ranks = []
    for start in range(0, len(query_pids), block_size):
        block = slice(start, start + block_size)
        dists = compute_distances(query_embs[block], gallery_embs, metric)
        matches = [rows_of_pid.get(pid, no_rows) for pid in query_pids[block]]
        ranks += rank_matches(dists, is_ignored(block), matches)
    return ranks


def group_rows(pids):
    """Return {PID: int64 array of its rows, ascending}."""
    rows = {}
    for row, pid in enumerate(pids):
        rows.setdefault(pid, []).append(row)
    return {pid: np.array(rows_of_one) for pid, rows_of_one in rows.items()}


def rank_matches(dists, is_ignored, matches):
    """Rank the true matches of a block of queries.

    Args:
        dists: float32 [Q, G], finite; overwritten: what is ignored becomes infinite.
        is_ignored: bool [Q, G].
        matches: per query, the gallery rows of its PID, ascending, ignored ones
            included.

    Returns:
        list [Q] of MatchRanks.
    """
    # Infinity sorts behind all that counts, so that it never changes a rank.
    np.copyto(dists, np.inf, where=is_ignored)
    sorted_dists = np.sort(dists, axis=1)
    return [
        rank_matches_of_one(dists[q], sorted_dists[q], rows[~is_ignored[q, rows]])
        for q, rows in enumerate(matches)
    ]


def rank_matches_of_one(dists, sorted_dists, rows):
    """Return the MatchRanks of one query.

    Args:
        dists: float32 [G], infinite where ignored.
        sorted_dists: the same, ascending.
        rows: int64 [M], gallery rows of the true matches, ascending, none ignored.
    """
    rows = rows[np.argsort(dists[rows], kind='stable')]
    num_nearer = np.searchsorted(sorted_dists, dists[rows], side='left')
    last_ranks = np.searchsorted(sorted_dists, dists[rows], side='right')
    ranks = num_nearer + 1
    for i in np.flatnonzero(last_ranks > ranks):  # Ties: who comes earlier counts.
        ranks[i] += np.count_nonzero(dists[: rows[i]] == dists[rows[i]])
    return MatchRanks(ranks, last_ranks)


def check_any_match(ranks):
    """Raise ValueError if no query has a match: then nothing can be scored."""
    if not any(len(r.ranks) for r in ranks):
        raise ValueError(
            f'none of the {len(ranks)} queries has a match in the gallery that is not '
            'ignored; check that query set, gallery and excluder belong together'
        )


# --- scores ----------------------------------------------------------------------


def step_average_precision(match_ranks):
    """Return the average precision with precision as a step function of recall.

        AP = 1/M * sum over matches m of
                 (matches at most as far as m) / (images at most as far as m)

    Images at the same distance are one group, whose order does not matter. This is
    `sklearn.metrics.average_precision_score` of the negated distances since version
    0.19, and what most PyTorch suites for person re-identification report.

    Args:
        match_ranks: MatchRanks of a query with at least one match.

    Returns:
        float in (0, 1].
    """
    last_ranks = match_ranks.last_ranks
    num_found = np.searchsorted(last_ranks, last_ranks, side='right')
    return float(np.mean(num_found / last_ranks))


def market1501_average_precision(match_ranks):
    """Return the average precision of Market-1501's MATLAB code, the paper's.

        AP = 1/M * sum over j of ((j-1) / (r_j - 1) + j / r_j) / 2

    is the area under the precision-recall curve by the trapezoid rule: r_j is the rank
    of the j-th match, and precision before the first image is 1. Never above the step
    definition when there are no ties. Ties in the order of gallery rows.

    Args:
        match_ranks: MatchRanks of a query with at least one match.

    Returns:
        float in (0, 1].

    Source: Zheng et al. 2015, the data set's evaluation code (compute_AP.m).
    """
    ranks = match_ranks.ranks
    num_found = np.arange(1, len(ranks) + 1)
    precisions = num_found / ranks
    # Rank 1 is preceded by nothing: 0 / 0, defined as 1.
    precisions_before = (num_found - 1 + (ranks == 1)) / np.maximum(ranks - 1, 1)
    return float(np.mean((precisions_before + precisions) / 2))


def inverse_negative_penalty(match_ranks):
    """Return M / (rank of the last of the M matches), a float in (0, 1].

    Its mean over queries is the mINP: the effort to find even the hardest match.
    Source: Ye et al. 2020, arXiv:2001.04193, section 4.
    """
    return len(match_ranks.ranks) / int(match_ranks.ranks[-1])


def cumulative_matching_characteristic(ranks, num_gallery):
    """Return the CMC: the share of queries with a match among the k nearest images.

    Args:
        ranks: list [Q] of MatchRanks. A query without a match never succeeds, but
            counts among the Q.
        num_gallery: G.

    Returns:
        float64 [G], for k = 1 .. G.
    """
    first_ranks = [r.ranks[0] for r in ranks if len(r.ranks)]
    counts = np.bincount(np.array(first_ranks, np.int64), minlength=num_gallery + 1)
    return np.cumsum(counts[1:]) / len(ranks)
