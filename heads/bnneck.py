"""One linear layer for the loss, the same after batch norm as embedding.

The triplet loss moves features freely, while retrieval by angle (`evaluate.py --metric
cosine`) wants their dimensions alike: centred and of one variance. The loss that Luo et
al. classify identities with, behind the batch norm, is no part of this. Nothing is
learned there, so that gamma stays 1 and beta 0; the moving averages are what it has.

Source: Luo, Gu, Liao, Lai, Jiang 2019, arXiv:1903.07071, section 3.5.
"""

import layers
from heads import _dense


def head(features, embedding_dim):
    """Map features [B, F] to {'emb_raw', 'emb_train', 'emb'}, [B, embedding_dim] each.

    The loss sees `emb_train`, which is `emb_raw`.
    """
    outputs = _dense.embed(features, embedding_dim, normalises=False)
    neck = layers.BatchNorm(name='bnneck', trainable=False, dtype='float32')
    return outputs | {'emb_train': outputs['emb'], 'emb': neck(outputs['emb'])}
