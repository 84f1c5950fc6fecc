"""Net and head, joined to one Keras model."""

import importlib

import keras

from heads import HEAD_CHOICES
from nets import NET_CHOICES
from precision import policy


def build_model(model_name, head_name, embedding_dim, precision='float32'):
    """Return a Keras model: images [B, H, W, 3] -> {'emb_raw', 'emb'} [B, D].

    Args:
        model_name: a module of nets/.
        head_name: a module of heads/.
        embedding_dim: D.
        precision: number format of activations and products; variables and
            embeddings are float32 in any case.

    Returns:
        keras.Model of float32 RGB images in 0..255, any H and W that the net takes;
        its variables' paths are the names they had in TensorFlow 1.

    Raises:
        ValueError: there is no such net, head or precision.
    """
    check_choice('model_name', model_name, NET_CHOICES)
    check_choice('head_name', head_name, HEAD_CHOICES)
    with policy(precision):
        images = keras.Input((None, None, 3), dtype='float32', name='images')
        features = importlib.import_module(f'nets.{model_name}').build()(images)
        outputs = importlib.import_module(f'heads.{head_name}').head(
            features, embedding_dim
        )
        return keras.Model(images, outputs)


def check_choice(flag, name, choices):
    """Raise ValueError unless `name` is one of a registry's choices."""
    if name not in choices:
        raise ValueError(
            f'--{flag} {name} is unknown; expected one of {", ".join(choices)}'
        )
