"""Distances, losses and what is monitored beside them; tensors in, tensors out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import common

# Imported at first use: the names of metrics and losses are choices of flags.
if TYPE_CHECKING:
    from collections.abc import Callable

    import tensorflow as tf

    # Of custom gradients: from the result's to those of two operands.
    Backward = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
else:
    tf = common.lazy_import('tensorflow')

METRIC_CHOICES = ('euclidean', 'sqeuclidean', 'cityblock', 'cosine')

# Differences in memory at the same time, 8 MB: more is slower, measured from 2**18 to
# 2**24 (bench/distances.py). A batch of 128 with 128 dimensions is one block.
BLOCK_NUMBERS = 2**21


def cdist(a: tf.Tensor, b: tf.Tensor, metric: str) -> tf.Tensor:
    """Return the distance of every row of `a` to every row of `b`.

        euclidean    sqrt(sum((a_i - b_j)^2) + 1e-12)
        sqeuclidean  sum((a_i - b_j)^2)
        cityblock    sum(|a_i - b_j|)
        cosine       1 - cos(a_i, b_j) = |a_i / |a_i| - b_j / |b_j||^2 / 2

    The last in the form that is exact for small angles too; a vector of zeros, which
    has no direction, stays one, and is 1/2 from all others.

    Args:
        a: float32 [N, D].
        b: float32 [M, D].
        metric: one of METRIC_CHOICES.

    Returns:
        float32 [N, M].

    Raises:
        ValueError: unknown metric.

    Takes memory for N M + (N + M) D numbers and one block of differences, in the
    backward pass too.
    """
    if metric == 'cosine':
        a, b = tf.nn.l2_normalize(a, axis=-1), tf.nn.l2_normalize(b, axis=-1)
        return cdist(a, b, 'sqeuclidean') / 2
    if metric == 'cityblock':
        return sum_differences(a, b, tf.abs, tf.sign)
    sq_dists = sum_differences(a, b, tf.square, lambda diffs: 2 * diffs)  # [N, M]
    if metric == 'sqeuclidean':
        return sq_dists
    if metric == 'euclidean':
        # Identical images have distance 0, where sqrt's gradient is infinite.
        return tf.sqrt(sq_dists + 1e-12)
    raise ValueError(
        f'metric {metric!r} is unknown; expected one of {", ".join(METRIC_CHOICES)}'
    )


def sum_differences(
    a: tf.Tensor,
    b: tf.Tensor,
    function: Callable[[tf.Tensor], tf.Tensor],
    derivative: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Return sum_d function(a_id - b_jd) of all rows i of `a` and j of `b`.

    Computed in blocks of rows of `a`, as are the gradients: products of matrices would
    be faster, but lose the digits of small distances.

    Args:
        a: float32 [N, D].
        b: float32 [M, D].
        function: elementwise.
        derivative: of it, elementwise.

    Returns:
        float32 [N, M].
    """

    @tf.custom_gradient
    def in_blocks(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, Backward]:
        def forward(rows: slice, nothing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            diffs = a[rows, None] - b[None]  # [rows, M, D]
            return nothing, tf.reduce_sum(function(diffs), axis=-1)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def block(
                rows: slice, b_gradient: tf.Tensor
            ) -> tuple[tf.Tensor, tf.Tensor]:
                diffs = a[rows, None] - b[None]  # [rows, M, D]
                parts = upstream[rows, :, None] * derivative(diffs)
                return b_gradient - tf.reduce_sum(parts, 0), tf.reduce_sum(parts, 1)

            b_gradient, a_gradient = map_blocks(block, a, b, tf.zeros_like(b))
            return a_gradient, b_gradient

        _, sums = map_blocks(forward, a, b, tf.constant(0.0))
        return tf.ensure_shape(sums, [a.shape[0], b.shape[0]]), backward

    return in_blocks(tf.convert_to_tensor(a), tf.convert_to_tensor(b))


def map_blocks(
    block: Callable[[slice, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    a: tf.Tensor,
    b: tf.Tensor,
    carried: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Call a function for blocks of the rows of `a`, one after another.

    Args:
        block: (rows, carried) -> (carried, [rows, ...] of the result).
        a: [N, D].
        b: [M, D]; the differences of a block and all its rows fit into memory.
        carried: tensor that each block gets from the one before.

    Returns:
        (carried, results): what the last block carried; [N, ...].
    """
    num_rows = tf.shape(a)[0]
    block_rows = tf.maximum(1, BLOCK_NUMBERS // tf.maximum(1, tf.size(b)))
    num_blocks = -(-num_rows // block_rows)

    def body(
        i: tf.Tensor, carried: tf.Tensor, results: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
        carried, result = block(slice(i * block_rows, (i + 1) * block_rows), carried)
        return i + 1, carried, results.write(i, result)

    _, carried, results = tf.while_loop(
        lambda i, *_: i < num_blocks,
        body,
        (0, carried, tf.TensorArray(a.dtype, num_blocks, infer_shape=False)),
        parallel_iterations=1,  # Or several blocks would be in memory.
    )
    return carried, results.concat()


def pair_masks(pids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
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


def batch_hard(dists: tf.Tensor, pids: tf.Tensor, margin: float | str) -> tf.Tensor:
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


def batch_all(dists: tf.Tensor, pids: tf.Tensor, margin: float | str) -> tf.Tensor:
    """Mean loss of all triplets in the batch, as shares of the anchors.

    A triplet is an anchor a, another image p of its PID, and an image n of another
    PID. With x_apn = dists[a, p] - dists[a, n] and l(x) as in batch_hard, the loss is

        mean over all T triplets of l(x_apn)

    and that of anchor a is B / T * (sum over p and n of l(x_apn)), so that the mean
    over the anchors is the loss, however many triplets each has.

    Args:
        dists: float32 [B, B], row = anchor, diagonal = self, unit of the metric.
        pids: [B], any dtype tf.equal accepts.
        margin: float in the unit of dists, or 'soft', or 'none'.

    Returns:
        float32 [B]; 0 for an anchor without triplets (K = 1, or a single PID).

    Raises:
        ValueError: margin is another string.

    Takes memory for B * B * (K - 1) numbers, K being the most images of one PID.

    Source: Hermans, Beyer, Leibe 2017, arXiv:1703.07737, section 2.
    """
    losses, is_triplet = triplet_losses(dists, pids, margin)
    return share_mean(losses, is_triplet)


def batch_all_nonzero(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str
) -> tf.Tensor:
    """Mean loss of the triplets whose loss is above 0, as shares of the anchors.

    As batch_all, but T counts only the triplets with l(x_apn) > 0: the many that are
    solved do not dilute the mean. Without any, the loss is 0. A soft loss is above 0
    for every triplet, also where float32 has no such number, so that batch_all is the
    same there. A loss that is not a number counts.

    Args:
        dists: float32 [B, B], row = anchor, diagonal = self, unit of the metric.
        pids: [B], any dtype tf.equal accepts.
        margin: float in the unit of dists, or 'soft', or 'none'.

    Returns:
        float32 [B]; 0 for an anchor without such triplets.

    Raises:
        ValueError: margin is another string.

    Source: Hermans, Beyer, Leibe 2017, arXiv:1703.07737, section 4.
    """
    losses, is_triplet = triplet_losses(dists, pids, margin)
    if margin == 'soft':
        return share_mean(losses, is_triplet)
    # Not `~(losses <= 0)`: graphs are rewritten as if there were no NaN.
    return share_mean(losses, is_triplet & ((losses > 0) | tf.math.is_nan(losses)))


def triplet_losses(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the loss of every triplet of the batch, and which entries are triplets.

    Args:
        dists, pids, margin: see batch_all.

    Returns:
        (losses, is_triplet), float32 and bool [B, M, B]: anchor, one of its M
        positives, negative. M is the most positives that an anchor has.
    """
    dists = tf.convert_to_tensor(dists)
    is_positive, is_negative = pair_masks(pids)
    # The columns of the positives first: ones are the largest of ones and zeros.
    ones = tf.cast(is_positive, dists.dtype)
    max_positives = tf.cast(tf.reduce_max(tf.reduce_sum(ones, axis=1)), tf.int32)
    is_real, columns = tf.math.top_k(ones, max_positives)  # [B, M]
    positives = tf.gather(dists, columns, batch_dims=1)  # [B, M]
    losses = apply_margin(positives[:, :, None] - dists[:, None], margin)
    return losses, (is_real > 0)[:, :, None] & is_negative[:, None]


def share_mean(values: tf.Tensor, is_counted: tf.Tensor) -> tf.Tensor:
    """Share the mean of the values that count among the anchors.

    Args:
        values: float32 [B, M, B].
        is_counted: bool [B, M, B].

    Returns:
        float32 [B] whose mean is that of the counted values, or 0 without any.
    """
    weights = tf.cast(is_counted, values.dtype)
    sums = tf.reduce_sum(tf.where(is_counted, values, 0.0), axis=[1, 2])  # [B]
    batch_size = tf.cast(tf.shape(values)[0], values.dtype)
    return tf.math.divide_no_nan(sums * batch_size, tf.reduce_sum(weights))


def batch_sample(
    dists: tf.Tensor, pids: tf.Tensor, margin: float | str, seed: tf.Tensor
) -> tf.Tensor:
    """Loss of each anchor against one positive and one negative, drawn by distance.

    Positive p of anchor a has the probability exp(dists[a, p]) / (sum over its
    positives), negative n the probability exp(-dists[a, n]) / (sum over its
    negatives): hard pairs are likely, but an outlier is not certain to be taken, as it
    is by batch_hard, whose formula applies to the pairs drawn.

    Args:
        dists: float32 [B, B], row = anchor, diagonal = self, unit of the metric.
        pids: [B], any dtype tf.equal accepts.
        margin: float in the unit of dists, or 'soft', or 'none'.
        seed: integer [2]; the same seed draws the same pairs.

    Returns:
        float32 [B], one loss per anchor, not averaged; 0 for an anchor without
        triplets (K = 1, or a single PID).

    Raises:
        ValueError: margin is another string.

    Gradients go through the distances of the pairs drawn, not through the
    probabilities.

    Source: the code that the authors of Hermans, Beyer, Leibe 2017, arXiv:1703.07737,
    published (a later branch of their repository); not in the paper.
    """
    dists = tf.convert_to_tensor(dists)
    is_positive, is_negative = pair_masks(pids)
    positive_seed, negative_seed = tf.unstack(tf.random.split(seed, 2))
    positives = draw_columns(dists, is_positive, positive_seed)  # [B]
    negatives = draw_columns(-dists, is_negative, negative_seed)  # [B]
    differences = tf.gather(dists, positives, batch_dims=1) - tf.gather(
        dists, negatives, batch_dims=1
    )
    return losses_of_anchors(differences, is_positive, is_negative, margin)


def draw_columns(
    logits: tf.Tensor, is_allowed: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Draw a column of each row with the probabilities softmax(allowed logits).

    Args:
        logits: float32 [N, M].
        is_allowed: bool [N, M]; in a row without any, the first column is taken.
        seed: integer [2].

    Returns:
        int64 [N].
    """
    # The largest of the logits plus Gumbel noise is distributed so (Gumbel 1954).
    noise = tf.random.stateless_uniform(tf.shape(logits), seed, 1e-30, 1, logits.dtype)
    noisy = logits - tf.math.log(-tf.math.log(noise))
    return tf.argmax(tf.where(is_allowed, noisy, noisy.dtype.min), axis=1)


def losses_of_anchors(
    differences: tf.Tensor,
    is_positive: tf.Tensor,
    is_negative: tf.Tensor,
    margin: float | str,
) -> tf.Tensor:
    """Turn a difference per anchor [B] into its loss: 0 where it has no triplet."""
    has_triplet = tf.reduce_any(is_positive, 1) & tf.reduce_any(is_negative, 1)  # [B]
    # Masked before, too: what is infinite must not meet a gradient of 0.
    differences = tf.where(has_triplet, differences, 0.0)
    return tf.where(has_triplet, apply_margin(differences, margin), 0.0)


def lifted(dists: tf.Tensor, pids: tf.Tensor, margin: float | str) -> tf.Tensor:
    """Lifted structured loss of the batch's positive pairs, as shares of the anchors.

    For a pair (i, j) of one PID, n running over the images of other PIDs,

        J_ij = dists[i, j] + log(sum_n exp(m - dists[i, n]) + exp(m - dists[j, n]))

    and with T unordered pairs the loss is (sum over pairs of max(0, J_ij)^2) / (2 T).
    Each pair's part belongs to its two images in equal shares, scaled so that the mean
    over the anchors is the loss.

    Args:
        dists: float32 [B, B], symmetric, diagonal = self, unit of the metric.
        pids: [B], any dtype tf.equal accepts.
        margin: float m in the unit of dists.

    Returns:
        float32 [B]; 0 for an image without positives or without negatives (K = 1, or a
        single PID).

    Raises:
        ValueError: margin is no number.

    Source: Oh Song, Xiang, Jegelka, Savarese 2016, arXiv:1511.06452, equation 4.
    """
    check_margin('lifted', margin)
    dists = tf.convert_to_tensor(dists)
    is_positive, is_negative = pair_masks(pids)
    pushes = log_sum_exp(margin - dists, is_negative)  # [B]
    pairs = tf.stack(tf.meshgrid(pushes, pushes))  # [2, B, B]
    hinges = tf.nn.relu(dists + tf.reduce_logsumexp(pairs, axis=0))  # [B, B]
    sums = tf.reduce_sum(tf.where(is_positive, tf.square(hinges), 0.0), axis=1)  # [B]
    num_ordered_pairs = tf.reduce_sum(tf.cast(is_positive, dists.dtype))
    batch_size = tf.cast(tf.shape(dists)[0], dists.dtype)
    return tf.math.divide_no_nan(sums * batch_size, 2 * num_ordered_pairs)


def lifted_general(dists: tf.Tensor, pids: tf.Tensor, margin: float | str) -> tf.Tensor:
    """Loss of each anchor against all its positives and negatives, softly.

    batch_hard with log-sum-exp in the places of maximum and minimum: p running over
    the other images of anchor a's PID, n over the images of other PIDs,

        x_a = log(sum_p exp(dists[a, p])) + log(sum_n exp(-dists[a, n]))

    and the loss is max(0, x_a + m) for a number m, as in the paper; 'soft' and 'none'
    as in batch_hard.

    Args:
        dists: float32 [B, B], row = anchor, diagonal = self, unit of the metric.
        pids: [B], any dtype tf.equal accepts.
        margin: float in the unit of dists, or 'soft', or 'none'.

    Returns:
        float32 [B], one loss per anchor, not averaged; 0 for an anchor without
        triplets (K = 1, or a single PID).

    Raises:
        ValueError: margin is another string.

    Source: Hermans, Beyer, Leibe 2017, arXiv:1703.07737, section 2.
    """
    dists = tf.convert_to_tensor(dists)
    is_positive, is_negative = pair_masks(pids)
    differences = log_sum_exp(dists, is_positive) + log_sum_exp(-dists, is_negative)
    return losses_of_anchors(differences, is_positive, is_negative, margin)


def log_sum_exp(values: tf.Tensor, is_counted: tf.Tensor) -> tf.Tensor:
    """Return log(sum(exp(v))) over the values [N, M] that count in each row, [N].

    A row without any gives a large negative number, never an infinite one.
    """
    # A quarter: two of them may be added, and a distance to that.
    return tf.reduce_logsumexp(
        tf.where(is_counted, values, values.dtype.min / 4), axis=1
    )


def apply_margin(differences: tf.Tensor, margin: float | str) -> tf.Tensor:
    """Turn distance differences [...] into losses; see batch_hard."""
    if margin == 'soft':
        return tf.nn.softplus(differences)
    if margin == 'none':
        return differences
    if isinstance(margin, str):
        raise ValueError(f"margin {margin!r}; expected a number, 'soft' or 'none'")
    return tf.maximum(differences + margin, 0.0)


LOSS_CHOICES = {
    function.__name__: function
    for function in (
        batch_hard,
        batch_all,
        batch_all_nonzero,
        batch_sample,
        lifted,
        lifted_general,
    )
}

# Losses that draw random numbers: they take a seed after the margin.
RANDOM_LOSSES = ('batch_sample',)

# Losses with a margin that must be a number: the square of a hinge has no soft form.
HINGE_LOSSES = ('lifted',)

# The loss that works with pairs of one kind only; the others need triplets.
PAIR_LOSSES = ('batch_hard',)


def check_margin(name: str, margin: float | str) -> None:
    """Raise ValueError if a loss of LOSS_CHOICES does not take this margin."""
    if name in HINGE_LOSSES and isinstance(margin, str):
        raise ValueError(
            f'loss {name} takes a number as margin, not {margin!r}; give one, such as '
            '1.0'
        )


def batch_losses(
    name: str, dists: tf.Tensor, pids: tf.Tensor, margin: float | str, seed: tf.Tensor
) -> tf.Tensor:
    """Return the losses of a batch's anchors, float32 [B]; optimise their mean.

    Args:
        name: one of LOSS_CHOICES.
        dists, pids, margin: see batch_hard.
        seed: integer [2], for those of RANDOM_LOSSES.
    """
    seeds = (seed,) if name in RANDOM_LOSSES else ()
    return LOSS_CHOICES[name](dists, pids, margin, *seeds)


def nearest_are_same(dists: tf.Tensor, pids: tf.Tensor, k: int) -> tf.Tensor:
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


def batch_scores(
    dists: tf.Tensor, pids: tf.Tensor, k: int
) -> tuple[tf.Tensor, tf.Tensor]:
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


def split_dists(dists: tf.Tensor, pids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the distances of all positive and of all negative pairs.

    Args:
        dists: float32 [B, B].
        pids: [B].

    Returns:
        (positive, negative): float32 [...], row-major, every pair from both sides.
    """
    is_positive, is_negative = pair_masks(pids)
    return tf.boolean_mask(dists, is_positive), tf.boolean_mask(dists, is_negative)
