"""The paper's head of LuNet: 512 units with batch norm and ReLU, then linear.

Source: Hermans, Beyer, Leibe 2017, arXiv:1703.07737, appendix.
"""

from heads import _dense


def head(features, embedding_dim):
    """Map features [B, F] to {'emb_raw', 'emb'}, [B, embedding_dim] each."""
    return _dense.embed(_dense.hidden(features, 512), embedding_dim, normalises=False)
