"""Score held-out identities while a net is trained; what evaluate.py would say."""

import time
import typing
import zlib

import numpy as np

import common
import embedding_files
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
        excluder_class: of excluders/; it says what a query ignores, itself included.
        image_root: directory that the FIDs of both are relative to.

    Attributes:
        query_pids, query_fids: object arrays [Q] of str.
        gallery_pids, gallery_fids: object arrays [G] of str.
        checksum: int that tells this validation from another one.

    Raises:
        FileNotFoundError: a CSV or some of the images are missing.
        ValueError: a CSV or a FID is not as it should be, or no query has a match.
    """

    def __init__(self, gallery_csv, query_csv, excluder_class, image_root):
        self.image_root = image_root
        self.gallery_pids, self.gallery_fids = read_set(gallery_csv, image_root)
        self.query_pids, self.query_fids = self.gallery_pids, self.gallery_fids
        self.has_queries = query_csv is not None
        if self.has_queries:
            self.query_pids, self.query_fids = read_set(query_csv, image_root)
        self.excluder = excluder_class(self.gallery_fids)
        self.check_any_match(gallery_csv)
        lines = [
            excluder_class.__module__,
            *common.csv_lines(self.query_pids, self.query_fids),
            '',
            *common.csv_lines(self.gallery_pids, self.gallery_fids),
        ]
        self.checksum = zlib.crc32('\n'.join(lines).encode('utf-8'))

    def check_any_match(self, gallery_csv):
        """Raise ValueError if no query has a match that it does not ignore."""
        for rows in ranking.split(len(self.query_pids), 256, len(self.gallery_pids)):
            is_match = self.query_pids[rows, None] == self.gallery_pids  # [rows, G]
            if (is_match & ~self.is_ignored(rows)).any():
                return
        raise common.InputError(
            f'none of the {len(self.query_pids)} validation queries has a match in '
            f'{gallery_csv} that is not ignored; check --val_set, --val_query and '
            '--val_excluder'
        )

    def is_ignored(self, rows, cols=slice(None)):
        """Return bool [rows, cols], True where a query ignores a gallery image."""
        return self.excluder(self.query_fids[rows], cols)

    def fids(self):
        """Return the FIDs of all images, those of the gallery first."""
        if not self.has_queries:
            return self.gallery_fids
        return np.concatenate([self.gallery_fids, self.query_fids])

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
        gallery_embs = embs[: len(self.gallery_fids)]
        query_embs = embs[len(self.gallery_fids) :] if self.has_queries else embs
        ranks = ranking.rank(
            ranking.EmbeddingDistances(query_embs, gallery_embs, metric),
            self.query_pids,
            self.gallery_pids,
            self.is_ignored,
        )
        aps = [ranking.step_average_precision(r) for r in ranks if len(r.ranks)]
        cmc = ranking.cumulative_matching_characteristic(ranks, len(gallery_embs))
        return Scores(float(np.mean(aps)), float(cmc[0]))


def read_set(csv_file, image_root):
    """Return (pids, fids) of a CSV whose images are all there."""
    pids, fids = embedding_files.read_csv(csv_file)
    common.check_images_exist(csv_file, fids, image_root, '--val_image_root')
    return pids, fids


def describe_overlap(held_out, train_pids):
    """Return what to say if validation PIDs are trained on, list of str.

    Args:
        held_out: a HeldOut.
        train_pids: [N] of str.
    """
    val_pids = set(held_out.query_pids)
    common_pids = sorted(val_pids & set(train_pids))
    if not common_pids:
        return []
    return [
        f'{len(common_pids)} of {len(val_pids)} validation PIDs are also trained on '
        f'(first: {common_pids[0]}): their scores tell nothing of new identities; see '
        'make_csv.py split'
    ]


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
        best = state.read_best()
        # The scores of other images cannot be compared.
        is_comparable = best and best.get('checksum') == held_out.checksum
        self.best = best if is_comparable else None

    def embed(self):
        """Return the embeddings of the held-out images, float32; see HeldOut.score.

        Raises:
            InputError: an image cannot be read.
        """
        paths = common.join_paths(self.held_out.image_root, self.held_out.fids())
        embedded = self.embedder.embed_files(
            paths, self.batch_size, self.loading_threads, quiet=True
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
            checksum = self.held_out.checksum
            self.best = {'step': done, 'checksum': checksum, **scores._asdict()}
            self.state.save_best(self.best)
        secs = time.perf_counter() - started
        self.journal.write_validation(done, scores, self.best, secs)
