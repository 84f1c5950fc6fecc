"""EfficientNetV2-B0 of keras.applications; features [B, 1280]. See _keras.py."""

from nets import _keras

KERAS_APPLICATION = 'EfficientNetV2B0'
build, from_keras = _keras.variant('efficientnet_v2_b0', KERAS_APPLICATION)
