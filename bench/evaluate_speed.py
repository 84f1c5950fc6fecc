"""How long does the evaluation of Market-1501 take, beside two other ways?

    python -m bench.evaluate_speed --repeats 3

Made-up embeddings of Market-1501's size (3368 x 19732 x 128) and of a quarter of it, in
files. Each contender is a process of its own that reads them and scores mAP (steps) and
rank-1, Euclidean, one after another in turns:

    ours       evaluate.py
    sklearn    a matrix of distances, a matrix of what to ignore, and a loop over
               scikit-learn's average_precision_score, as the paper's code did
    argsort    a matrix of distances, one np.argsort of it all and a loop over queries,
               as suites in PyTorch do

Prints the median of the wall time, its range, the processor time and the peak memory of
the process, and how many times ours that is; and that all agree on the scores.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys
import tempfile
import typing

import h5py
import numpy as np

import common
from bench import _sides

CONTENDERS = ('ours', 'sklearn', 'argsort')

# (Q, G): a quarter of Market-1501's size, and all of it.
SIZES = ((842, 4933), (3368, 19732))


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('--repeats', type=int, default=3, help='Runs of each.')
    parser.add_argument('--contender', choices=CONTENDERS[1:], help=argparse.SUPPRESS)
    parser.add_argument('--directory', type=pathlib.Path, help=argparse.SUPPRESS)
    return parser


def write_files(directory, num_queries, num_gallery, dim=128):
    """Write CSV and HDF5 files of noisy clusters, a sixth of them distractors."""
    rng = np.random.default_rng(0)
    num_pids = num_queries * 750 // 3368
    centres = rng.normal(size=(num_pids + 1, dim))
    for side, count in (('query', num_queries), ('gallery', num_gallery)):
        pids = rng.integers(1, num_pids + 1, size=count)
        if side == 'gallery':
            pids[rng.random(count) < 1 / 6] = 0
        noise = rng.normal(size=(count, dim)) * np.where(pids, 1.5, 3)[:, None]
        with h5py.File(directory / f'{side}.h5', 'w') as file:
            file['emb'] = (centres[pids] + noise).astype(np.float32)
        lines = [
            f'{pid:04d},{side}/{pid:04d}_c{camera}s1_{i:06d}_00.jpg\n'
            for i, (pid, camera) in enumerate(
                zip(pids, rng.integers(1, 7, size=count), strict=True)
            )
        ]
        (directory / f'{side}.csv').write_text(''.join(lines))


class Images(typing.NamedTuple):
    """Queries, or the gallery.

    Attributes:
        embs: float32 [N, D].
        pids, cids: int64 [N].
    """

    embs: np.ndarray
    pids: np.ndarray
    cids: np.ndarray


def read_files(directory):
    """Return the Images of the queries, and those of the gallery."""
    sides = []
    for side in ('query', 'gallery'):
        with h5py.File(directory / f'{side}.h5') as file:
            embs = file['emb'][:]
        rows = [row.split(',') for row in (directory / f'{side}.csv').open()]
        pids = np.array([int(pid) for pid, _ in rows])
        cids = np.array([int(re.search(r'_c(\d)', fid)[1]) for _, fid in rows])
        sides.append(Images(embs, pids, cids))
    return sides


def compute_matrix(query_embs, gallery_embs):
    """Return all Euclidean distances, float32 [Q, G]."""
    sq_dists = (query_embs**2).sum(1)[:, None] + (gallery_embs**2).sum(1)
    sq_dists -= 2 * query_embs @ gallery_embs.T
    return np.sqrt(np.maximum(sq_dists, 0))


def score_by_sklearn(query, gallery):
    """Return (mAP, rank-1), query by query with scikit-learn."""
    from sklearn.metrics import average_precision_score

    dists = compute_matrix(query.embs, gallery.embs)  # [Q, G]
    is_match = gallery.pids == query.pids[:, None]  # [Q, G]
    is_ignored = is_match & (gallery.cids == query.cids[:, None])
    dists[is_ignored] = np.inf
    is_match &= ~is_ignored
    aps, num_hits = [], 0
    for row, matches in zip(dists, is_match, strict=True):
        kept = np.isfinite(row)
        if matches.any():
            aps.append(average_precision_score(matches[kept], -row[kept]))
            num_hits += int(matches[np.argsort(row)[0]])
    return float(np.mean(aps)), num_hits / len(dists)


def score_by_argsort(query, gallery):
    """Return (mAP, rank-1) from the sorted matrix."""
    order = np.argsort(compute_matrix(query.embs, gallery.embs), axis=1)  # [Q, G]
    is_match = (gallery.pids[order] == query.pids[:, None]).astype(np.int32)
    aps, num_hits = [], 0
    for q, cols in enumerate(order):
        kept = (gallery.pids[cols] != query.pids[q]) | (
            gallery.cids[cols] != query.cids[q]
        )
        matches = is_match[q][kept]
        if matches.any():
            precisions = matches.cumsum() / np.arange(1, len(matches) + 1)
            aps.append((precisions * matches).sum() / matches.sum())
            num_hits += int(matches[0])
    return float(np.mean(aps)), num_hits / len(order)


class Run(typing.NamedTuple):
    """What a contender needed and found.

    Attributes:
        secs, cpu_secs, peak_mb: see _sides.Usage.
        mean_ap, rank1: its scores, fractions.
    """

    secs: float
    cpu_secs: float
    peak_mb: float
    mean_ap: float
    rank1: float


def measure(name, directory):
    """Run a contender; return its Run."""
    if name == 'ours':
        files = {
            f'{side}_{kind}': f'{directory}/{side}.{suffix}'
            for side in ('query', 'gallery')
            for kind, suffix in (('dataset', 'csv'), ('embeddings', 'h5'))
        }
        command = _sides.script('evaluate.py', excluder='market1501', **files)
    else:
        command = [sys.executable, '-m', 'bench.evaluate_speed']
        command += _sides.to_words({'contender': name, 'directory': directory})
    usage = _sides.run(command)
    if name == 'ours':
        percents = re.findall(r'([\d.]+)%', usage.output)
        mean_ap, rank1 = (float(percent) / 100 for percent in percents[:2])
    else:
        mean_ap, rank1 = json.loads(usage.output)
    return Run(usage.secs, usage.cpu_secs, usage.peak_mb, mean_ap, rank1)


def print_table(runs, num_queries, num_gallery):
    """Print a line per contender, and compare the scores.

    Args:
        runs: {contender: list of Run}.
        num_queries, num_gallery: Q and G.
    """
    print(f'\n{num_queries} queries x {num_gallery} gallery images x 128 dimensions')
    print('           wall s (range)         processor s      peak MB      mAP  rank-1')
    ours = median_of(runs['ours'])
    for name, rows in runs.items():
        walls = [row.secs for row in rows]
        median = median_of(rows)
        wall, cpu, peak = (
            f'({theirs / our:4.1f}x)'
            for theirs, our in zip(median[:3], ours[:3], strict=True)
        )
        print(
            f'{name:8} {median.secs:6.2f} {wall} ({min(walls):.2f}-{max(walls):.2f})'
            f'  {median.cpu_secs:6.2f} {cpu}  {median.peak_mb:6.0f} {peak}'
            f'  {median.mean_ap:.2%}  {median.rank1:.2%}'
        )
        if not np.allclose(median[3:], ours[3:], atol=1e-4):
            sys.exit(f'{name} disagrees with ours')


def median_of(rows):
    """Return a Run of the medians of some."""
    return Run(*(statistics.median(column) for column in zip(*rows, strict=True)))


def main():
    args = build_parser().parse_args()
    if args.contender:
        score = {'sklearn': score_by_sklearn, 'argsort': score_by_argsort}
        print(json.dumps(score[args.contender](*read_files(args.directory))))
        return
    for num_queries, num_gallery in SIZES:
        with tempfile.TemporaryDirectory() as directory:
            write_files(pathlib.Path(directory), num_queries, num_gallery)
            runs = {name: [] for name in CONTENDERS}
            for _ in range(args.repeats):
                for name in CONTENDERS:
                    runs[name].append(measure(name, directory))
        print_table(runs, num_queries, num_gallery)


if __name__ == '__main__':
    main()
