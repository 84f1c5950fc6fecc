"""ResNet-101 v1, the layout of TF-Slim; features [B, 2048]. See _resnet.py."""

from nets import _resnet

NUM_UNITS = (3, 4, 23, 3)
KERAS_APPLICATION = 'ResNet101'


def build():
    """Return the network body, its variables under `resnet_v1_101`."""
    return _resnet.resnet_v1('resnet_v1_101', NUM_UNITS)


def from_keras(model):
    """Return the weights of keras.applications.ResNet101 under our names."""
    return _resnet.rename_keras_weights(model, 'resnet_v1_101', NUM_UNITS)
