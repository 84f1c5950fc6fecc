"""Six convolutions, averaged over four horizontal stripes; features [B, 640].

Ours, for learning from scratch in a minute: the demo, tests, a first look at a data
set. That a person's parts keep their height in the image is what the stripes are for
(as in the part-based baseline of Sun et al. 2018, arXiv:1711.09349, figure 2).
"""

import tensorflow as tf

import layers

SCOPE = 'small_stripes'

# Output channels and stride of the 3x3 convolutions.
CONVS = ((32, 2), (48, 1), (64, 2), (96, 1), (128, 2), (160, 1))
NUM_STRIPES = 4


def normalise(images):
    """Scale images [B, H, W, 3] from 0..255 to -1..1."""
    return images / tf.constant(127.5, images.dtype) - 1


def average_stripes(features):
    """Average [B, H, W, C] over NUM_STRIPES horizontal stripes: [B, NUM_STRIPES * C].

    Row y belongs to stripe y * NUM_STRIPES // H; a stripe without rows, in an image
    of fewer rows than stripes, is 0.
    """
    columns = tf.reduce_mean(features, axis=2)  # [B, H, C]
    height = tf.shape(columns)[1]
    stripe_of_row = tf.range(height) * NUM_STRIPES // height  # [H]
    is_member = tf.one_hot(stripe_of_row, NUM_STRIPES, axis=0, dtype=columns.dtype)
    sizes = tf.reduce_sum(is_member, axis=1, keepdims=True)  # [S, 1]
    shares = tf.math.divide_no_nan(is_member, sizes)  # [S, H]
    # Not einsum, of which LiteRT's converter makes what its runtime refuses.
    stripes = tf.matmul(shares[None], columns)  # [B, S, C]
    return tf.reshape(stripes, [-1, NUM_STRIPES * features.shape[-1]])


def build():
    """Return the network body, its variables under `small_stripes`."""
    convs = [
        layers.ConvBN(filters, 3, stride, pads_explicitly=False, name=f'conv{i}')
        for i, (filters, stride) in enumerate(CONVS, start=1)
    ]
    return layers.Chain(
        [layers.Function(normalise), *convs, layers.Function(average_stripes)],
        name=SCOPE,
    )
