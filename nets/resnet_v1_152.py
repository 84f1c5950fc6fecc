"""ResNet-152 v1, the layout of TF-Slim; features [B, 2048]. See _resnet.py."""

from nets import _resnet

KERAS_APPLICATION = 'ResNet152'
build, from_keras = _resnet.variant(152)
