"""Approximate search: an index proposes candidates, the exact distance ranks them.

    told = build('hnsw', 'gallery.index', images, 'euclidean', 0.9)
    found = Index('gallery.index', images, [], 'euclidean').find(embs, 10)

FAISS makes and searches the index, the latter in a process of its own: it and
TensorFlow each bring a runtime for threads. What is found may miss an image; distances
and their order are those of the exact ranking.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import typing

import numpy as np

import common
from evaluation import ranking
from searching import _faiss, gallery, nearest

tqdm = common.lazy_import('tqdm')

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Candidates for each image that is asked for, and at least.
CANDIDATES, LEAST_CANDIDATES = 10, 100

# Gallery images that recall is measured with, those that each should find, and what
# they are drawn with.
CHECKED, CHECKED_TOP, SEED = 200, 10, 1

# What FAISS computes; of embeddings of length 1, it orders as the cosine does.
SCALES = {
    'euclidean': lambda embs: embs,
    'sqeuclidean': lambda embs: embs,
    'cosine': lambda embs: ranking.scale_to_unit(np.asarray(embs, np.float64)),
}


class Described(typing.NamedTuple):
    """What the JSON file beside an index says.

    Attributes:
        kind: see search.py --build_index.
        metric: that it proposes for.
        num_rows: G.
        gallery: fingerprint of the gallery.
        sha256: of the index.
        recall_1, recall_10: shares of the nearest, and of the 10 nearest, images that
            it finds.
        num_bytes: of the index.
        build_secs: that it took.
        queries_per_s: one after the other, exact distances included.
    """

    kind: str
    metric: str
    num_rows: int
    gallery: str
    sha256: str
    recall_1: float
    recall_10: float
    num_bytes: int
    build_secs: float
    queries_per_s: float


def find_scale(metric):
    """Return the function of SCALES for a metric.

    Raises:
        InputError: there is none.
    """
    if metric not in SCALES:
        raise common.InputError(
            f'an index cannot propose by {metric} distance, only by '
            f'{", ".join(SCALES)}; search without --index'
        )
    return SCALES[metric]


def require_faiss():
    """Raise InputError if FAISS is not installed."""
    import importlib.util

    if importlib.util.find_spec('faiss') is None:
        raise common.InputError(
            'an index needs FAISS; install it: pip install -r requirements-search.txt'
        )


def build(kind, filename, images, metric, min_recall):
    """Write an index of a gallery, and JSON beside it; return what to say of it.

    Args:
        kind: see search.py --build_index.
        filename: of the index.
        images: gallery.Gallery.
        metric: one of ranking.METRIC_CHOICES.
        min_recall: share of the 10 nearest images that it has to find.

    Raises:
        InputError: it cannot be made, or finds less; nothing is kept.
    """
    require_faiss()
    scale = find_scale(metric)
    if len(images.embs) < 2:
        raise common.InputError(
            f'{images.filenames[0]} has one image, which needs no index'
        )
    started = time.perf_counter()
    try:
        made = _faiss.build(kind, images.embs, SEED, scale, show_progress)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise common.InputError(
            f'no index {kind} of {images.filenames[0]} ({reason}); choose another kind'
        ) from error
    build_secs = time.perf_counter() - started
    rows = draw_checked(len(images.embs))
    started = time.perf_counter()
    found = [propose_and_rank(made, images, row, metric, scale) for row in rows]
    rate = len(rows) / (time.perf_counter() - started)
    recall_1, recall_10 = measure_recall(images, rows, found, metric)
    if not recall_10 >= min_recall:
        raise common.InputError(
            f'the index {kind} finds {recall_10:.1%} of the {CHECKED_TOP} nearest '
            f'images, {min_recall:.1%} were asked for (--min_recall); it is not kept: '
            'choose another kind'
        )
    with (
        common.complete_file(f'{filename}.json') as beside,  # It gets its name last.
        common.complete_file(filename) as temporary,
    ):
        with open(temporary, 'wb') as file:
            _faiss.write(made, file)
        told = Described(
            *(kind, metric, len(images.embs), gallery.fingerprint(images)),
            *(common.hash_file(temporary), recall_1, recall_10),
            *(os.path.getsize(temporary), build_secs, rate),
        )
        common.dump_json(beside, told._asdict())
        common.sync(beside)
        common.sync(temporary)
        # Nothing that follows needs room on the disk. What tells of an older file must
        # not stand beside the new one at any time.
        common.remove(os.path.realpath(f'{filename}.json'))
    return (
        f'{filename}: {kind} of {told.num_rows} images, {told.num_bytes / 1e6:.1f} MB, '
        f'built in {build_secs:.1f} s | recall@1 {recall_1:.1%}, recall@10 '
        f'{recall_10:.1%} | {rate:.0f} queries/s, one after the other'
    )


def show_progress(firsts):
    """Return an iterable of row numbers under a bar, if stderr is a terminal."""
    return tqdm.tqdm(firsts, unit=' blocks', disable=None)


def draw_checked(num_rows):
    """Return the rows that recall is measured with, ascending int64 [n]."""
    rng = np.random.default_rng(SEED)
    return np.sort(rng.choice(num_rows, min(CHECKED, num_rows), replace=False))


def propose_and_rank(made, images, row, metric, scale):
    """Return the rows that an index finds for a gallery image, itself left out."""
    query = np.asarray(images.embs[row : row + 1])
    count = min(count_candidates(CHECKED_TOP) + 1, len(images.embs))
    _, proposed = made.search(np.ascontiguousarray(scale(query), np.float32), count)
    others = proposed[0][(proposed[0] >= 0) & (proposed[0] != row)]
    return rank_candidates(query, np.sort(others), images, metric, CHECKED_TOP).rows


def measure_recall(images, rows, found, metric):
    """Return (recall@1, recall@10) of what an index finds for gallery images.

    Args:
        images: gallery.Gallery.
        rows: int64 [n], the images.
        found: list [n] of int64 arrays, rows of others, nearest first.
        metric: one of ranking.METRIC_CHOICES.
    """
    queries = np.concatenate([images.embs[row : row + 1] for row in rows])
    distances = ranking.EmbeddingDistances(queries, images.embs, metric)
    exact = nearest.nearest_images(distances, CHECKED_TOP + 1)
    shares = {1: [], CHECKED_TOP: []}
    for row, of_index, one in zip(rows, found, exact, strict=True):
        others = one.rows[one.rows != row][:CHECKED_TOP]
        for count, of_rows in shares.items():
            expected = others[:count]
            if len(expected):
                of_rows.append(np.isin(expected, of_index[:count]).mean())
    return tuple(float(np.mean(of_rows)) for of_rows in shares.values())


def count_candidates(count):
    """Return the candidates that are asked for, to find `count` images."""
    return max(LEAST_CANDIDATES, CANDIDATES * count)


def rank_candidates(query, rows, images, metric, count):
    """Return the Nearest of some gallery rows, ascending int64 [n].

    Args:
        query: [1, D].
        rows: candidates.
        images: gallery.Gallery.
        metric: one of ranking.METRIC_CHOICES.
        count: images that are asked for.
    """
    if not len(rows):
        return nearest.NOTHING
    dists = ranking.compute_distances(query, nearest.take(images.embs, rows), metric)[0]
    chosen = nearest.smallest(dists, count)
    return nearest.Nearest(rows[chosen], dists[chosen])


class Index:
    """An index of a gallery, searched by a process of its own; a context manager.

    Args:
        filename: of the index.
        images: gallery.Gallery, whole.
        without: PIDs that are not found.
        metric: one of ranking.METRIC_CHOICES.

    Raises:
        FileNotFoundError, InputError: it is missing, damaged, or of another gallery or
            metric.
    """

    def __init__(self, filename, images, without, metric):
        self.filename = filename
        self.images = images
        self.metric = metric
        self.scale = find_scale(metric)
        self.is_left_out = np.isin(images.pids.astype(str), without)
        told = read_described(filename)
        if told.gallery != gallery.fingerprint(images):
            raise common.InputError(
                f'{filename} was made of other files than --gallery, or of the same in '
                'another order; make it again with --build_index'
            )
        if (told.metric == 'cosine') != (metric == 'cosine'):
            raise common.InputError(
                f'{filename} proposes by {told.metric} distance, not by {metric}; make '
                'it again with --metric'
            )
        if common.hash_file(filename) != told.sha256:
            raise common.InputError(
                f'{filename} is damaged: its SHA-256 is not that in {filename}.json; '
                'copy both again, or make it again'
            )
        require_faiss()
        self.lock = threading.Lock()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.directory = stack.enter_context(tempfile.TemporaryDirectory())
            self.errors = stack.enter_context(tempfile.TemporaryFile())
            # At its end, it closes the pipes, and waits: the process ends with them.
            self.process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, '-m', _faiss.__name__, self.filename],
                    env={**os.environ, 'PYTHONPATH': ROOT},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self.errors,
                    text=True,
                )
            )
            told = self.read()
            if [told['rows'], told['dim']] != list(self.images.embs.shape):
                raise common.InputError(
                    f'{self.filename} has {told["rows"]} images of {told["dim"]} '
                    f'dimensions, the gallery {list(self.images.embs.shape)}; make it '
                    'again with --build_index'
                )
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def read(self):
        """Return the next answer of the process, a dict."""
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors='replace').splitlines() or ['']
        raise common.InputError(
            f'FAISS fails with {self.filename} (exit {code}: {lines[-1]}); make it '
            'again with --build_index'
        )

    def propose(self, embs, count):
        """Return the candidates of queries [Q, D], int64 [Q, count], -1: no more."""
        names = [os.path.join(self.directory, n) for n in ('in.npy', 'out.npy')]
        with self.lock:
            np.save(names[0], np.ascontiguousarray(self.scale(embs), np.float32))
            task = {'queries': names[0], 'rows': names[1], 'count': count}
            with contextlib.suppress(BrokenPipeError):  # Why is read below.
                self.process.stdin.write(json.dumps(task) + '\n')
                self.process.stdin.flush()
            self.read()
            rows = np.load(names[1])
        if rows.max(initial=-1) >= len(self.images.embs):
            raise common.InputError(
                f'{self.filename} is damaged: it finds image {rows.max() + 1} of '
                f'{len(self.images.embs)}; make it again with --build_index'
            )
        return rows

    def find(self, embs, count, by_pid):
        """Return the nearest.Nearest of queries, list [Q].

        Args:
            embs: [Q, D].
            count: images, or identities, of each.
            by_pid: whether of each identity its nearest image alone is found.
        """
        return [self.find_one(embs[i : i + 1], count, by_pid) for i in range(len(embs))]

    def find_one(self, query, count, by_pid):
        """Return the nearest.Nearest of a query [1, D]; see find."""
        asked = count_candidates(count)
        while True:
            asked = min(asked, len(self.images.embs))
            proposed = self.propose(query, asked)[0]
            kept = np.unique(proposed[proposed >= 0])  # A damaged one repeats some.
            kept = kept[~self.is_left_out[kept]]
            found = rank_candidates(query, kept, self.images, self.metric, len(kept))
            if by_pid:
                # The first of each identity is its nearest image.
                pids = self.images.pids[found.rows].astype(str)
                firsts = np.sort(np.unique(pids, return_index=True)[1])
                found = nearest.Nearest(found.rows[firsts], found.dists[firsts])
            is_all = asked == len(self.images.embs) or proposed[-1] < 0
            if len(found.rows) >= count or is_all:
                return nearest.Nearest(found.rows[:count], found.dists[:count])
            asked *= 4


def read_described(filename):
    """Return the Described of an index.

    Raises:
        FileNotFoundError, InputError: it is missing or wrong.
    """
    beside = f'{filename}.json'
    if not os.path.isfile(filename) or not os.path.isfile(beside):
        raise common.MissingFileError(
            f'{filename} and {beside} are not both there; make them with --build_index'
        )
    stored = common.read_object(beside)
    kinds = typing.get_type_hints(Described)
    is_sound = stored.keys() == kinds.keys() and all(
        # JSON writes whole numbers without a point.
        isinstance(stored[name], (int, float) if kind is float else kind)
        for name, kind in kinds.items()
    )
    if not is_sound or stored['metric'] not in SCALES:
        raise common.InputError(
            f'{beside} is not what --build_index writes; make the index again'
        )
    return Described(**stored)
