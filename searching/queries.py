"""The images that are looked for, embedded by a run's network, or an exported one.

An exported file needs no TensorFlow: its images are then read by OpenCV and resized as
TensorFlow 1 did. PNG and BMP files give the very pixels that embed.py sees. Those of a
JPEG differ by what two decoders round otherwise.
"""

import os
import typing

import cv2
import numpy as np

import common
import deployment
import embedder
import embedding_files
from deployment import _sidecar
from visuals import thumbnails

# Imported at first use: an exported file is searched with without TensorFlow.
checkpoints = common.lazy_import('checkpoints')

# Images per pass through an exported network.
BATCH_SIZE = 32


class Network(typing.NamedTuple):
    """What embeds the images that are looked for.

    Attributes:
        embed: function of a list [N] of images, paths or the content of files, to
            float32 [N, D]; several threads may call it.
        embedding_dim: D.
        metric: one of ranking.METRIC_CHOICES, which it was trained for.
        weights: checkpoints.fingerprint of it.
        name: for messages.
    """

    embed: typing.Callable
    embedding_dim: int
    metric: str
    weights: str
    name: str


def load_run(experiment_root, checkpoint, view):
    """Return the Network of a training run.

    Args:
        experiment_root: its directory.
        checkpoint: name of one, or None: the newest.
        view: of embedding_files.Origin; images are looked at likewise.

    Raises:
        FileNotFoundError, InputError: see Embedder.load and Embedder.view.
    """
    # It is judged by thresholds of this command's flags alone.
    ours = embedder.Embedder.load(experiment_root, checkpoint, threshold=0.0)
    flags = view['flip_augment'], view['crop_augment'], view['aggregator']
    ours.view(*flags)
    weights = checkpoints.fingerprint(checkpoints.variables_by_name(ours.network))
    return Network(
        lambda images: ours.embed(images, *flags),
        *(ours.embedding_dim, ours.metric, weights, experiment_root),
    )


def load_export(target, view):
    """Return the Network of what export.py has written.

    Args:
        target: of the file or directory.
        view: of embedding_files.Origin, which must have no augmentation.

    Raises:
        FileNotFoundError, InputError: it is missing, damaged or of another kind.
    """
    target = os.path.normpath(target)
    sidecar = _sidecar.read(target)
    if sidecar.kind != 'pixels':
        raise common.InputError(
            f'{target} takes {sidecar.kind} images; export with --input pixels'
        )
    if view != embedding_files.PLAIN:
        flags = embedding_files.describe_view(view)
        raise common.InputError(
            f'the gallery was embedded with {flags}, which an exported network does '
            'not do; give --experiment_root instead of --model, or embed without'
        )
    _sidecar.check(target, sidecar)
    run = deployment.load(sidecar.format).load(target)

    def embed(images):
        embs = [np.empty((0, sidecar.embedding_dim), np.float32)]
        for first in range(0, len(images), BATCH_SIZE):
            some = images[first : first + BATCH_SIZE]
            pixels = [read(image, first + i, sidecar) for i, image in enumerate(some)]
            embs.append(run(np.stack(pixels)))
            embedder.refuse_infinite(embs[-1], first)
        return np.concatenate(embs)

    return Network(
        embed, sidecar.embedding_dim, sidecar.metric, sidecar.weights, target
    )


def read(image, number, sidecar):
    """Return what an exported network sees of an image, float32 [H, W, 3].

    Args:
        image: a path, or the content of a file.
        number: of the image, for the message.
        sidecar: _sidecar.Sidecar of the network.

    Raises:
        FileNotFoundError, InputError: it is missing, or no image.
    """
    if isinstance(image, bytes):
        name, content = f'image {number}', image
    else:
        name = os.fspath(image)
        if not os.path.isfile(name):  # Reading a pipe might never end.
            raise common.MissingFileError(
                f'{name} is missing, or no file; give the name of an image'
            )
        with open(name, 'rb') as file:
            content = file.read()
    pixels = decode(content)
    if pixels is None:
        raise common.InputError(f'{name} is not an image that OpenCV can decode')
    return resize(pixels, *sidecar.net_size)


def decode(content):
    """Return the content of an image file as uint8 RGB [H, W, 3], or None."""
    # EXIF's rotation is ignored, as everywhere that embeds.
    return thumbnails.decode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def resize(image, height, width):
    """Return an image [h, w, 3] as float32 [height, width, 3], as TensorFlow 1 resizes.

    Bilinear; row i of the result is row i * h / height of the image, without
    antialiasing. In float32, one rounding after the other as there.
    """
    low, high, rows = find_places(image.shape[0], height)
    left, right, columns = find_places(image.shape[1], width)
    rows, columns = rows[:, None, None], columns[None, :, None]
    pixels = image.astype(np.float32)
    above, below = (
        side[:, left] + (side[:, right] - side[:, left]) * columns
        for side in (pixels[low], pixels[high])
    )
    return above + (below - above) * rows


def find_places(length, new_length):
    """Return (place before, place after, share of the latter) of each new pixel."""
    places = np.arange(new_length, dtype=np.float32) * np.float32(length / new_length)
    before = np.floor(places).astype(np.int64)
    return before, np.minimum(before + 1, length - 1), places - before.astype('f4')


def check(network, found):
    """Raise InputError unless a gallery was embedded by a Network.

    Args:
        network: Network.
        found: gallery.Gallery.
    """
    dim = found.embs.shape[1]
    if dim != network.embedding_dim:
        raise common.InputError(
            f'{found.filenames[0]} has {dim} dimensions but {network.name} embeds into '
            f'{network.embedding_dim}; give the network that embedded the gallery'
        )
    if found.origin.has_other_weights(network.weights):
        raise common.InputError(
            f'{found.filenames[0]} was embedded by {found.origin.checkpoint}, which '
            f'has other weights than {network.name}; name that --checkpoint, or embed '
            'the gallery again'
        )
