"""What of a training run goes into an exported file, and what is said beside it."""

import importlib.metadata
import os
import typing

import common

# What is installed where a file is made, and may matter to whoever runs it.
VERSIONED = ('tensorflow', 'keras', 'tf2onnx', 'onnx', 'onnxruntime', 'ai-edge-litert')


class Run(typing.NamedTuple):
    """A training run of which a checkpoint is exported.

    Attributes:
        root: its directory.
        prefix: of the checkpoint.
        step: number of updates that were made.
        args: {flag: value} of args.json.
        embedder: embedder.Embedder of the checkpoint.
        fingerprint: SHA-256 of the weights.
        name: what the exported network is called.
        licence: of the weights, by Hugging Face's names, or None.
        scores: what evaluate.py has written to its --filename, or None.
    """

    root: str
    prefix: str
    step: int
    args: dict
    embedder: typing.Any
    fingerprint: str
    name: str
    licence: str | None
    scores: dict | None


def describe(run, format_name, kind, parity, sha256):
    """Return what stands in the JSON file beside an exported network, a dict.

    Args:
        run: Run.
        format_name: one of deployment.FORMAT_CHOICES.
        kind: 'pixels' or 'encoded'.
        parity: _parity.Parity.
        sha256: of the file; see _sidecar.hash_files.
    """
    height, width = run.embedder.net_size
    pixels = {
        'dtype': 'float32',
        'shape': ['batch', height, width, 3],
        'colours': 'RGB, 0 to 255; the network normalises them itself',
        'resize': 'bilinear, source row = row * H / height, no antialiasing '
        '(align_corners=False, half_pixel_centers=False)',
    }
    encoded = {'dtype': 'string', 'shape': ['batch'], 'content': 'JPEG or PNG files'}
    versions = {}
    for name in VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        'format': format_name,
        'sha256': sha256,
        'input': {
            'name': 'images',
            'kind': kind,
            'height': height,
            'width': width,
            **(encoded if kind == 'encoded' else pixels),
        },
        'output': {
            'name': 'embeddings',
            'dtype': 'float32',
            'shape': ['batch', run.embedder.embedding_dim],
        },
        'pre_crop': list(run.embedder.pre_crop_size),
        'metric': run.embedder.metric,
        'threshold': run.embedder.threshold,
        'checkpoint': {'name': os.path.basename(run.prefix), 'sha256': run.fingerprint},
        'version': common.VERSION,
        'versions': versions,
        'parity': parity._asdict(),
    }
