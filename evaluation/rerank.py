"""Re-ranking with k-reciprocal encoding: neighbours vouch for each other.

    dists = RerankedDistances(query_embs, gallery_embs, 'euclidean')
    ranks = ranking.rank(dists, query_pids, gallery_pids, is_ignored)

Of all n = Q + G images, p and g are k-reciprocal neighbours if each is among the k
nearest of the other (the image itself counts, as the nearest):

    R(p)   = the k1-reciprocal neighbours of p
    R*(p)  = R(p) and, of each q in R(p), its k1/2-reciprocal neighbours, if more than
             two thirds of those are in R(p)
    V(p)_g = exp(-d(p, g)) for g in R*(p), else 0; divided by its sum
    V(p)  <- the mean of V over the k2 nearest of p
    J(p, g) = 1 - sum_i min(V(p)_i, V(g)_i) / sum_i max(V(p)_i, V(g)_i)

    new distance = (1 - lambda) J(p, g) + lambda d(p, g)

d is the distance of the metric (squared, if Euclidean) over the largest distance of p.
V has some dozen entries a row, so it is sparse, and so is all that is made of it.

Source: Zhong et al. 2017, "Re-ranking Person Re-identification with k-reciprocal
Encoding", arXiv:1701.08398, sections 3.2 to 3.5. Where the authors' code
(https://github.com/zhunzhong07/person-re-ranking) is more definite than the paper
(d divided by the largest, "more than", V divided by its sum), this is the code's.
"""

import numpy as np

from evaluation import ranking


class RerankedDistances:
    """Distances after re-ranking; used in place of ranking.EmbeddingDistances.

    Args:
        query_embs: [Q, D], finite numbers.
        gallery_embs: [G, D], finite numbers; read into memory.
        metric: one of ranking.METRIC_CHOICES.
        batch_size: rows computed at once, at most.
        k1: nearest that may be reciprocal neighbours.
        k2: nearest that V is averaged over.
        weight: lambda, of the original distance; at 1 nothing changes the order.

    Attributes:
        shape: (Q, G).
        gallery_blocks: one slice, the whole gallery.
    """

    def __init__(
        self,
        query_embs,
        gallery_embs,
        metric='euclidean',
        batch_size=256,
        k1=20,
        k2=6,
        weight=0.3,
    ):
        self.shape = len(query_embs), len(gallery_embs)
        self.gallery_blocks = [slice(0, self.shape[1])]
        self._metric = 'sqeuclidean' if metric == 'euclidean' else metric
        self._batch_size, self._weight = batch_size, weight
        self._embs = np.concatenate([query_embs, gallery_embs])  # [n, D]
        ranking.check_not_tiny(self._embs, self._metric)
        neighbours, self._largest = find_neighbours(
            self._embs, max(k1 + 1, k2), self._metric, batch_size
        )
        expanded = expand_reciprocal(neighbours, k1)
        encoding = encode(expanded, self._embs, self._largest, self._metric)
        encoding = average(encoding, neighbours[:, :k2])
        self._query_encoding = encoding[: self.shape[0]]
        self._gallery_encoding = encoding[self.shape[0] :].tocsc()

    def whole_rows(self):
        """Yield (query slice, distances to the whole gallery, float32)."""
        for rows in ranking.split(self.shape[0], self._batch_size, self.shape[1]):
            yield rows, self.of_rows(np.arange(rows.start, rows.stop))

    def of_rows(self, rows):
        """Return the distances of queries to the whole gallery, float32 [n, G].

        Args:
            rows: int64 [n].
        """
        gallery_embs = self._embs[self.shape[0] :]
        dists = ranking.compute_distances(self._embs[rows], gallery_embs, self._metric)
        dists *= self._weight / self._largest[rows, None]
        for q, row in enumerate(rows):
            jaccard = jaccard_distances(
                self._query_encoding[row], self._gallery_encoding
            )
            dists[q] += (1 - self._weight) * jaccard
        return dists

    def blocks(self):
        """Yield (query slice, gallery slice, their distances float32)."""
        for rows, block in self.whole_rows():
            yield rows, self.gallery_blocks[0], block


