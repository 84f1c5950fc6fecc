"""Embedding heads, one public module per --head_name.

Each defines head(features, embedding_dim) -> {'emb_raw': [B, D], 'emb': [B, D]}:
`features` is the symbolic output [B, F] of a net; `emb_raw` comes straight from the
last dense layer, and `emb`, normalised or not, is what the loss sees and embed.py
writes. A head that trains at another point than it embeds from also returns
'emb_train': [B, D], which the loss then sees in the place of `emb`. Modules starting
with an underscore are code shared by heads. See docs/networks.md.
"""

import pkgutil

HEAD_CHOICES = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != '_')
)
