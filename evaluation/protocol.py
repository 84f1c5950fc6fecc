"""Protocols other than an image a query: tracklets, pooled queries, larger galleries.

query, gallery = follow(query, gallery, excluder, pool, includes_queries, multi_query)
"""

import numpy as np

import common
import embedding_files
import excluders
from evaluation import pooling


def follow(query, gallery, excluder, pool, includes_queries, multi_query):
    """Return (query, gallery) as a protocol other than one image, one query has them.

    Args:
        query: embedding_files.EmbeddedDataset.
        gallery: embedding_files.EmbeddedDataset.
        excluder: of excluders.EXCLUDER_CHOICES, for what its data set's names say.
        pool: how frames are pooled into tracklets, or None.
        includes_queries: whether the gallery gets the queries too.
        multi_query: how queries of one PID and camera are pooled, or None.

    Raises:
        ValueError: names of that data set have no tracklets, or no cameras.
    """
    if pool is not None:
        tracklets = [
            excluders.find_tracklets(excluder, side.fids) for side in (query, gallery)
        ]
        if None in tracklets:
            raise common.InputError(
                '--pool needs names with tracklets; use --excluder mars'
            )
        query, gallery = (
            pool_dataset(side, keys, pool)
            for side, keys in zip((query, gallery), tracklets, strict=True)
        )
    if includes_queries:
        has_cameras = gallery.cids is not None and query.cids is not None
        gallery = embedding_files.EmbeddedDataset(
            np.concatenate([gallery.pids, query.pids]),
            np.concatenate([gallery.fids, query.fids]),
            np.concatenate([gallery.cids, query.cids]) if has_cameras else None,
            np.concatenate([gallery.embs, query.embs]),
        )
    if multi_query is not None:
        cameras = excluders.find_cameras(excluder, query)
        if cameras is None:
            raise common.InputError(
                f'--multi_query needs cameras, which --excluder {excluder} has not'
            )
        query = pool_dataset(query, cameras, multi_query)
    return query, gallery


def pool_dataset(dataset, keys, how):
    """Return an EmbeddedDataset with one row per PID and key, named by its first fid.

    Args:
        dataset: embedding_files.EmbeddedDataset.
        keys: iterable [N] of hashable values.
        how: one of pooling.POOL_CHOICES.
    """
    first_rows, codes = pooling.group(zip(dataset.pids, keys, strict=True))
    return embedding_files.EmbeddedDataset(
        dataset.pids[first_rows],
        dataset.fids[first_rows],
        None if dataset.cids is None else dataset.cids[first_rows],
        pooling.pool(dataset.embs, codes, how),
    )
