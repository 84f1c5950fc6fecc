"""Score held-out identities while a net is trained; what evaluate.py would say."""

import os
import time
import typing
import zlib

import numpy as np

import checkpoints
import common
import datasets
import excluders
from evaluation import ranking


class Scores(typing.NamedTuple):
    """Of one validation, both in 0..1.

    Attributes:
        mAP: mean of the step average precision over queries with a match.
        top1: share of the queries whose nearest image is a match.
    """

    mAP: float  # noqa: N815 (the name of evaluate.py's JSON)
    top1: float


class HeldOut:
    """Queries and gallery of a validation, checked.

    Args:
        gallery_csv: path of a data set CSV.
        query_csv: likewise, or None: every image of the gallery is a query, and finds
            the others.
        excluder: of excluders.EXCLUDER_CHOICES; it says what a query ignores, itself
            included.
        image_root: directory that the FIDs of both are relative to.
        has_header: whether the first line of a CSV names its columns.
        allows_outside: whether images may lie outside image_root.

    Attributes:
        query, gallery: datasets.Dataset, Q and G images.
        is_ignored: function of query rows and gallery rows that returns bool
            [rows, rows], True where a query ignores a gallery image.
        checksum: int that tells this validation from another one.

    Raises:
        FileNotFoundError: a CSV or some of the images are missing.
        InputError: a CSV or a FID is not as it should be, or no query has a match.
    """

    def __init__(
        self,
        gallery_csv,
        query_csv,
        excluder,
        image_root,
        has_header=False,
        allows_outside=False,
    ):
        self.image_root = image_root
        self.gallery = read_set(gallery_csv, image_root, has_header, allows_outside)
        self.has_queries = query_csv is not None
        self.query = self.gallery
        if self.has_queries:
            self.query = read_set(query_csv, image_root, has_header, allows_outside)
        self.is_ignored = excluders.make_mask(excluder, self.query, self.gallery)
        self.check_any_match(gallery_csv)
        lines = [
            f'excluders.{excluder}',
            *datasets.csv_lines(self.query),
            '',
            *datasets.csv_lines(self.gallery),
        ]
        self.checksum = zlib.crc32('\n'.join(lines).encode('utf-8'))

    def check_any_match(self, gallery_csv):
        """Raise ValueError if no query has a match that it does not ignore."""
        for rows in ranking.split(len(self.query.pids), 256, len(self.gallery.pids)):
            is_match = self.query.pids[rows, None] == self.gallery.pids  # [rows, G]
            if (is_match & ~self.is_ignored(rows, slice(None))).any():
                return
        raise common.InputError(
            f'none of the {len(self.query.pids)} validation queries has a match in '
            f'{gallery_csv} that is not ignored; check --val_set, --val_query and '
            '--val_excluder'
        )

    def fids(self):
        """Return the FIDs of all images, those of the gallery first."""
        if not self.has_queries:
            return self.gallery.fids
        return np.concatenate([self.gallery.fids, self.query.fids])

    def score(self, embs, metric):
        """Return the Scores of embeddings.

        Args:
            embs: float32 [G + Q, D] in the order of `fids`, or [G, D].
            metric: one of ranking.METRIC_CHOICES.

        Raises:
            ValueError: the embeddings have no distances (not finite, or zero where an
                angle is asked for).
        """
        if not np.isfinite(embs).all():
            raise common.InputError('some embeddings are not finite')
        gallery_embs = embs[: len(self.gallery.fids)]
        query_embs = embs[len(self.gallery.fids) :] if self.has_queries else embs
        ranks = ranking.rank(
            ranking.EmbeddingDistances(query_embs, gallery_embs, metric),
            self.query.pids,
            self.gallery.pids,
            self.is_ignored,
        )
        cmc = ranking.cumulative_matching_characteristic(ranks, len(gallery_embs))
        return Scores(ranking.mean_step_average_precision(ranks), float(cmc[0]))


def read_set(csv_file, image_root, has_header, allows_outside):
    """Return the datasets.Dataset of a CSV whose images are all there."""
    dataset = datasets.read(csv_file, has_header, image_root)
    datasets.check_inside(csv_file, dataset.fids, image_root, allows_outside)
    datasets.check_images_exist(csv_file, dataset.fids, image_root, '--val_image_root')
    return dataset


