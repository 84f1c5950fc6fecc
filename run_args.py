"""The flags that a training run has stored: args.json, or what its checkpoints have."""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

import common

# Imported at first use: args.json is read without TensorFlow.
checkpoints = common.lazy_import('checkpoints')


def read(experiment_root: str) -> dict[str, Any]:
    """Return the flags stored in `experiment_root`/args.json as a dict.

    If that file is gone, they come from the newest checkpoint, and a warning says so.

    Raises:
        FileNotFoundError: there is no args.json, nor a checkpoint that has its content.
        ValueError: it is not a JSON object.
    """
    filename = os.path.join(experiment_root, 'args.json')
    if os.path.isfile(filename):
        return common.read_object(filename, 'an object of flags')
    has_checkpoint = os.path.isfile(os.path.join(experiment_root, 'checkpoint'))
    if has_checkpoint and not os.path.lexists(filename):
        return dict(recover(experiment_root))
    raise common.MissingFileError(
        f'no args.json in {experiment_root}; expected a directory that train.py '
        'wrote, check --experiment_root'
    )


@functools.cache  # It is said once.
def recover(experiment_root: str) -> dict[str, Any]:
    """Return what the newest checkpoint has of a lost args.json; see read."""
    common.start_tensorflow()
    prefix = checkpoints.find(experiment_root)
    stored = checkpoints.read_args(prefix)
    if stored is None:
        raise common.MissingFileError(
            f'no args.json in {experiment_root}, and {prefix} has none of the flags: '
            'an older train.py wrote it; restore args.json'
        )
    logging.getLogger(common.LOGGER).warning(
        f'warning: no args.json in {experiment_root}; its flags are those that '
        f'{prefix} holds'
    )
    return stored
