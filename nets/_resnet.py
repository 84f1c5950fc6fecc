"""ResNet v1 as TF-Slim builds it.

A block's stride sits in its *last* unit, on the 3x3 convolution: unlike He et al.
2015 (first unit, 1x1) and unlike torchvision (first unit, 3x3).

Source: He, Zhang, Ren, Sun 2015, arXiv:1512.03385; the golden numbers for the rest.
"""

import functools

import tensorflow as tf

import layers

# Mean colour of ImageNet, RGB, in 0..255.
RGB_MEANS = (123.68, 116.78, 103.94)

# Residual units in each of the four blocks, by the number of layers of the net.
NUM_UNITS = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}

# Depths of the blocks' bottlenecks.
DEPTHS = (64, 128, 256, 512)

# The output of a unit is this many times as deep as its bottleneck.
EXPANSION = 4


def bottleneck(depth, stride, projects):
    """Return one residual unit: 1x1, 3x3 and 1x1 convolutions beside a shortcut.

    Args:
        depth: channels of the bottleneck.
        stride: of the 3x3 convolution and of the shortcut.
        projects: whether a 1x1 convolution widens the shortcut.
    """
    shortcut = None
    if projects:
        shortcut = layers.ConvBN(
            depth * EXPANSION, 1, stride, activation=None, name='shortcut'
        )
    elif stride > 1:
        shortcut = layers.Function(
            lambda inputs: tf.nn.max_pool2d(inputs, 1, stride, 'SAME')
        )
    chained = [
        layers.ConvBN(depth, 1, name='conv1'),
        layers.ConvBN(depth, 3, stride, name='conv2'),
        layers.ConvBN(depth * EXPANSION, 1, activation=None, name='conv3'),
    ]
    return layers.Residual(shortcut, chained, name='bottleneck_v1')


def block(name, depth, stride, num_units):
    """Return `num_units` bottlenecks in scopes NAME/unit_1, NAME/unit_2, ..."""
    return layers.Chain(
        [
            layers.Chain(
                [bottleneck(depth, stride if i == num_units else 1, projects=i == 1)],
                name=f'unit_{i}',
            )
            for i in range(1, num_units + 1)
        ],
        name=name,
    )


def normalise(images):
    """Subtract ImageNet's mean colour from RGB images [B, H, W, 3] in 0..255."""
    return images - tf.constant(RGB_MEANS, images.dtype)


def root_pool(features):
    """Halve the resolution: 3x3 max pool with stride 2."""
    return tf.nn.max_pool2d(features, 3, 2, 'SAME')


def resnet_v1(num_layers, last_stride=2):
    """Return a ResNet v1 body: [B, H, W, 3] in 0..255 -> [B, 2048].

    Args:
        num_layers: a key of NUM_UNITS; the scope of the variables is
            `resnet_v1_NUM_LAYERS`.
        last_stride: of block3, the last that has one; block4 has none in slim's
            layout. With 1, block4 sees twice the height and width.
    """
    strides = (2, 2, last_stride, 1)
    blocks = [
        block(f'block{i}', depth, stride, n)
        for i, (depth, stride, n) in enumerate(
            zip(DEPTHS, strides, NUM_UNITS[num_layers], strict=True), start=1
        )
    ]
    return layers.Chain(
        [
            layers.Function(normalise),
            layers.ConvBN(64, 7, stride=2, name='conv1'),
            layers.Function(root_pool),
            *blocks,
            layers.Function(layers.global_average_pool),
        ],
        name=f'resnet_v1_{num_layers}',
    )


def rename_keras_weights(num_layers, model):
    """Return the weights of a keras.applications ResNet v1 under slim's names.

    Keras has biases in its convolutions, folded here into the means of the batch
    norm that follows, and expects BGR images, so the root kernel is turned around.
    Keras strides in the first unit of a stage, on the 1x1 convolution, and pads the
    root max pool by a pixel on every side: the weights are a start for training here,
    not the same function.

    Args:
        num_layers: a key of NUM_UNITS.
        model: a keras.Model of keras.applications, as deep.

    Returns:
        {variable name: float32 array}.
    """
    scope = f'resnet_v1_{num_layers}'
    renamed = {}

    def conv_bn(source, target):
        conv = model.get_layer(f'{source}_conv')
        norm = model.get_layer(f'{source}_bn')
        kernel, bias = conv.get_weights()
        is_root = kernel.shape[2] == 3
        renamed[f'{scope}/{target}/weights'] = kernel[:, :, ::-1] if is_root else kernel
        names = ('gamma', 'beta', 'moving_mean', 'moving_variance')
        for leaf, value in zip(names, norm.get_weights(), strict=True):
            shift = bias if leaf == 'moving_mean' else 0
            renamed[f'{scope}/{target}/BatchNorm/{leaf}'] = value - shift

    conv_bn('conv1', 'conv1')
    convs = {0: 'shortcut', 1: 'conv1', 2: 'conv2', 3: 'conv3'}
    for i, n in enumerate(NUM_UNITS[num_layers], start=1):
        for unit in range(1, n + 1):
            for number, conv in convs.items():
                if number > 0 or unit == 1:
                    conv_bn(
                        f'conv{i + 1}_block{unit}_{number}',
                        f'block{i}/unit_{unit}/bottleneck_v1/{conv}',
                    )
    return renamed


def variant(num_layers):
    """Return build and from_keras of the net with so many layers; see nets."""
    return (
        functools.partial(resnet_v1, num_layers),
        functools.partial(rename_keras_weights, num_layers),
    )
