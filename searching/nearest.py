"""The nearest of a gallery, images or identities, exactly. NumPy only.

    rows, dists = nearest_images(distances, 10)

`distances` is a ranking.EmbeddingDistances: the gallery comes in blocks, each once.
Equal distances count in the order of gallery rows, as everywhere here.
"""

import typing

import numpy as np

import common
from evaluation import ranking

# Metrics of Screen, and embeddings that it measures at once.
SCREENED, ROWS_AT_ONCE = ('euclidean', 'sqeuclidean', 'cosine'), 2**16

# More pairs than anybody looks at, and than memory should hold.
MOST_PAIRS = 10**6


class Nearest(typing.NamedTuple):
    """The nearest images of a query, or identities, of which the nearest image.

    Attributes:
        rows: int64 [k], gallery rows.
        dists: float32 [k], ascending; of an identity, what it is ranked by.
    """

    rows: np.ndarray
    dists: np.ndarray


NOTHING = Nearest(np.empty(0, np.int64), np.empty(0, np.float32))


def smallest(dists, count):
    """Return the columns of the smallest of [n], int64 [min(count, n)], ascending.

    Equal ones in the order of columns.
    """
    if count < len(dists):
        last = np.partition(dists, count - 1)[count - 1]
        columns = np.flatnonzero(dists <= last)
    else:
        columns = np.arange(len(dists))
    return columns[np.argsort(dists[columns], kind='stable')[:count]]


def nearest_images(distances, count):
    """Return the Nearest of each query, list [Q].

    Args:
        distances: ranking.EmbeddingDistances.
        count: images of each query, at most.
    """
    found = [NOTHING] * distances.shape[0]
    for rows, cols, block in distances.blocks():
        for query, dists in zip(range(rows.start, rows.stop), block, strict=True):
            columns = smallest(dists, count)
            best = found[query]
            # Those of earlier rows come first, and stay first where others are equal.
            all_dists = np.concatenate([best.dists, dists[columns]])
            all_rows = np.concatenate([best.rows, columns + cols.start])
            order = np.argsort(all_dists, kind='stable')[:count]
            found[query] = Nearest(all_rows[order], all_dists[order])
    return found


class Screen:
    """Finds the nearest images exactly, of a gallery in memory that is searched often.

    Float32 tells nearly how far all are, in a tenth of the time or less; which of them
    might be the nearest, for all that it can be wrong, is computed as everywhere here.

    Args:
        embs: float32 [G, D], an array.
        metric: one of SCREENED.

    Source of the bound: the error of a sum of D products is below D 2^-24 times the sum
    of their absolute values (Higham, Accuracy and Stability of Numerical Algorithms,
    2002, section 3.1), here at most the product of two lengths.
    """

    def __init__(self, embs, metric):
        assert embs.dtype == np.float32
        self.embs = np.ascontiguousarray(embs)
        self.metric = metric
        self.lengths = np.concatenate(
            [
                np.linalg.norm(self.embs[rows].astype(np.float64), axis=1)
                for rows in ranking.split(len(embs), ROWS_AT_ONCE)
            ]
        )
        with np.errstate(over='ignore'):  # find_one sees the infinity.
            self.squares = (self.lengths**2).astype(np.float32)

    def find(self, queries, count):
        """Return the Nearest of each query [Q, D], list [Q]; see nearest_images."""
        return [self.find_one(queries[i : i + 1], count) for i in range(len(queries))]

    def find_one(self, query, count):
        """Return the Nearest of a query [1, D]."""
        vector = np.asarray(query[0], np.float64)
        length = np.linalg.norm(vector)
        share = 2 * (len(vector) + 8) * 2.0**-24
        with np.errstate(all='ignore'):  # What is not finite is seen below.
            products = self.embs @ vector.astype(np.float32)
            if self.metric == 'cosine':
                nearly = -products / (self.lengths * length)
                error = np.float64(share)
            else:
                nearly = self.squares - 2 * products
                error = share * (length + self.lengths.max()) ** 2
            bound = find_smallest(nearly, count) + 2 * error
        if not np.isfinite(bound) or not np.isfinite(nearly).all():
            distances = ranking.EmbeddingDistances(query, self.embs, self.metric)
            return nearest_images(distances, count)[0]
        rows = np.flatnonzero(nearly <= bound)
        dists = ranking.compute_distances(query, self.embs[rows], self.metric)[0]
        chosen = smallest(dists, count)
        return Nearest(rows[chosen], dists[chosen])


