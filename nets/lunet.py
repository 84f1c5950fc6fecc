"""LuNet: the paper's small net for learning from scratch; features [B, 1024].

Our reading of Hermans, Beyer, Leibe 2017, arXiv:1703.07737, section 4 and appendix: a
ResNet v2 (He et al. 2016, arXiv:1603.05027) of bottlenecks with batch norm and leaky
ReLU before their convolutions, and max pooling where others stride. Meant for images of
128 x 64 pixels. Made without the authors' code, so that its details are ours: the
blocks of STAGES, the slope, biases where no batch norm follows, and a start after He et
al.

The paper's network differs in its last block: it reduces the channels to 128, and the
4 x 2 places that are left are laid side by side, which makes 1024 features of images of
this one size. Here the last block has 1024 channels, and they are averaged over the
image, of whatever size. Behind it the paper has a dense layer of 1024 x 512 with batch
norm, and one of 512 x 128: --head_name fc512 with --embedding_dim 128. With these it
counts 5.00 million parameters; here they are 4.89 million.
"""

import functools

import keras
import tensorflow as tf

import layers

SCOPE = 'lunet'
ROOT_FILTERS = 128

# Bottleneck and output channels of the blocks of each stage; a max pool between two
# stages halves the resolution.
STAGES = (
    ((32, 128),),
    ((32, 128), (32, 128), (64, 256)),
    ((64, 256), (64, 256)),
    ((64, 256), (64, 256), (128, 512)),
    ((128, 512), (128, 512)),
    ((128, 512), (256, 1024), (256, 1024)),
)

leaky_relu = functools.partial(keras.ops.leaky_relu, negative_slope=0.3)


class Bottleneck(layers.Composite):
    """Pre-activated 1x1, 3x3 and 1x1 convolutions beside a shortcut.

    Args:
        depth: channels between the convolutions.
        filters: output channels.
        projects: whether a 1x1 convolution makes the shortcut, which the input must
            fit otherwise.
    """

    def __init__(self, depth, filters, projects, **kwargs):
        super().__init__(**kwargs)
        self.before = layers.BatchNorm(name='preact')
        self.convs = [
            layers.ConvBN(depth, 1, activation=leaky_relu, name='conv1'),
            layers.ConvBN(depth, 3, activation=leaky_relu, name='conv2'),
            layers.Conv(filters, 1, activation=None, name='conv3'),
        ]
        self.shortcut = None
        if projects:
            self.shortcut = layers.Conv(filters, 1, activation=None, name='shortcut')

    def call(self, inputs, training=False):
        """Map [B, H, W, C] to [B, H, W, filters]."""
        residual = leaky_relu(self.before(inputs, training=training))
        shortcut = inputs
        if self.shortcut is not None:
            shortcut = self.shortcut(residual)
        for conv in self.convs:
            residual = conv(residual, training=training)
        return shortcut + residual


def normalise(images):
    """Scale images [B, H, W, 3] from 0..255 to -1..1."""
    return images / tf.constant(127.5, images.dtype) - 1


def halve(features):
    """Halve the resolution, rounded up: 3x3 max pool with stride 2."""
    return tf.nn.max_pool2d(features, 3, 2, 'SAME')


def stage(name, blocks, num_inputs):
    """Return the bottlenecks of a stage, in scopes NAME/block_1, NAME/block_2, ...

    Args:
        name: of the stage.
        blocks: of STAGES.
        num_inputs: channels of its input.
    """
    chained = []
    for i, (depth, filters) in enumerate(blocks, start=1):
        projects = filters != num_inputs
        chained.append(Bottleneck(depth, filters, projects, name=f'block_{i}'))
        num_inputs = filters
    return layers.Chain(chained, name=name)


def build():
    """Return the network body, its variables under `lunet`."""
    links = [
        layers.Function(normalise),
        layers.Conv(ROOT_FILTERS, 7, activation=None, name='conv1'),
    ]
    num_channels = ROOT_FILTERS
    for i, blocks in enumerate(STAGES, start=1):
        if i > 1:
            links.append(layers.Function(halve))
        links.append(stage(f'stage{i}', blocks, num_channels))
        _, num_channels = blocks[-1]
    links += [
        layers.BatchNorm(name='postnorm'),
        layers.Function(leaky_relu),
        layers.Function(layers.global_average_pool),
    ]
    return layers.Chain(links, name=SCOPE)