def describe_overlap(held_out, train_pids):
    """Return what to say if validation PIDs are trained on, list of str.

    Args:
        held_out: a HeldOut, or None.
        train_pids: [N] of str.
    """
    if held_out is None:
        return []
    val_pids = set(held_out.query.pids)
    common_pids = sorted(val_pids & set(train_pids))
    if not common_pids:
        return []
    return [
        f'{len(common_pids)} of {len(val_pids)} validation PIDs are also trained on '
        f'(first: {common_pids[0]}): their scores tell nothing of new identities; see '
        'make_csv.py split'
    ]


def read_record(state):
    """Return the record of the best weights so far, a dict; None: there are none.

    Args:
        state: checkpoints.TrainingState.

    Raises:
        InputError: the record is damaged.
    """
    record = checkpoints.read_best(state.directory)
    if record is None:
        return None
    step, score = record.get('step'), record.get('mAP')
    is_score = type(score) in (int, float) and 0 <= score <= 1  # NaN is none.
    steps = step, record.get('last', step)
    if not is_score or not all(type(s) is int and s >= 0 for s in steps):
        filename = os.path.join(state.directory, checkpoints.BEST_RECORD)
        raise common.InputError(
            f'{filename} has no step and mAP; expected what a validation writes: '
            'restore it, or remove it, and the next validation chooses anew'
        )
    return record


def read_best(held_out, state):
    """Return what read_record does, or None if it is of another validation.

    Args:
        held_out: a HeldOut; the scores of other images cannot be compared.
        state: checkpoints.TrainingState.
    """
    best = read_record(state)
    is_comparable = best and best.get('checksum') == held_out.checksum
    return best if is_comparable else None


def last_step(held_out, state):
    """Return the number of updates before the last validation that is recorded.

    That is `state.step` where nothing is told: earlier versions recorded the best
    validation alone.

    Args:
        held_out: a HeldOut.
        state: checkpoints.TrainingState.
    """
    best = read_best(held_out, state)
    return 0 if best is None else best.get('last', state.step)


class Validator:
    """Validates, reports it, and keeps the best weights of the run.

    Args:
        held_out: a HeldOut.
        embedder: an embedder.Embedder of the weights as they are at the time.
        batch_size: images per pass through the net, at most.
        loading_threads: images read at the same time.
        metric: one of ranking.METRIC_CHOICES.
        state: checkpoints.TrainingState.
        journal: journal.Journal.
    """

    def __init__(
        self, held_out, embedder, batch_size, loading_threads, metric, state, journal
    ):
        self.held_out = held_out
        self.embedder = embedder
        self.batch_size = batch_size
        self.loading_threads = loading_threads
        self.metric = metric
        self.state = state
        self.journal = journal
        self.best = read_best(held_out, state)

    def embed(self):
        """Return the embeddings of the held-out images, float32; see HeldOut.score.

        Raises:
            InputError: an image cannot be read.
        """
        paths = datasets.join_paths(self.held_out.image_root, self.held_out.fids())
        embedded = self.embedder.embed_files(
            paths, None, self.batch_size, self.loading_threads, quiet=True
        )
        return np.concatenate([embs[0] for _, embs in embedded])

    def validate(self, done):
        """Score the weights after `done` updates; warn if they have no scores.

        Raises:
            ValueError: an image cannot be read.
            OSError: the best weights cannot be written.
        """
        started = time.perf_counter()
        embs = self.embed()
        try:
            scores = self.held_out.score(embs, self.metric)
        except ValueError as error:  # Perhaps only for now; training goes on.
            self.journal.logger.warning(
                f'no validation after iteration {done}: {error}'
            )
            return
        if self.best is None or scores.mAP > self.best['mAP']:
            self.best = self.state.save_best(
                {
                    'step': done,
                    'last': done,
                    'checksum': self.held_out.checksum,
                    **scores._asdict(),
                }
            )
        else:
            self.best = {**self.best, 'last': done}
            self.state.record_best(self.best)
        secs = time.perf_counter() - started
        self.journal.write_validation(done, scores, self.best, secs)
