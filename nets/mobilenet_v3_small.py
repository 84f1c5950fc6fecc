"""MobileNet v3, small of keras.applications; features [B, 576]. See _keras.py."""

from nets import _keras

KERAS_APPLICATION = 'MobileNetV3Small'
build, from_keras = _keras.variant('mobilenet_v3_small', KERAS_APPLICATION)
