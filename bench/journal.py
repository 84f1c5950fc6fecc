#!/usr/bin/env python3
"""What do the log line, TensorBoard's scalars and its histograms cost an iteration?

    python bench/journal.py --batch_size 72 --embedding_dim 128

Prints the median milliseconds, and the middle 80 %, of reporting one iteration: with
scalars alone and with histograms too; and what the default --histogram_frequency makes
of them on average.
"""

import argparse
import logging
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import common  # noqa: E402 (after the path)

common.start_tensorflow()

import tensorflow as tf  # noqa: E402

import loss  # noqa: E402
import train  # noqa: E402
from training import journal  # noqa: E402


def build_parser():
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--batch_size', type=int, default=72, help='B.')
    parser.add_argument('--embedding_dim', type=int, default=128, help='D.')
    parser.add_argument('--repeats', type=int, default=200, help='Iterations reported.')
    return parser


def make_outcome(pids, embedding_dim):
    """Return what a training step would return, for random embeddings."""
    rng = np.random.default_rng(0)
    embs = tf.constant(rng.normal(size=(len(pids), embedding_dim)), tf.float32)
    dists = loss.cdist(embs, embs, 'euclidean')
    top1, precision = loss.batch_scores(dists, pids, k=3)
    losses = loss.batch_hard(dists, pids, 'soft')
    return {
        'losses': losses,
        'embs': embs,
        'dists': dists,
        'top1': top1,
        'precision': precision,
    }


def measure(outcome, pids, histogram_frequency, repeats):
    """Return the milliseconds of every Journal.write, list [repeats]."""
    logger = logging.getLogger('bench')
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    logger.setLevel(logging.INFO)
    rows, times = np.arange(len(pids)), []
    with (
        tempfile.TemporaryDirectory() as directory,
        journal.Journal(
            logger, directory, 0, repeats, 3, histogram_frequency
        ) as written,
    ):
        for step in range(1, repeats + 1):
            start = time.perf_counter()
            written.write(step, rows, pids, 3e-4, outcome, secs_input=0.0)
            times.append(1000 * (time.perf_counter() - start))
    return times[5:]  # The first few build what TensorFlow builds once.


def describe(name, times):
    """Return a line about the milliseconds of one kind of iteration."""
    low, high = np.quantile(times, [0.1, 0.9])
    return f'{name}: {statistics.median(times):.2f} ms ({low:.2f} to {high:.2f})'


def main():
    args = build_parser().parse_args()
    pids = np.arange(args.batch_size) // 4
    outcome = make_outcome(pids, args.embedding_dim)
    scalars = measure(outcome, pids, 0, args.repeats)
    histograms = measure(outcome, pids, 1, args.repeats)
    print(describe('line and scalars', scalars))
    print(describe('with histograms', histograms))
    every = train.build_parser().get_default('histogram_frequency')
    extra = statistics.median(histograms) - statistics.median(scalars)
    mean = statistics.median(scalars) + extra / every
    print(f'mean with histograms every {every} iterations: {mean:.2f} ms')


if __name__ == '__main__':
    main()
