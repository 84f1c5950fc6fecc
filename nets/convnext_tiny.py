"""ConvNeXt-T of keras.applications; features [B, 768]. See _keras.py."""

from nets import _keras

KERAS_APPLICATION = 'ConvNeXtTiny'
build, from_keras = _keras.variant('convnext_tiny', KERAS_APPLICATION)
