"""LiteRT in int8, calibrated on images: a quarter of the size, for integer hardware."""

from deployment import _litert

SUFFIX, NEEDS, load = '_int8.tflite', _litert.NEEDS, _litert.load

# 256 steps for all values of a layer: the score says what that costs. Beyond this, the
# embeddings have little to do with each other.
TOLERANCE = 1.0

# Images that the ranges of the layers are measured on.
CALIBRATED = 100


def write(exported, target, calibration):
    """Write a file; see deployment."""
    import tensorflow as tf

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [image[None]] for image in calibration[:CALIBRATED]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]

    _litert.convert(exported, target, configure)
