"""Number formats of a network: what --precision means, and who computes it natively.

Keras' dtype policies do the work: variables, batch-norm statistics, distances, loss
and optimizer stay float32; activations and products take the format named.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import common

# Imported at first use: the choices are those of a flag.
if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = common.lazy_import('tensorflow')

# Choice of --precision -> Keras' dtype policy.
POLICIES = {
    'float32': 'float32',
    'bfloat16': 'mixed_bfloat16',
    'float16': 'mixed_float16',
}
PRECISION_CHOICES = tuple(POLICIES)

# What an x86 processor's flags must have for oneDNN to multiply in a format.
PROCESSOR_FLAGS = {'bfloat16': 'avx512f', 'float16': 'avx512_fp16'}


@contextlib.contextmanager
def policy(precision: str) -> Iterator[None]:
    """Let layers that are made within this context compute in a precision.

    Args:
        precision: one of PRECISION_CHOICES.

    Raises:
        ValueError: it is none of them.
    """
    if precision not in POLICIES:
        raise common.InputError(
            f'--precision {precision} is unknown; expected one of '
            f'{", ".join(PRECISION_CHOICES)}'
        )
    before = tf.keras.config.dtype_policy()
    tf.keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        tf.keras.config.set_dtype_policy(before)


def is_native(precision: str) -> bool:
    """Say whether the devices here multiply in a precision without detours.

    TensorFlow's fallback on an ordinary processor is a scalar loop: a seventeenth of
    the speed of float32 in a 3x3 convolution (docs/performance.md).

    Args:
        precision: one of PRECISION_CHOICES.
    """
    if precision not in PROCESSOR_FLAGS or tf.config.list_physical_devices('GPU'):
        return True
    flags = processor_flags()
    # Of a processor without such a list (ARM), we know nothing and change nothing.
    return not flags or PROCESSOR_FLAGS[precision] in flags


def processor_flags(cpuinfo: str | os.PathLike[str] = '/proc/cpuinfo') -> set[str]:
    """Return the features of the first processor, a set of str; empty if unknown."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(cpuinfo).read_text(encoding='utf-8').splitlines():
            name, _, value = line.partition(':')
            if name.strip() == 'flags':
                return set(value.split())
    return set()
