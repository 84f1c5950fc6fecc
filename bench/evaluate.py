#!/usr/bin/env python3
"""How long does the evaluation of Market-1501 take, beside two other ways?

    python bench/evaluate.py --repeats 3

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
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONTENDERS = ('ours', 'sklearn', 'argsort')


def build_parser():
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repeats', type=int, default=3, help='Runs of each.')
    parser.add_argument('--contender', choices=CONTENDERS[1:], help=argparse.SUPPRESS)
    parser.add_argument('--directory', type=pathlib.Path, help=argparse.SUPPRESS)
    return parser


def main():
    args = build_parser().parse_args()
    if args.contender:
        score = {'sklearn': score_by_sklearn, 'argsort': score_by_argsort}
        print(json.dumps(score[args.contender](*read_files(args.directory))))
        return
    for num_queries, num_gallery in ((842, 4933), (3368, 19732)):
        with tempfile.TemporaryDirectory() as directory:
            write_files(pathlib.Path(directory), num_queries, num_gallery)
            runs = {name: [] for name in CONTENDERS}
            for _ in range(args.repeats):
                for name in CONTENDERS:
                    runs[name].append(run(name, directory))
        print_table(runs, num_queries, num_gallery)


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


def read_files(directory):
    """Return (embs, pids, cids) of the queries, then of the gallery."""
    sides = []
    for side in ('query', 'gallery'):
        with h5py.File(directory / f'{side}.h5') as file:
            embs = file['emb'][:]
        rows = [row.split(',') for row in (directory / f'{side}.csv').open()]
        pids = np.array([int(pid) for pid, _ in rows])
        cids = np.array([int(re.search(r'_c(\d)', fid)[1]) for _, fid in rows])
        sides += [embs, pids, cids]
    return sides


def compute_matrix(query_embs, gallery_embs):
    """Return all Euclidean distances, float32 [Q, G]."""
    sq_dists = (query_embs**2).sum(1)[:, None] + (gallery_embs**2).sum(1)
    sq_dists -= 2 * query_embs @ gallery_embs.T
    return np.sqrt(np.maximum(sq_dists, 0))


def score_by_sklearn(
    query_embs, query_pids, query_cids, gallery_embs, gallery_pids, gallery_cids
):
    """Return (mAP, rank-1), query by query with scikit-learn."""
    from sklearn.metrics import average_precision_score

    dists = compute_matrix(query_embs, gallery_embs)
    is_match = gallery_pids == query_pids[:, None]
    is_ignored = is_match & (gallery_cids == query_cids[:, None])
    dists[is_ignored] = np.inf
    is_match &= ~is_ignored
    aps, num_hits = [], 0
    for row, matches in zip(dists, is_match, strict=True):
        kept = np.isfinite(row)
        if matches.any():
            aps.append(average_precision_score(matches[kept], -row[kept]))
            num_hits += int(matches[np.argsort(row)[0]])
    return float(np.mean(aps)), num_hits / len(dists)


def score_by_argsort(
    query_embs, query_pids, query_cids, gallery_embs, gallery_pids, gallery_cids
):
    """Return (mAP, rank-1) from the sorted matrix."""
    order = np.argsort(compute_matrix(query_embs, gallery_embs), axis=1)
    is_match = (gallery_pids[order] == query_pids[:, None]).astype(np.int32)
    aps, num_hits = [], 0
    for q, cols in enumerate(order):
        kept = (gallery_pids[cols] != query_pids[q]) | (
            gallery_cids[cols] != query_cids[q]
        )
        matches = is_match[q][kept]
        if matches.any():
            precisions = matches.cumsum() / np.arange(1, len(matches) + 1)
            aps.append((precisions * matches).sum() / matches.sum())
            num_hits += int(matches[0])
    return float(np.mean(aps)), num_hits / len(order)


def run(name, directory):
    """Run a contender; return (wall s, processor s, peak MB, mAP, rank-1)."""
    if name == 'ours':
        command = [ROOT / 'evaluate.py', '--excluder', 'market1501']
        for side in ('query', 'gallery'):
            command += [f'--{side}_dataset', f'{directory}/{side}.csv']
            command += [f'--{side}_embeddings', f'{directory}/{side}.h5']
    else:
        command = [__file__, '--contender', name, '--directory', directory]
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True
    ) as process:
        output = process.stdout.read()
        # Unlike Popen.wait, this tells what the process used.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f'{name} failed')
    wall = time.perf_counter() - start
    if name == 'ours':
        scores = [float(text) / 100 for text in re.findall(r'([\d.]+)%', output)[:2]]
    else:
        scores = json.loads(output)
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, *scores


def print_table(runs, num_queries, num_gallery):
    """Print a line per contender, and compare the scores."""
    print(f'\n{num_queries} queries x {num_gallery} gallery images x 128 dimensions')
    print('           wall s (range)         processor s      peak MB      mAP  rank-1')
    ours = [statistics.median(column) for column in zip(*runs['ours'], strict=True)]
    for name, rows in runs.items():
        walls = [row[0] for row in rows]
        median = [statistics.median(column) for column in zip(*rows, strict=True)]
        ratios = [f'({m / o:4.1f}x)' for m, o in zip(median[:3], ours, strict=False)]
        print(
            f'{name:8} {median[0]:6.2f} {ratios[0]} ({min(walls):.2f}-{max(walls):.2f})'
            f'  {median[1]:6.2f} {ratios[1]}  {median[2]:6.0f} {ratios[2]}'
            f'  {median[3]:.2%}  {median[4]:.2%}'
        )
        if not np.allclose(median[3:], ours[3:], atol=1e-4):
            sys.exit(f'{name} disagrees with ours')


if __name__ == '__main__':
    main()
