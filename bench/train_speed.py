"""How fast is a training iteration? train.py against PyTorch's step, in turn.

    python -m bench.train_speed --torch_python ~/torchenv/bin/python

Our side is train.py itself: reading and augmenting drawn people, step, metrics, log
and TensorBoard. PyTorch's (the same net, batch size, loss and optimizer, channels
last) gets one batch in memory. Each is a process of its own that sleeps while the
other measures. Prints seconds per iteration and images per second (median of the runs
and their range), peak memory, and the share of the fastest matrix product that either
library reached on this machine at the same time, in the same precision.
"""

import argparse
import itertools
import os
import queue
import re
import signal
import statistics
import subprocess
import tempfile
import threading
import time

import common
from bench import _sides, _yardsticks

TRAINING_FLAGS = {
    'flip_augment': True,
    'crop_augment': True,
    'checkpoint_frequency': 0,
    'decay_start_iteration': -1,
    'train_iterations': 1000000,  # It is killed before.
}
# train.py's word for an iteration that is done.
ITERATION = re.compile(r'iter: *\d+,')


class OurSide:
    """train.py, asleep except while it is measured; its interface is _sides.Side's.

    Args:
        size: (height, width) of the net's input, pixels.
        more_words: of its command line, list of str.
        **flags: of train.py, beside TRAINING_FLAGS and the sizes.
    """

    def __init__(self, size, more_words, **flags):
        height, width = size
        command = _sides.script(
            'train.py',
            net_input_height=height,
            net_input_width=width,
            pre_crop_height=height * 9 // 8,
            pre_crop_width=width * 9 // 8,
            **TRAINING_FLAGS,
            **flags,
        )
        self.process = subprocess.Popen(
            command + more_words, stderr=subprocess.PIPE, text=True
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
            _sides.Side('_product', library='tensorflow'),
            _sides.Side('_product', torch_python, library='torch'),
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
    parser = common.new_parser(__doc__)
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


def start_sides(size, same, training, torch_python, more_words):
    """Return the sides of a comparison, {name: Side}.

    Args:
        size: (height, width) of the net's input, pixels.
        same: flags of both sides, a dict: batch_p, batch_k and precision.
        training: flags of train.py alone, a dict: its files.
        torch_python: interpreter that has PyTorch.
        more_words: of train.py's command line, list of str.
    """
    height, width = size
    return {
        'ours': OurSide(size, more_words, **training, **same),
        'PyTorch': _sides.Side(
            '_torch_train', torch_python, height=height, width=width, **same
        ),
        'product': Yardstick(torch_python, same['precision']),
    }


def report(results, size, precision, batch_size):
    """Print the results of _sides.alternate, a line a side.

    Args:
        results: of start_sides.
        size: (height, width) of the net's input, pixels.
        precision: 'float32' or 'bfloat16'.
        batch_size: B.
    """
    # Forward, and twice as much for the gradients.
    num_operations = 3 * batch_size * _yardsticks.count_operations(size)
    rates = [answer['rate'] for answer in results['product']]
    rate = statistics.median(rates)
    print(
        f'{size[0]}x{size[1]} {precision}: {num_operations / 1e12:.3f} TFLOP an '
        f'iteration; matrix product {_yardsticks.spread(rates, 1e-9, 0)} GFLOP/s'
    )
    for name in ('ours', 'PyTorch'):
        secs = [answer['secs_per_iter'] for answer in results[name]]
        median = statistics.median(secs)
        peak = max(answer['peak_mb'] for answer in results[name])
        print(
            f'{name:>9}: {_yardsticks.spread(secs, digits=3)} s/it, '
            f'{batch_size / median:.1f} images/s, peak {peak:.0f} MB, '
            f'{num_operations / median / rate:.0%} of the matrix product'
        )
    # Neighbours in time, so that what else the machine does falls on both.
    pairs = zip(results['PyTorch'], results['ours'], strict=True)
    ratios = [theirs['secs_per_iter'] / ours['secs_per_iter'] for theirs, ours in pairs]
    print(f"    ours/PyTorch's rate: {_yardsticks.spread(ratios)}", flush=True)


def main():
    args = build_parser().parse_args()
    same = {'batch_p': args.batch_p, 'batch_k': args.batch_k}
    with tempfile.TemporaryDirectory() as directory:
        data = _yardsticks.draw_people(directory)
        for text, precision in itertools.product(args.sizes, args.precisions):
            size = tuple(map(int, text.split('x')))
            sides = start_sides(
                size,
                same | {'precision': precision},
                data | {'experiment_root': f'{directory}/{text}_{precision}'},
                args.torch_python,
                args.train_flags,
            )
            with _sides.closing(sides):
                tasks = {key: {'iterations': args.iterations} for key in sides}
                results = _sides.alternate(sides, args.runs, tasks)
            report(results, size, precision, args.batch_p * args.batch_k)


if __name__ == '__main__':
    main()
