"""One linear layer, not normalised."""

from heads import _dense


def head(features, embedding_dim):
    """Map features [B, F] to {'emb_raw', 'emb'}, [B, embedding_dim] each."""
    return _dense.embed(features, embedding_dim, normalises=False)
