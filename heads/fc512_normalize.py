"""As fc512, scaled to length 1."""

from heads import _dense


def head(features, embedding_dim):
    """Map features [B, F] to {'emb_raw', 'emb'}, [B, embedding_dim] each."""
    return _dense.embed(_dense.hidden(features, 512), embedding_dim, normalises=True)
