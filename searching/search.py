"""A gallery that images are looked for in, exactly or by an index."""

import numpy as np

import common
from evaluation import ranking
from searching import nearest

# Imported at first use: it needs more libraries.
index = common.lazy_import('searching.index')


class Search:
    """A gallery that images are looked for in; a context manager.

    Args:
        images: gallery.Gallery, whole.
        without: PIDs to leave out.
        metric: one of ranking.METRIC_CHOICES.
        index_file: of an index, or None: exact.
        group_by_pid: 'best', 'mean' or None.
        top: images or identities that are found.
    """

    def __init__(self, images, without, metric, index_file, group_by_pid, top):
        self.images = images.without(without) if without else images
        self.metric = metric
        self.group_by_pid = group_by_pid
        self.top = top
        self.index = None
        if group_by_pid is not None and None in self.images.pids:
            raise common.InputError(
                f'{images.filenames[0]} tells no PIDs to group by; give '
                '--gallery_dataset, or leave --group_by_pid out'
            )
        self.screen = None
        embs = self.images.embs
        is_held = isinstance(embs, np.ndarray) and embs.dtype == np.float32
        is_plain = index_file is None and group_by_pid is None
        if is_held and is_plain and metric in nearest.SCREENED:
            self.screen = nearest.Screen(self.images.embs, metric)
        if index_file is not None:
            self.index = index.Index(index_file, images, without, metric)

    def __enter__(self):
        if self.index is not None:
            self.index.__enter__()
        return self

    def __exit__(self, *_):
        if self.index is not None:
            self.index.__exit__()

    def find(self, embs):
        """Return the nearest.Nearest of queries, [Q, D], list [Q]."""
        if self.index is not None:
            return self.index.find(embs, self.top, self.group_by_pid is not None)
        if self.screen is not None:
            return self.screen.find(embs, self.top)
        distances = ranking.EmbeddingDistances(embs, self.images.embs, self.metric)
        if self.group_by_pid is None:
            return nearest.nearest_images(distances, self.top)
        return nearest.nearest_identities(
            distances, self.images.pids, self.group_by_pid, self.top
        )
