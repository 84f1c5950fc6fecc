"""MobileNet v1 of any width, the layout of TF-Slim.

Source: Howard et al. 2017, arXiv:1704.04861, table 1 and section 3.3.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

import layers

# Of every width, as in slim's checkpoints.
SCOPE = 'MobilenetV1'

# At width 1: channels of the root; channels and stride of the separable convolutions.
ROOT_FILTERS = 32
SEPARABLE = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)

CONV_ARGS = {
    'activation': tf.nn.relu6,
    'pads_explicitly': False,
    'epsilon': 1e-3,
    'initializer': functools.partial(  # slim's
        keras.initializers.TruncatedNormal, stddev=0.09
    ),
}


def normalise(images):
    """Scale images [B, H, W, 3] from 0..255 to 0..1."""
    return images / tf.constant(255, images.dtype)


def mobilenet_v1(width):
    """Return a MobileNet body: [B, H, W, 3] in 0..255 -> [B, 1024 * width].

    Args:
        width: factor of all numbers of channels, at least 0.25.

    The checkpoints of TensorFlow 1 also hold a layer `MobilenetV1/Logits`, which
    nothing here uses and which is therefore not built.
    """
    links = [
        layers.Function(normalise),
        layers.ConvBN(
            int(ROOT_FILTERS * width), 3, stride=2, name='Conv2d_0', **CONV_ARGS
        ),
    ]
    for i, (filters, stride) in enumerate(SEPARABLE, start=1):
        links += [
            layers.DepthwiseConvBN(
                None, 3, stride, name=f'Conv2d_{i}_depthwise', **CONV_ARGS
            ),
            layers.ConvBN(
                int(filters * width), 1, name=f'Conv2d_{i}_pointwise', **CONV_ARGS
            ),
        ]
    links.append(layers.Function(layers.global_average_pool))
    return layers.Chain(links, name=SCOPE)


def from_keras(model):
    """Return the weights of keras.applications.MobileNet under our names.

    Keras feeds 2 x / 255 - 1 where this net feeds x / 255: the factor goes into the
    root kernel and the shift into the mean of its batch norm. At the border, where
    zero padding is grey there and black here, the two differ by design.
    """
    renamed = {}

    def conv_bn(conv, target, leaf):
        (kernel,) = model.get_layer(conv).get_weights()
        gamma, beta, mean, variance = model.get_layer(f'{conv}_bn').get_weights()
        if conv == 'conv1':
            mean = mean + kernel.sum((0, 1, 2))
            kernel = 2 * kernel
        scope = f'{SCOPE}/{target}'
        renamed[f'{scope}/{leaf}'] = kernel
        renamed[f'{scope}/BatchNorm/gamma'] = gamma
        renamed[f'{scope}/BatchNorm/beta'] = beta
        renamed[f'{scope}/BatchNorm/moving_mean'] = np.float32(mean)
        renamed[f'{scope}/BatchNorm/moving_variance'] = variance

    conv_bn('conv1', 'Conv2d_0', 'weights')
    for i in range(1, len(SEPARABLE) + 1):
        conv_bn(f'conv_dw_{i}', f'Conv2d_{i}_depthwise', 'depthwise_weights')
        conv_bn(f'conv_pw_{i}', f'Conv2d_{i}_pointwise', 'weights')
    return renamed


def variant(width):
    """Return build and from_keras of the net of a width; see nets."""
    return functools.partial(mobilenet_v1, width), from_keras
