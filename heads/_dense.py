"""The dense layers that the heads are made of, under the original's names."""

import keras
import tensorflow as tf

import layers


def hidden(features, units):
    """Map features [B, F] to [B, units]: dense, batch norm, ReLU."""
    return layers.Dense(
        units,
        batch_norm=layers.BatchNorm(),
        activation=tf.nn.relu,
        name='fully_connected',
    )(features)


def embed(features, embedding_dim, normalises):
    """Map features [B, F] linearly to {'emb_raw', 'emb'}, [B, embedding_dim] each.

    Args:
        features: symbolic tensor [B, F].
        embedding_dim: D.
        normalises: whether `emb` is scaled to length 1.
    """
    # float32 whatever the policy: distances and the loss need the digits.
    emb_raw = layers.Dense(
        embedding_dim,
        initializer=keras.initializers.Orthogonal,
        name='emb',
        dtype='float32',
    )(features)
    emb = emb_raw
    if normalises:
        emb = layers.Function(unit_length, dtype='float32', name='emb_unit')(emb_raw)
    return {'emb_raw': emb_raw, 'emb': emb}


def unit_length(embs):
    """Scale embeddings [B, D] to length 1; one shorter than 1e-6 stays short."""
    return tf.nn.l2_normalize(embs, axis=-1)
