"""LiteRT with weights in float16: half the size."""

from deployment import _litert

SUFFIX, NEEDS, load = '_float16.tflite', _litert.NEEDS, _litert.load

# Each weight is off by at most 2**-11, of which a net of 50 layers makes a few times
# that; what goes wrong is larger by far.
TOLERANCE = 0.05


def write(exported, target, calibration):
    """Write a file; see deployment."""
    del calibration
    import tensorflow as tf

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    _litert.convert(exported, target, configure)
