"""Excluders, one public module per --excluder: which gallery images a query ignores.

Each defines a class `Excluder`:

    Excluder(gallery_fids)    gallery_fids: [G] of str; parses them once.
    excluder(query_fids, gallery_rows=slice(None))
                              query_fids: [Q] of str; gallery_rows: a slice of the G,
                              or indices -> bool [Q, rows], True = ignore.

A fid that it cannot parse raises ValueError naming the fid and what such names look
like. Evaluation asks for one block after another, so the answer has to come from
comparing integers, not strings: a class derived from `_keys.KeyExcluder` says what
makes two images alike, and gets the rest from there. Such a class may also offer, by
overriding methods that return None there,

    cameras(fids, pids, cids)    [N] of str, the camera of each image;
    tracklets(fids)              [N], the tracklet of each image,

and is given the PIDs and cameras of a CSV, too. docs/excluders.md writes one from
scratch. Commands call `make_mask` and `find_cameras`, not the classes.
"""

import importlib
import pkgutil

from excluders import _keys

EXCLUDER_CHOICES = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != '_')
)


def load(name):
    """Return the class Excluder of a module of this folder."""
    return importlib.import_module(f'excluders.{name}').Excluder


def make_mask(name, query, gallery):
    """Return the function is_ignored(query_rows, gallery_rows) -> bool [rows, rows].

    True is where the query ignores the gallery image; rows are slices or indices. What
    the names of the images say is worked out here, once.

    Args:
        name: one of EXCLUDER_CHOICES.
        query, gallery: datasets.Dataset, or whatever has pids, fids and cids.
    """
    kind = load(name)
    if not issubclass(kind, _keys.KeyExcluder):
        excluder = kind(gallery.fids)
        return lambda rows, cols=slice(None): excluder(query.fids[rows], cols)
    excluder = kind(gallery.fids, gallery.pids, gallery.cids)
    codes = excluder.encode(query.fids, query.pids, query.cids)
    return lambda rows, cols=slice(None): excluder.ignores(codes[rows], cols)


def find_cameras(name, dataset):
    """Return the cameras of a data set's images, [N] of str, or None if unknown.

    Args:
        name: one of EXCLUDER_CHOICES, whose naming rules the images follow.
        dataset: datasets.Dataset, or whatever has pids, fids and cids. A CSV's own
            camera column counts first.
    """
    if dataset.cids is not None:
        return dataset.cids
    kind = load(name)
    if not issubclass(kind, _keys.KeyExcluder):
        return None
    return kind([]).cameras(dataset.fids, dataset.pids, dataset.cids)


def find_tracklets(name, fids):
    """Return the tracklets of images, [N], or None if their names tell of none."""
    kind = load(name)
    return kind([]).tracklets(fids) if issubclass(kind, _keys.KeyExcluder) else None
