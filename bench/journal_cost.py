"""What do the log line, TensorBoard's scalars and its histograms cost an iteration?

    python -m bench.journal_cost --batch_size 72 --embedding_dim 128

Prints the median milliseconds, and the middle 80 %, of reporting one iteration: with
scalars alone and with histograms too; and what the default --histogram_frequency makes
of them on average.
"""

import logging
import statistics
import tempfile
import time

import numpy as np

import common
import train

# Imported at first use, after start_tensorflow.
tf = common.lazy_import('tensorflow')
loss = common.lazy_import('loss')
batches = common.lazy_import('batches')
journal = common.lazy_import('training.journal')
steps = common.lazy_import('training.step')


# Reports that are not counted: they build what TensorFlow builds once.
NUM_FIRST = 5


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
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
    lengths = tf.norm(embs, axis=1)
    return steps.Outcome(losses, embs, lengths, dists, top1, precision, loss_scale=None)


def open_journal(directory, repeats, histogram_frequency):
    """Return the Journal of a run of that many iterations, as train.py makes it."""
    logger = logging.getLogger('bench')
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    logger.setLevel(logging.INFO)
    reporters = [
        journal.Line(logger, k=3, last_step=repeats),
        journal.Scalars(k=3),
        journal.Histograms(histogram_frequency, last_step=repeats),
    ]
    return journal.Journal(logger, directory, range(repeats), reporters)


def report_iteration(written, step, pids, outcome):
    """Report an iteration of random embeddings, as train.py does."""
    batch = batches.Batch(np.arange(len(pids)), images=None)
    written.write(journal.Iteration(step, batch, pids, 3e-4, outcome, secs_input=0.0))


def measure(outcome, pids, histogram_frequency, repeats):
    """Return the milliseconds that each report took, list."""
    times = []
    with (
        tempfile.TemporaryDirectory() as directory,
        open_journal(directory, repeats, histogram_frequency) as written,
    ):
        for step in range(1, repeats + 1):
            start = time.perf_counter()
            report_iteration(written, step, pids, outcome)
            times.append(1000 * (time.perf_counter() - start))
    return times[NUM_FIRST:]


def describe(name, times):
    """Return a line about the milliseconds of one kind of iteration."""
    low, high = np.quantile(times, [0.1, 0.9])
    return f'{name}: {statistics.median(times):.2f} ms ({low:.2f} to {high:.2f})'


def main():
    args = build_parser().parse_args()
    common.start_tensorflow()
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