def find_smallest(values, count):
    """Return the `count`-th smallest of [n], or the largest if there are fewer."""
    return np.partition(values, min(count, len(values)) - 1)[:count].max()


def nearest_identities(distances, pids, how, count):
    """Return the Nearest of each query, an image of each identity, list [Q].

    Args:
        distances: ranking.EmbeddingDistances.
        pids: [G] of str.
        how: 'best', an identity is as far as its nearest image, or 'mean' of them all.
        count: identities of each query, at most.
    """
    known, codes = np.unique(pids.astype(str), return_inverse=True)
    rows_of_code = np.split(
        np.argsort(codes, kind='stable'), np.cumsum(np.bincount(codes))[:-1]
    )
    embs = distances.query_embs
    found = []
    # A distance to each identity is held for the queries that are ranked at once.
    for rows in ranking.split(len(embs), len(embs), len(known)):
        some = ranking.EmbeddingDistances(
            embs[rows], distances.gallery_embs, distances.metric, distances.batch_size
        )
        for query, of_codes in enumerate(distances_of_codes(some, codes, how)):
            chosen = smallest(of_codes, count)
            best = [
                nearest_of(some, query, rows_of_code[code]) for code in chosen.tolist()
            ]
            found.append(Nearest(np.array(best, np.int64), of_codes[chosen]))
    return found


def distances_of_codes(distances, codes, how):
    """Return the distances of queries to identities, float32 [Q, identities].

    Args:
        distances: ranking.EmbeddingDistances.
        codes: int64 [G], identities, numbered from 0.
        how: see nearest_identities.
    """
    reduce, start = {'best': (np.minimum, np.inf), 'mean': (np.add, 0.0)}[how]
    counts = np.bincount(codes)
    total = np.full((distances.shape[0], len(counts)), start)
    for rows, cols, block in distances.blocks():
        order = np.argsort(codes[cols], kind='stable')
        groups, starts = np.unique(codes[cols][order], return_index=True)
        part = reduce.reduceat(block[:, order].astype(np.float64), starts, axis=1)
        total[rows, groups] = reduce(total[rows, groups], part)
    return (total / counts if how == 'mean' else total).astype(np.float32)


def nearest_of(distances, query, rows):
    """Return which of some gallery rows, int64 [n], is nearest to a query, a row."""
    dists = ranking.compute_distances(
        distances.query_embs[query : query + 1],
        take(distances.gallery_embs, rows),
        distances.metric,
    )
    return int(rows[dists[0].argmin()])


def take(embs, rows):
    """Return some rows, int64 [n], of what slices like an array, [n, D]."""
    if isinstance(embs, np.ndarray):
        return embs[rows]
    return np.concatenate([embs[row : row + 1] for row in rows.tolist()])


class Pair(typing.NamedTuple):
    """Two images of different identities that are near each other.

    Attributes:
        first, second: gallery rows, first < second.
        dist: their distance.
    """

    first: int
    second: int
    dist: float


def find_duplicates(distances, pids, limit):
    """Return the Pairs of images of different PIDs no further apart, nearest first.

    Args:
        distances: ranking.EmbeddingDistances of a gallery to itself.
        pids: [G] of str, or of None, which equals no other.
        limit: the largest distance.

    Raises:
        InputError: there are more than MOST_PAIRS.
    """
    known = {}
    codes = np.array([known.setdefault(pid, len(known)) if pid else -1 for pid in pids])
    pairs = []
    for rows, cols, block in distances.blocks():
        if cols.stop <= rows.start:
            continue  # Each pair once.
        is_near = block <= limit
        is_near &= np.arange(rows.start, rows.stop)[:, None] < np.arange(
            cols.start, cols.stop
        )
        is_other = codes[rows][:, None] != codes[cols]
        is_near &= is_other | (codes[cols] < 0)
        if len(pairs) + np.count_nonzero(is_near) > MOST_PAIRS:
            raise common.InputError(
                f'more than {MOST_PAIRS} pairs of different PIDs are no further apart '
                f'than {limit:g}; choose a smaller distance'
            )
        for first, second in zip(*np.nonzero(is_near), strict=True):
            pairs.append(
                Pair(
                    int(first) + rows.start,
                    int(second) + cols.start,
                    float(block[first, second]),
                )
            )
    return sorted(pairs, key=lambda pair: (pair.dist, pair.first, pair.second))
