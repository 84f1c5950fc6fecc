"""Networks, one public module per --model_name.

Each defines:

    build() -> keras.layers.Layer
        maps float32 RGB images [B, H, W, 3] in 0..255 to features [B, F]. It does its
        own input normalisation and takes any H and W. The layer's name is the
        variable scope of the TensorFlow 1 checkpoint (`resnet_v1_50`), and every
        variable in it is named as there. A net with the argument `last_stride` (1 or
        2) lets --last_stride choose the stride of its last block that has one.
    KERAS_APPLICATION, optional
        name of the keras.applications model whose ImageNet weights fit, with
        from_keras(keras_model) -> {variable name: array} that renames them.
    KERAS_ARGUMENTS, optional
        dict of arguments that make that application.

Modules starting with an underscore are code shared by nets. See docs/networks.md.
"""

import pkgutil

NET_CHOICES = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != '_')
)
