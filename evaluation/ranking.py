"""From embeddings to ranks and scores: AP, CMC, mINP. NumPy only, nothing printed.

    dists = EmbeddingDistances(query_embs, gallery_embs, 'euclidean')
    ranks = rank(dists, query_pids, gallery_pids,
                 lambda rows, cols: excluder(query_fids[rows], cols))
    aps = [step_average_precision(r) for r in ranks if len(r.ranks)]

The [Q, G] matrix is never held whole, and neither is the gallery: both sides come in
blocks, each block of the gallery once. Only the few true matches are ranked, by looking
them up among the sorted distances of a block and adding up over the blocks.

Ties. Distances are computed in float64 and rounded to float32, the precision of the
embeddings. So distances that are equal in mathematics but differ in the last bits of
the matrix product, as for a duplicated gallery image, are equal here too. Tied images
count in the order of their gallery rows, except where a definition (the step AP) says
that ties are one group.
"""

import typing

import numpy as np

import common
import datasets

# Float64 distances of 256 queries to so many gallery images fit a CPU's cache.
GALLERY_CHUNK = 4096

# Bounds the distances of a block to 128 MB, whatever the gallery's length.
MAX_BLOCK_PAIRS = 2**25

# Numbers in a block of gallery embeddings: 64 MB in float64. All of Market-1501 with
# 128 dimensions is one block, and then its distances are computed only once.
MAX_BLOCK_NUMBERS = 2**23

# Below this share of |q|^2 + |g|^2, rounding spoils the product form of a squared
# distance: at 1e-8 its relative error is 2^-52 / 1e-8, still under float32's 2^-24.
CANCELLATION = 1e-8

