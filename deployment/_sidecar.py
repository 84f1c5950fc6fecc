"""The JSON file beside an exported network, as _run.describe makes it, read back."""

import hashlib
import os
import pathlib
import typing

import common
from deployment import FORMAT_CHOICES
from evaluation import ranking

# A damaged size must not claim memory: pixels of a side of an image, as of a JPEG, and
# numbers of an embedding.
MOST_PIXELS, MOST_DIM = 2**16 - 1, 2**24


class Sidecar(typing.NamedTuple):
    """What is known of an exported network without loading it.

    Attributes:
        format: one of FORMAT_CHOICES.
        kind: 'pixels' or 'encoded', what it takes.
        net_size, pre_crop_size: (height, width), pixels; see embedder.TrainedNet.
        embedding_dim: D.
        metric: one of ranking.METRIC_CHOICES.
        threshold: largest distance of two images of one identity, or None.
        weights: checkpoints.fingerprint of the network.
        sha256: of the file; see hash_files.
    """

    format: str
    kind: str
    net_size: tuple[int, int]
    pre_crop_size: tuple[int, int]
    embedding_dim: int
    metric: str
    threshold: float | None
    weights: str
    sha256: str


def read(target):
    """Return the Sidecar of an exported file or directory.

    Raises:
        FileNotFoundError, InputError: it is missing, or is not what export.py writes.
    """
    filename = f'{target}.json'
    if not os.path.isfile(filename):
        raise common.MissingFileError(
            f'{filename} is missing; export.py writes it beside that file: copy both, '
            'or export again'
        )
    stored = common.read_object(filename)
    try:
        place, threshold = stored['input'], stored['threshold']
        height, width = stored['pre_crop']
        found = Sidecar(
            *(stored['format'], place['kind'], (place['height'], place['width'])),
            *((height, width), stored['output']['shape'][1], stored['metric']),
            None if threshold is None else float(threshold),
            *(stored['checkpoint']['sha256'], stored['sha256']),
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        found = None
    if found is None or not is_sound(found):
        raise common.InputError(
            f'{filename} is not what export.py writes beside that file; restore it'
        )
    return found


def check(target, sidecar):
    """Raise InputError unless a file is the one that its Sidecar tells of."""
    if hash_files(target) != sidecar.sha256:
        raise common.InputError(
            f'{target} is damaged, or {target}.json belongs to another file: their '
            'SHA-256 differ; copy both again, or export again'
        )


def hash_files(target):
    """Return the SHA-256 of a file, or of the names and contents of a directory's."""
    path = pathlib.Path(target)
    if not path.is_dir():
        return common.hash_file(path)
    whole = hashlib.sha256()
    for file in sorted(file for file in path.rglob('*') if file.is_file()):
        name = file.relative_to(path).as_posix()
        whole.update(f'{hash_files(file)}  {name}\n'.encode())
    return whole.hexdigest()


def is_sound(sidecar):
    """Say whether all values of a Sidecar are such as export.py writes."""
    sides = *sidecar.net_size, *sidecar.pre_crop_size
    limit = sidecar.threshold
    return (
        sidecar.format in FORMAT_CHOICES
        and sidecar.kind in ('pixels', 'encoded')
        and all(type(side) is int and 1 <= side <= MOST_PIXELS for side in sides)
        and type(sidecar.embedding_dim) is int
        and 1 <= sidecar.embedding_dim <= MOST_DIM
        and sidecar.metric in ranking.METRIC_CHOICES
        and (limit is None or 0 <= limit < float('inf'))
        and isinstance(sidecar.weights, str)
        and isinstance(sidecar.sha256, str)
    )