def find_neighbours(embs, num_neighbours, metric, batch_size):
    """Return the nearest images of each image, and how far the farthest is.

    Args:
        embs: [n, D].
        num_neighbours: k, the image itself included; fewer if n is smaller.
        metric: one of ranking.METRIC_CHOICES.
        batch_size: rows at once, at most.

    Returns:
        (neighbours, largest): int64 [n, k], nearest first, ties in order; float32 [n],
        never 0, so that it can be divided by.
    """
    count = min(num_neighbours, len(embs))
    neighbours = np.empty((len(embs), count), np.int64)
    largest = np.empty(len(embs), np.float32)
    for rows in ranking.split(len(embs), batch_size, len(embs)):
        dists = ranking.compute_distances(embs[rows], embs, metric)
        largest[rows] = dists.max(axis=1)
        limits = np.partition(dists, count - 1, axis=1)[:, count - 1 : count]
        near_rows, near_cols = np.nonzero(dists <= limits)  # A few more, if tied.
        order = np.lexsort((near_cols, dists[near_rows, near_cols], near_rows))
        starts = np.searchsorted(near_rows, np.arange(len(dists)))
        neighbours[rows] = near_cols[order][starts[:, None] + np.arange(count)]
    return neighbours, np.where(largest > 0, largest, 1)


def to_matrix(neighbours):
    """Return a sparse int32 [n, n] with 1 where the column is a row's neighbour."""
    from scipy import sparse

    num_rows, count = neighbours.shape
    return sparse.csr_array(
        (
            np.ones(neighbours.size, np.int32),
            neighbours.ravel(),
            np.arange(0, neighbours.size + 1, count),
        ),
        shape=(num_rows, num_rows),
    )


def expand_reciprocal(neighbours, k1):
    """Return R* as a sparse [n, n], positive where g is in R*(p).

    Args:
        neighbours: int64 [n, at least k1 + 1], the image itself included.
        k1: see the top of this file.
    """
    near = to_matrix(neighbours[:, : k1 + 1])
    nearer = to_matrix(neighbours[:, : round(k1 / 2) + 1])
    mutual = near * near.T  # R
    half = nearer * nearer.T  # The same of k1/2; symmetric.
    # |R(p) and half(q)| wherever q is in R(p); a 0 there passes no threshold.
    overlap = (mutual @ half) * mutual
    sizes = half.sum(axis=1)  # [n]
    overlap = overlap.tocoo()
    overlap.data = (3 * overlap.data > 2 * sizes[overlap.col]).astype(np.int32)
    return (mutual + overlap.tocsr() @ half).tocsr()


def encode(expanded, embs, largest, metric):
    """Return V before averaging, sparse float64 [n, n], rows of sum 1.

    Args:
        expanded: sparse [n, n], positive where g is in R*(p).
        embs: [n, D].
        largest: float32 [n], what distances are divided by.
        metric: one of ranking.METRIC_CHOICES.
    """
    encoding = expanded.astype(np.float64)
    encoding.eliminate_zeros()
    for row in range(len(embs)):
        entries = slice(*encoding.indptr[row : row + 2])
        cols = encoding.indices[entries]
        dists = ranking.compute_distances(embs[row : row + 1], embs[cols], metric)[0]
        weights = np.exp(-dists / largest[row], dtype=np.float64)
        encoding.data[entries] = weights / weights.sum()
    return encoding


def average(encoding, neighbours):
    """Return the mean of V over each image's nearest, sparse like V.

    Args:
        encoding: sparse float64 [n, n].
        neighbours: int64 [n, k2].
    """
    return (to_matrix(neighbours) @ encoding / neighbours.shape[1]).tocsr()


def jaccard_distances(query_encoding, gallery_encoding):
    """Return the Jaccard distances of one query to the gallery, float64 [G].

    Rows sum to 1, so that the sum of maxima is 2 minus the sum of minima; and only
    columns where the query has an entry add to the latter.

    Args:
        query_encoding: sparse [n], V of the query.
        gallery_encoding: sparse [G, n] in CSC format, V of the gallery.
    """
    query_encoding = query_encoding.tocoo()
    cols, values = query_encoding.coords[-1], query_encoding.data
    starts, ends = gallery_encoding.indptr[cols], gallery_encoding.indptr[cols + 1]
    counts = ends - starts
    # The entries of all these columns, one column after another.
    first = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    entries = first + np.arange(len(first))
    minima = np.minimum(gallery_encoding.data[entries], np.repeat(values, counts))
    overlap = np.bincount(
        gallery_encoding.indices[entries], minima, gallery_encoding.shape[0]
    )
    overlap = np.minimum(overlap, 1)  # Rounding must not make a distance negative.
    return 1 - overlap / (2 - overlap)
