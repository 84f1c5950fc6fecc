"""Net and head, joined to one Keras model."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

import common
from heads import HEAD_CHOICES
from nets import NET_CHOICES
from precision import policy

if TYPE_CHECKING:
    import tensorflow as tf

# Of ResNets, as they were designed; other nets have no choice.
LAST_STRIDE = 2


def build_model(
    model_name: str,
    head_name: str,
    embedding_dim: int,
    precision: str = 'float32',
    last_stride: int = LAST_STRIDE,
) -> keras.Model:
    """Return a Keras model: images [B, H, W, 3] -> {'emb_raw', 'emb', ...} [B, D].

    Args:
        model_name: a module of nets/.
        head_name: a module of heads/.
        embedding_dim: D.
        precision: number format of activations and products; variables and
            embeddings are float32 in any case.
        last_stride: stride of the last block of a ResNet that has one, 1 or 2.

    Returns:
        keras.Model of float32 RGB images in 0..255, any H and W that the net takes;
        its variables' paths are the names they had in TensorFlow 1.

    Raises:
        ValueError: there is no such net, head or precision, or the net's stride cannot
            be chosen.
    """
    check_choice('model_name', model_name, NET_CHOICES)
    check_choice('head_name', head_name, HEAD_CHOICES)
    with policy(precision):
        images = keras.Input((None, None, 3), dtype='float32', name='images')
        features = build_net(model_name, last_stride)(images)
        outputs = importlib.import_module(f'heads.{head_name}').head(
            features, embedding_dim
        )
        return keras.Model(images, outputs)


def training_embs(outputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """Return what the loss sees of a model's outputs, [B, D]; see heads."""
    return outputs.get('emb_train', outputs['emb'])


def build_net(model_name: str, last_stride: int) -> keras.layers.Layer:
    """Return the body of a net; see build_model."""
    build = importlib.import_module(f'nets.{model_name}').build
    if 'last_stride' in inspect.signature(build).parameters:
        return build(last_stride=last_stride)
    if last_stride != LAST_STRIDE:
        raise common.InputError(
            f'last_stride {last_stride} is not for the net {model_name}, whose strides '
            f'are fixed; leave it at {LAST_STRIDE}, or choose a ResNet'
        )
    return build()


def check_choice(flag: str, name: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `name` is one of a registry's choices."""
    if name not in choices:
        raise common.InputError(
            f'--{flag} {name} is unknown; expected one of {", ".join(choices)}'
        )