# What distances are rounded to. Smaller ones have fewer digits, or are 0.
SMALLEST, LARGEST = map(float, (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


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


def cosine(query_embs, gallery_embs):
    """Return one minus the cosines of the angles, float64 [Q, G], of float64 rows.

        1 - cos = |q/|q| - g/|g||^2 / 2

    exact for small angles too, where 1 - cos loses all digits. In 0..2.

    Raises:
        ValueError: an embedding has length 0, hence no direction.
    """
    return sqeuclidean(scale_to_unit(query_embs), scale_to_unit(gallery_embs)) / 2


def scale_to_unit(embs):
    """Return float64 [N, D] scaled to length 1; see cosine for what it raises."""
    largest = np.abs(embs).max(axis=1, keepdims=True, initial=0)
    if not largest.all():
        raise common.InputError(
            f'{np.count_nonzero(largest == 0)} embeddings consist of zeros, which have '
            'no cosine distance; choose another metric'
        )
    embs = embs / largest  # So that the squares of large numbers do not overflow.
    return embs / np.linalg.norm(embs, axis=1, keepdims=True)


METRICS = {
    'euclidean': euclidean,
    'sqeuclidean': sqeuclidean,
    'cityblock': cityblock,
    'cosine': cosine,
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
        InputError: a distance is too large for float32.
    """
    query_embs = np.asarray(query_embs, np.float64)
    dists = np.empty((len(query_embs), len(gallery_embs)), np.float32)
    for start in range(0, len(gallery_embs), GALLERY_CHUNK):
        cols = slice(start, start + GALLERY_CHUNK)
        chunk = np.asarray(gallery_embs[cols], np.float64)
        # Not every product tells of its overflow.
        with np.errstate(over='ignore', invalid='ignore'):
            dists[:, cols] = METRICS[metric](query_embs, chunk)
        # So that NaN fails, which a maximum passes on.
        if not dists[:, cols].max(initial=0) <= LARGEST:
            raise common.InputError(
                f'a {metric} distance exceeds float32 ({LARGEST:.2g}); scale the '
                'embeddings down'
            )
    return dists


def check_not_tiny(embs, metric):
    """Raise InputError if float32 holds no distances of so small embeddings.

    They would be rounded to 0, and all images tied.

    Args:
        embs: [N, D], of which at least one should be large enough; or all are zeros.
        metric: one of METRIC_CHOICES.
    """
    scale = float(np.abs(np.asarray(embs, np.float64)).max(initial=0))
    expected = scale * scale if metric == 'sqeuclidean' else scale
    if metric != 'cosine' and scale and expected < SMALLEST:
        raise common.InputError(
            f'{metric} distances of embeddings up to {scale:.2g} are too small for '
            f'float32 ({SMALLEST:.2g}); scale the embeddings up'
        )


class EmbeddingDistances:
    """The distances of Q queries to G gallery images, computed block by block.

    Args:
        query_embs: [Q, D], finite numbers, in memory.
        gallery_embs: [G, D], finite numbers; anything that slices like an array, such
            as a data set in an HDF5 file. It is read in blocks.
        metric: one of METRIC_CHOICES.
        batch_size: queries per block, at most. It bounds memory; at most the last bit
            of a distance depends on it.

    Raises:
        InputError: all queries are so small that distances might be rounded to 0.
    """

    def __init__(self, query_embs, gallery_embs, metric='euclidean', batch_size=256):
        check_not_tiny(query_embs, metric)
        self.query_embs, self.gallery_embs = query_embs, gallery_embs
        self.metric, self.batch_size = metric, batch_size
        self.shape = len(query_embs), len(gallery_embs)
        # Beyond 32768 rows, a sort gains nothing from a longer block.
        dim = max(1, query_embs.shape[1])
        self.gallery_blocks = split(
            self.shape[1], min(2**15, max(1, MAX_BLOCK_NUMBERS // dim))
        )

    def blocks(self):
        """Yield (query slice, gallery slice, their distances float32)."""
        for cols in self.gallery_blocks:
            gallery_embs = np.asarray(self.gallery_embs[cols], np.float64)
            size = min(self.batch_size, MAX_BLOCK_PAIRS // len(gallery_embs))
            for rows in split(self.shape[0], size):
                query_embs = self.query_embs[rows]
                yield (
                    rows,
                    cols,
                    compute_distances(query_embs, gallery_embs, self.metric),
                )

    def whole_rows(self):
        """Yield (query slice, distances to the whole gallery, float32)."""
        for rows in split(self.shape[0], self.batch_size, self.shape[1]):
            yield rows, self.of_rows(rows)

    def of_rows(self, rows):
        """Return the distances of some queries to the whole gallery, float32 [n, G].

        Args:
            rows: slice or int64 [n].
        """
        return compute_distances(self.query_embs[rows], self.gallery_embs, self.metric)

    def of_matches(self, rows_of_pid, cols_of_pid):
        """Return {PID: distances float32 [queries, matches]}.

        Args:
            rows_of_pid: {PID: query rows}.
            cols_of_pid: {PID: gallery rows, ascending}, of the same PIDs.
        """
        dists = {
            pid: np.empty((len(rows), len(cols_of_pid[pid])), np.float32)
            for pid, rows in rows_of_pid.items()
        }
        for block in self.gallery_blocks:
            gallery_embs = None
            for pid, cols in cols_of_pid.items():
                first, last = np.searchsorted(cols, [block.start, block.stop])
                if first == last:
                    continue
                if gallery_embs is None:  # Blocks of distractors are not even read.
                    gallery_embs = np.asarray(self.gallery_embs[block])
                dists[pid][:, first:last] = compute_distances(
                    self.query_embs[rows_of_pid[pid]],
                    gallery_embs[cols[first:last] - block.start],
                    self.metric,
                )
        return dists


def split(length, size, num_columns=1):
    """Return slices of up to `size` rows that cover 0 .. length.

    Fewer rows, if with that many columns they would exceed MAX_BLOCK_PAIRS.
    """
    size = max(1, min(size, MAX_BLOCK_PAIRS // max(1, num_columns)))
    return [slice(i, min(i + size, length)) for i in range(0, length, size)]


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


class Task(typing.NamedTuple):
    """What is ranked: the arguments of `rank`, and of all that takes the same.

    Attributes:
        dists, query_pids, gallery_pids, is_ignored: see `rank`.
    """

    dists: typing.Any
    query_pids: np.ndarray
    gallery_pids: np.ndarray
    is_ignored: typing.Callable


def rank(dists, query_pids, gallery_pids, is_ignored):
    """Rank the true matches of every query.

    Args:
        dists: EmbeddingDistances, or whatever has its shape and methods.
        query_pids: [Q] of str.
        gallery_pids: [G] of str. A match is a gallery image of the query's PID.
        is_ignored: function of query rows and gallery rows (slices or index arrays)
            that returns bool [rows, cols], True where the query ignores the gallery
            image, be it a match or not.

    Returns:
        list [Q] of MatchRanks; one without ranks has no match.
    """
    rows_of_pid, cols_of_pid = (
        datasets.group_rows(pids) for pids in (query_pids, gallery_pids)
    )
    if len(dists.gallery_blocks) > 1:
        return rank_in_blocks(dists, rows_of_pid, cols_of_pid, is_ignored)
    ranks, none = [], np.empty(0, np.int64)
    for rows, block in dists.whole_rows():
        matches = [cols_of_pid.get(pid, none) for pid in query_pids[rows]]
        ranks += rank_matches(block, is_ignored(rows, slice(None)), matches)
    return ranks


def rank_in_blocks(dists, rows_of_pid, cols_of_pid, is_ignored):
    """Rank a gallery that comes in several blocks; see `rank`.

    First the distances of the true matches alone, then one pass over all others.

    Args:
        dists: see `rank`.
        rows_of_pid: {PID: its query rows}.
        cols_of_pid: {PID: its gallery rows}.
        is_ignored: see `rank`.
    """
    rows_of_pid = {p: rows for p, rows in rows_of_pid.items() if p in cols_of_pid}
    cols_of_pid = {p: cols_of_pid[p] for p in rows_of_pid}
    dists_of_matches = dists.of_matches(rows_of_pid, cols_of_pid)
    standings = [Standing(np.empty(0, np.int64), np.empty(0))] * dists.shape[0]
    matches = [np.empty(0, np.int64)] * dists.shape[0]
    for pid, rows in rows_of_pid.items():
        cols = cols_of_pid[pid]
        is_kept = ~is_ignored(rows, cols)  # [queries of PID, matches]
        for i, row in enumerate(rows):
            matches[row] = cols
            kept = is_kept[i]
            standings[row] = Standing(cols[kept], dists_of_matches[pid][i, kept])
    for rows, cols, block in dists.blocks():
        # Infinity sorts behind all that counts, so that it never changes a rank.
        np.copyto(block, np.inf, where=is_ignored(rows, cols))
        for q, rows_of_matches in enumerate(matches[rows]):
            first, last = np.searchsorted(rows_of_matches, [cols.start, cols.stop])
            block[q, rows_of_matches[first:last] - cols.start] = np.inf
        count_others(block, cols.start, standings[rows])
    return [standing.ranks() for standing in standings]


class Standing:
    """How one query's M true matches stand, while blocks of the others are counted.

    Args:
        cols: int64 [M], gallery rows of the true matches, ascending, none ignored.
        dists: float32 [M].

    Attributes:
        cols, dists: sorted by distance, ties by gallery row.
        num_nearer: int64 [M], others that come before, so far.
        num_within: int64 [M], others at most as far, so far.
    """

    def __init__(self, cols, dists):
        order = np.argsort(dists, kind='stable')
        self.cols, self.dists = cols[order], dists[order]
        self.num_nearer = np.zeros(len(cols), np.int64)
        self.num_within = np.zeros(len(cols), np.int64)

    def ranks(self):
        """Return the MatchRanks: others counted so far, and the matches themselves."""
        return MatchRanks(
            self.num_nearer + np.arange(1, len(self.cols) + 1),
            self.num_within + np.searchsorted(self.dists, self.dists, side='right'),
        )


def count_others(dists, first_col, standings):
    """Add a block of gallery images that are no matches to the standings.

    Args:
        dists: float32 [Q, n], infinite where ignored or a match.
        first_col: gallery row of the first column.
        standings: list [Q] of Standing, updated.
    """
    sorted_dists = np.sort(dists, axis=1)
    for q, standing in enumerate(standings):
        num_nearer = np.searchsorted(sorted_dists[q], standing.dists, side='left')
        num_within = np.searchsorted(sorted_dists[q], standing.dists, side='right')
        standing.num_within += num_within
        for i in np.flatnonzero(num_within > num_nearer):  # Ties: earlier rows count.
            earlier = dists[q, : max(0, standing.cols[i] - first_col)]
            num_nearer[i] += np.count_nonzero(earlier == standing.dists[i])
        standing.num_nearer += num_nearer


def rank_matches(dists, is_ignored, matches):
    """Rank the true matches of a block of queries in the whole gallery.

    Args:
        dists: float32 [Q, G], finite; overwritten: what is ignored, and the matches,
            become infinite.
        is_ignored: bool [Q, G].
        matches: per query, the gallery rows of its PID, ascending, ignored ones
            included.

    Returns:
        list [Q] of MatchRanks.
    """
    np.copyto(dists, np.inf, where=is_ignored)
    standings = []
    for q, cols in enumerate(matches):
        kept = cols[~is_ignored[q, cols]]
        standings.append(Standing(kept, dists[q, kept]))
        dists[q, cols] = np.inf
    count_others(dists, 0, standings)
    return [standing.ranks() for standing in standings]


def check_any_match(ranks):
    """Raise ValueError if no query has a match: then nothing can be scored."""
    if not any(len(r.ranks) for r in ranks):
        raise common.InputError(
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


def mean_step_average_precision(ranks):
    """Return the mAP, as steps, of all queries that have a match.

    Args:
        ranks: list [Q] of MatchRanks.
    """
    return float(np.mean([step_average_precision(r) for r in ranks if len(r.ranks)]))


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
