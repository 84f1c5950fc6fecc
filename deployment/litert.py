"""LiteRT in float32."""

from deployment import _litert

SUFFIX, NEEDS, load = _litert.SUFFIX, _litert.NEEDS, _litert.load
TOLERANCE = 1e-4  # Other kernels of the same products, in float32.


def write(exported, target, calibration):
    """Write a file; see deployment."""
    del calibration
    _litert.convert(exported, target)
