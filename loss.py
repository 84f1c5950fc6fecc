"""Distances, losses and what is monitored beside them; tensors in, tensors out."""

import common

# Imported at first use: the names of metrics and losses are choices of flags.
tf = common.lazy_import('tensorflow')

METRIC_CHOICES = ('euclidean', 'sqeuclidean', 'cityblock')


def cdist(a, b, metric):
    """Return the distance of every row of `a` to every row of `b`.

        euclidean    sqrt(sum((a_i - b_j)^2) + 1e-12)
        sqeuclidean  sum((a_i - b_j)^2)
        cityblock    sum(|a_i - b_j|)

    Args:
        a: float32 [N, D].
        b: float32 [M, D].
        metric: one of METRIC_CHOICES.

    Returns:
        float32 [N, M].

    Raises:
        ValueError: unknown metric.
    """
    diffs = a[:, None] - b[None]  # [N, M, D]
    if metric == 'cityblock':
        return tf.reduce_sum(tf.abs(diffs), axis=-1)
    sq_dists = tf.reduce_sum(tf.square(diffs), axis=-1)  # [N, M]
    if metric == 'sqeuclidean':
        return sq_dists
    if metric == 'euclidean':
        # Identical images have distance 0, where sqrt's gradient is infinite.
        return tf.sqrt(sq_dists + 1e-12)
    raise ValueError(
        f'metric {metric!r} is unknown; expected one of {", ".join(METRIC_CHOICES)}'
    )


def pair_masks(pids):
    """Return which pairs of a batch are positive and which are negative.

    Args:
        pids: [B], any dtype tf.equal accepts.

    Returns:
        (is_positive, is_negative), bool [B, B]. An image is no positive of itself.
    """
    pids = tf.convert_to_tensor(pids)
    is_same = tf.equal(pids[:, None], pids[None])  # [B, B]
    is_self = tf.eye(tf.shape(pids)[0], dtype=tf.bool)
    return is_same & ~is_self, ~is_same


def batch_hard(dists, pids, margin):
    """Loss of each anchor against its hardest positive and negative in the batch.

    With x_i = (farthest same-PID distance) - (nearest other-PID distance):

        number m -> max(0, x_i + m)    'soft' -> log(1 + exp(x_i))    'none' -> x_i

    Args:
        dists: float32 [B, B], row = anchor, diagonal = self, unit of the metric.
        pids: [B], any dtype tf.equal accepts.
        margin: float in the unit of dists, or 'soft', or 'none'.

    Returns:
        float32 [B], one loss per anchor, not averaged.

    Raises:
        ValueError: margin is another string.

    Without positives (K = 1) the farthest positive has distance 0; without negatives
    the nearest is infinitely far, so that x_i is -inf and the soft loss 0. Equally
    hard pairs share the gradient.

    Source: Hermans, Beyer, Leibe 2017, arXiv:1703.07737, section 2.
    """
    dists = tf.convert_to_tensor(dists)
    is_positive, is_negative = pair_masks(pids)
    zeros = tf.zeros_like(dists)
    farthest_positive = tf.reduce_max(tf.where(is_positive, dists, zeros), axis=1)
    infinite = tf.fill(tf.shape(dists), tf.constant(float('inf'), dists.dtype))
    nearest_negative = tf.reduce_min(tf.where(is_negative, dists, infinite), axis=1)
    return apply_margin(farthest_positive - nearest_negative, margin)


def apply_margin(differences, margin):
    """Turn distance differences [...] into losses; see batch_hard."""
    if margin == 'soft':
        return tf.nn.softplus(differences)
    if margin == 'none':
        return differences
    if isinstance(margin, str):
        raise ValueError(f"margin {margin!r}; expected a number, 'soft' or 'none'")
    return tf.maximum(differences + margin, 0.0)


LOSS_CHOICES = {'batch_hard': batch_hard}


def nearest_are_same(dists, pids, k):
    """Say of each anchor's k nearest other images whether they have its PID.

    The nearest of all is dropped as the anchor itself, without looking; of equal
    distances the lower index counts as nearer.

    Args:
        dists: float32 [B, B].
        pids: [B].
        k: number of neighbours, below B.

    Returns:
        bool [B, k], nearest first.
    """
    pids = tf.convert_to_tensor(pids)
    _, nearest = tf.math.top_k(-dists, k + 1)  # [B, k + 1]
    return tf.equal(tf.gather(pids, nearest[:, 1:]), pids[:, None])


def batch_scores(dists, pids, k):
    """Return how well a batch retrieves itself.

    Args:
        dists: float32 [B, B].
        pids: [B].
        k: neighbours that count for the precision: K - 1 in a batch of P x K.

    Returns:
        (top1, precision): float32 scalars in 0..1, the share of anchors whose nearest
        image has their PID, and the mean share of their PID among the k nearest.
    """
    is_same = tf.cast(nearest_are_same(dists, pids, k), tf.float32)  # [B, k]
    return tf.reduce_mean(is_same[:, 0]), tf.reduce_mean(is_same)


def split_dists(dists, pids):
    """Return the distances of all positive and of all negative pairs.

    Args:
        dists: float32 [B, B].
        pids: [B].

    Returns:
        (positive, negative): float32 [...], row-major, every pair from both sides.
    """
    is_positive, is_negative = pair_masks(pids)
    return tf.boolean_mask(dists, is_positive), tf.boolean_mask(dists, is_negative)
