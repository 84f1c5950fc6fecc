#!/usr/bin/env python3
"""How fast is a training iteration? train.py against PyTorch's step, in turn.

    python bench/train.py --torch_python ~/torchenv/bin/python

Our side is train.py itself: reading and augmenting drawn people, step, metrics, log
and TensorBoard. PyTorch's (the same net, batch size, loss and optimizer, channels
last) gets one batch in memory. Each is a process of its own that sleeps while the
other measures. Prints seconds per iteration and images per second (median of the runs
and their range), peak memory, and the share of the fastest matrix product that either
library reached on this machine at the same time, in the same precision.
"""

import argparse
import os
import pathlib
import queue
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import _sides

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
# train.py's word for an iteration that is done.
ITERATION = re.compile(r'iter: *\d+,')


class OurSide:
    """train.py, asleep except while it is measured; its interface is _sides.Side's.

    Args:
        directory: with the drawn data; the run's results go there too.
        size: (height, width) of the net's input, pixels.
        precision: 'float32' or 'bfloat16'.
        flags: more flags for train.py.
    """

    def __init__(self, directory, size, precision, batch_p, batch_k, flags=()):
        height, width = size
        self.process = subprocess.Popen(
            [
                *(sys.executable, ROOT / 'train.py', '--flip_augment'),
                *('--experiment_root', f'{directory}/{height}_{precision}'),
                *('--train_set', f'{directory}/market1501_train.csv'),
                *('--image_root', f'{directory}/data', '--crop_augment'),
                *('--batch_p', str(batch_p), '--batch_k', str(batch_k)),
                *('--net_input_height', str(height), '--net_input_width', str(width)),
                *('--pre_crop_height', str(height * 9 // 8)),
                *('--pre_crop_width', str(width * 9 // 8)),
                *('--precision', precision, '--checkpoint_frequency', '0'),
                *('--decay_start_iteration', '-1', '--train_iterations', '1000000'),
                *flags,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ends = queue.Queue()  # Of iterations, seconds; None when it has died.
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        """Note when each iteration ends."""
        for line in self.process.stderr:
            if ITERATION.match(line):
                self.ends.put(time.perf_counter())
        self.ends.put(None)

    def next_end(self):
        """Return when the next iteration ended, seconds."""
        end = self.ends.get()
        if end is None:
            raise SystemExit(f'train.py ended with status {self.process.wait()}')
        return end

    def measure(self, iterations):
        """Return {'secs_per_iter', 'peak_mb'} of some iterations."""
        os.kill(self.process.pid, signal.SIGCONT)
        # The one that it slept in, and the one whose images it had read before.
        for _ in range(2):
            started = self.next_end()
        for _ in range(iterations):
            ended = self.next_end()
        os.kill(self.process.pid, signal.SIGSTOP)
        return {
            'secs_per_iter': (ended - started) / iterations,
            'peak_mb': _sides.peak_memory(self.process.pid),
        }

    def close(self):
        """End the process."""
        self.process.kill()
        self.process.wait()


class Yardstick:
    """The larger matrix-product rate of the two libraries, as a side.

    Args:
        torch_python: interpreter that has PyTorch.
        precision: 'float32' or 'bfloat16'.
    """

    def __init__(self, torch_python, precision):
        self.precision = precision
        self.sides = [
            _sides.Side([python, BENCH / '_product.py', library])
            for python, library in (
                (sys.executable, 'tensorflow'),
                (torch_python, 'torch'),
            )
        ]

    def measure(self, iterations):
        """Return {'rate'}, floating point operations per second."""
        del iterations
        answers = [side.measure(precision=self.precision) for side in self.sides]
        return {'rate': max(answer['rate'] for answer in answers)}

    def close(self):
        """End the processes."""
        for side in self.sides:
            side.close()


def build_parser():
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--torch_python',
        required=True,
        help='Python of an environment with bench/requirements.txt.',
    )
    parser.add_argument('--runs', type=int, default=5, help='Of each side.')
    parser.add_argument('--iterations', type=int, default=4, help='Of each run.')
    parser.add_argument('--batch_p', type=int, default=18)
    parser.add_argument('--batch_k', type=int, default=4)
    parser.add_argument(
        '--sizes',
        nargs='+',
        default=['128x64', '256x128'],
        help='HEIGHTxWIDTH, pixels.',
    )
    parser.add_argument(
        '--precisions',
        nargs='+',
        default=['float32', 'bfloat16'],
        choices=('float32', 'bfloat16'),
    )
    parser.add_argument(
        '--train_flags',
        nargs=argparse.REMAINDER,
        default=[],
        help='For train.py; last.',
    )
    return parser


def compare(args, directory, size, precision):
    """Measure both sides in one setting and print what came out."""
    height, width = size
    sides = {
        'ours': OurSide(
            directory, size, precision, args.batch_p, args.batch_k, args.train_flags
        ),
        'PyTorch': _sides.Side(
            [
                *(args.torch_python, BENCH / '_torch_train.py'),
                *('--batch_p', args.batch_p, '--batch_k', args.batch_k),
                *('--height', height, '--width', width, '--precision', precision),
            ]
        ),
        'product': Yardstick(args.torch_python, precision),
    }
    try:
        results = _sides.alternate(
            sides, args.runs, {'train': {'iterations': args.iterations}}
        )
    finally:
        for side in sides.values():
            side.close()
    report(results, size, precision, args.batch_p * args.batch_k)


def report(results, size, precision, batch_size):
    """Print the results of _sides.alternate, a line a side."""
    # Forward, and twice as much for the gradients.
    num_operations = 3 * batch_size * _sides.count_operations(size)
    rates = [answer['rate'] for answer in results['train', 'product']]
    rate = statistics.median(rates)
    print(
        f'{size[0]}x{size[1]} {precision}: {num_operations / 1e12:.3f} TFLOP an '
        f'iteration; matrix product {_sides.spread(rates, 1e-9, 0)} GFLOP/s'
    )
    medians = {}
    for name in ('ours', 'PyTorch'):
        answers = results['train', name]
        secs = [answer['secs_per_iter'] for answer in answers]
        medians[name] = statistics.median(secs)
        peak = max(answer['peak_mb'] for answer in answers)
        print(
            f'{name:>9}: {_sides.spread(secs, digits=3)} s/it, '
            f'{batch_size / medians[name]:.1f} images/s, peak {peak:.0f} MB, '
            f'{num_operations / medians[name] / rate:.0%} of the matrix product'
        )
    # Neighbours in time, so that what else the machine does falls on both.
    pairs = zip(results['train', 'PyTorch'], results['train', 'ours'], strict=True)
    ratios = [theirs['secs_per_iter'] / ours['secs_per_iter'] for theirs, ours in pairs]
    print(f"    ours/PyTorch's rate: {_sides.spread(ratios)}", flush=True)


def main():
    args = build_parser().parse_args()
    sizes = [tuple(map(int, size.split('x'))) for size in args.sizes]
    with tempfile.TemporaryDirectory() as directory:
        _sides.draw_people(directory)
        for size in sizes:
            for precision in args.precisions:
                compare(args, directory, size, precision)


if __name__ == '__main__':
    main()
