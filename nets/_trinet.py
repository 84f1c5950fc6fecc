"""The paper's network with its published weights: the file, and the Keras net.

The net is the ResNet-50 of Caffe with the paper's head. It was trained with Lasagne,
whose arrays the file holds in the order of the layers. A batch norm comes as beta,
gamma, mean and *inverse standard deviation*; all four are folded into the layer before
it and never turned back into a variance, which may not even exist: in such files
1 / inv_std**2 can be smaller than the epsilon that would have to be subtracted.

Source: Hermans, Beyer, Leibe 2017, arXiv:1703.07737; He, Zhang, Ren, Sun 2015,
arXiv:1512.03385; the golden numbers for the rest.
"""

import hashlib
import typing

import numpy as np

import array_files
import common

# Imported at first use: a wrong file is refused before TensorFlow has started.
tf = common.lazy_import('tensorflow')
layers = common.lazy_import('layers')
_resnet = common.lazy_import('nets._resnet')

# Images are resized to this (height, width), and crops have that one; pixels.
IMAGE_SIZE = (288, 144)
CROP_SIZE = (256, 128)
EMBEDDING_DIM = 128

# What images.augment calls the crops: five of the image, then the mirror images of
# those five in the same order. A mirrored left crop is a right crop of the mirrored
# image, so that left and right stand in another order than in embed.py's files.
AUGMENTATIONS = (
    'original_center',
    'original_top_left',
    'original_top_right',
    'original_bottom_left',
    'original_bottom_right',
    'original_flip_center',
    'original_flip_top_right',
    'original_flip_top_left',
    'original_flip_bottom_right',
    'original_flip_bottom_left',
)

# Mean colour that the net was trained with, BGR, in 0..255: the digits of float32.
BGR_MEANS = (103.06262, 115.902885, 123.151634)

# For each stage: its number, the depth of its bottlenecks, the stride of its first unit
# and the letters of its units.
STAGES = (
    (2, 64, 1, 'abc'),
    (3, 128, 2, 'abcd'),
    (4, 256, 2, 'abcdef'),
    (5, 512, 2, 'abc'),
)

# The output of a unit is this many times as deep as its bottleneck.
EXPANSION = 4

NORM_KINDS = ('beta', 'gamma', 'mean', 'inv_std')

PUBLISHED = {
    '5353f95d1489536129ec14638aded3c7': 'Market-1501',
    '72fafa2ee9aa3765f038d06e8dd8ef4b': 'MARS',
}


class Entry(typing.NamedTuple):
    """One array of the file.

    Attributes:
        layer: name of its layer.
        kind: 'W', 'b' or one of NORM_KINDS.
        shape: tuple of int.
    """

    layer: str
    kind: str
    shape: tuple

    def __str__(self):
        return f'{self.layer} {self.kind} {list(self.shape)}'


def normed_layers():
    """Yield (name, name of its batch norm, kernel shape) of layers with a batch norm.

    The order is that of the file, the shapes are Lasagne's: [C_out, C_in, H, W] of a
    convolution, [F, units] of a dense layer.
    """
    yield 'conv1', 'bn_conv1', (64, 3, 7, 7)
    channels = 64
    for stage, depth, _, letters in STAGES:
        wide = depth * EXPANSION
        for letter in letters:
            branches = {'branch1': (wide, channels, 1, 1)} if letter == 'a' else {}
            branches |= {
                'branch2a': (depth, channels, 1, 1),
                'branch2b': (depth, depth, 3, 3),
                'branch2c': (wide, depth, 1, 1),
            }
            for branch, shape in branches.items():
                name = f'{stage}{letter}_{branch}'
                yield f'res{name}', f'bn{name}', shape
            channels = wide
    yield 'dense1', 'bn_dense1', (channels, 1024)


def layout():
    """Return what the file holds: Entries of arr_0, arr_1, ..., arr_272."""
    entries = []
    for name, norm, shape in normed_layers():
        num_outputs = shape[0] if len(shape) == 4 else shape[1]
        entries.append(Entry(name, 'W', shape))
        if name == 'conv1':  # The only convolution with biases.
            entries.append(Entry(name, 'b', (num_outputs,)))
        entries += [Entry(norm, kind, (num_outputs,)) for kind in NORM_KINDS]
    return [
        *entries,
        Entry('dense2', 'W', (1024, EMBEDDING_DIM)),
        Entry('dense2', 'b', (EMBEDDING_DIM,)),
    ]


# --- the file --------------------------------------------------------------------


