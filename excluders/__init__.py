"""Excluders, one public module per --excluder: which gallery images a query ignores.

Each defines a class `Excluder`:

    Excluder(gallery_fids)    gallery_fids: [G] of str; parses them once.
    excluder(query_fids, gallery_rows=slice(None))
                              query_fids: [Q] of str; gallery_rows: a slice of the G,
                              or indices -> bool [Q, rows], True = ignore.

A fid that it cannot parse raises ValueError naming the fid and what such names look
like. Evaluation asks for one block after another, so the answer has to come from
comparing integers, not strings: `_keys` turns "the camera of an image" into such
integers. docs/excluders.md writes one from scratch.
"""

import pkgutil

EXCLUDER_CHOICES = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != '_')
)