def published_name(filename):
    """Return the data set of a published file, recognised by its md5 sum, or None."""
    with open(filename, 'rb') as file:
        digest = hashlib.file_digest(
            file, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()
    return PUBLISHED.get(digest)


def read_weights(filename):
    """Read the file of weights, after all checks.

    Args:
        filename: path of an .npz file with arr_0 to arr_272.

    Returns:
        {(layer, kind): float32 array}, see layout.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no .npz file, damaged, or its arrays are not those of this
            net; the message names the first that differs and what was expected.
    """
    with open(filename, 'rb') as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                for name in arrays.files:
                    array_files.check_member(arrays, name)
                return check_arrays(arrays)
        except ArrayError as error:
            raise common.InputError(f'{filename}: {error}') from error
        except (ValueError, AttributeError, TypeError) as error:
            # What NumPy says of a pickle, of text, and of an .npy file without names.
            raise common.InputError(
                f'{filename} is not an .npz file of arrays; expected one like '
                'trinet-market1501.npz (pickles are refused), see docs/trinet.md'
            ) from error
        except array_files.DAMAGES as error:
            raise common.InputError(
                f'{filename} is damaged or incomplete ({error}); copy it again'
            ) from error


class ArrayError(common.InputError):
    """An array of the file is not what the net needs."""


def check_arrays(arrays):
    """Return {(layer, kind): float32 array} of an open .npz file, or raise ArrayError.

    Args:
        arrays: np.lib.npyio.NpzFile.
    """
    checked = {}
    entries = layout()
    count = f'the file has {len(arrays.files)} arrays, {len(entries)} were expected'
    for i, entry in enumerate(entries):
        key = f'arr_{i}'
        if key not in arrays.files:
            raise ArrayError(f'{key} is missing, expected {entry}; {count}')
        try:
            array = arrays[key]
        except ValueError as error:
            # Unpickling would run whatever code the file's author put there.
            is_pickled = 'pickle' in str(error)
            reason = 'is pickled, which is refused' if is_pickled else 'is damaged'
            raise ArrayError(f'{key} {reason}; expected {entry} of float32') from error
        problem = find_problem(array, entry)
        if problem is not None:
            raise ArrayError(f'{key} {problem}, expected {entry}; {count}')
        checked[entry.layer, entry.kind] = np.asarray(array, np.float32)
    foreign = set(arrays.files) - {f'arr_{i}' for i in range(len(entries))}
    if foreign:
        raise ArrayError(f'{min(foreign)} is not an array of this net; {count}')
    return checked


def find_problem(array, entry):
    """Return what of an array does not fit its Entry, or None."""
    if array.shape != entry.shape:
        return f'has shape {list(array.shape)}'
    if array.dtype.kind != 'f':
        return f'holds {array.dtype}, not floating point numbers'
    with np.errstate(over='ignore', invalid='ignore'):  # Of float64.
        is_finite = np.isfinite(array.astype(np.float32, copy=False)).all()
    if not is_finite:
        return 'has NaN or infinite values'
    if entry.kind == 'inv_std' and array.min() <= 0:
        # Arrays of one layer in another order have the same shapes.
        return 'has values of 0 or less'
    return None


# --- the net ---------------------------------------------------------------------


def build_net(weights):
    """Return the net with its weights.

    Args:
        weights: of read_weights.

    Returns:
        keras.layers.Layer: BGR crops [B, 256, 128, 3] in 0..255, of any number type,
        to embeddings float32 [B, 128].
    """
    net = layers.Chain(
        [
            layers.Function(subtract_mean),
            layers.Conv(64, 7, stride=2, name='conv1', initializer=zeros),
            # Lasagne pools over what is left of a window at the far border.
            layers.Function(_resnet.root_pool),
            *residual_units(),
            layers.Function(layers.global_average_pool),
            layers.Dense(1024, None, tf.nn.relu, zeros, name='dense1'),
            layers.Dense(EMBEDDING_DIM, initializer=zeros, name='dense2'),
        ],
        name='trinet',
    )
    net(np.zeros((1, *CROP_SIZE, 3), np.uint8))  # Creates the variables.
    arrays = fold(weights)
    for variable in net.variables:
        layer, leaf = variable.path.split('/')[-2:]
        variable.assign(arrays.pop((layer, leaf)))
    assert not arrays, arrays.keys()
    return net


def zeros():
    """Return an initializer for weights that are about to be replaced."""
    return 'zeros'


def subtract_mean(crops):
    """Return crops [B, H, W, 3], BGR in 0..255, as float32 minus the mean colour."""
    return tf.cast(crops, tf.float32) - tf.constant(BGR_MEANS)


def residual_units():
    """Yield the residual units of all stages: a stage strides in its first 1x1."""
    for stage, depth, first_stride, letters in STAGES:
        for letter in letters:
            name = f'res{stage}{letter}'
            stride = first_stride if letter == 'a' else 1

            def conv(branch, filters, size=1, stride=1, relu=True, name=name):
                activation = tf.nn.relu if relu else None
                return layers.Conv(
                    filters,
                    size,
                    stride,
                    activation,
                    initializer=zeros,
                    name=f'{name}_{branch}',
                )

            wide = depth * EXPANSION
            shortcut = None
            if letter == 'a':
                shortcut = conv('branch1', wide, stride=stride, relu=False)
            chained = [
                conv('branch2a', depth, stride=stride),
                conv('branch2b', depth, 3),
                conv('branch2c', wide, relu=False),
            ]
            yield layers.Residual(shortcut, chained, name=name)


def fold(weights):
    """Return the net's arrays, every batch norm folded into the layer before it.

    Args:
        weights: of read_weights.

    Returns:
        {(layer, 'weights' or 'biases'): float32 array} with TensorFlow's axes.
    """
    folded = {
        ('dense2', 'weights'): weights['dense2', 'W'],
        ('dense2', 'biases'): weights['dense2', 'b'],
    }
    for name, norm, shape in normed_layers():
        kernel = weights[name, 'W']
        if len(shape) == 4:
            kernel = kernel.transpose(2, 3, 1, 0)  # [H, W, C_in, C_out]
        folded[name, 'weights'], folded[name, 'biases'] = layers.fold_batch_norm(
            kernel,
            weights.get((name, 'b'), 0),
            *(weights[norm, kind] for kind in NORM_KINDS),
        )
    return folded
