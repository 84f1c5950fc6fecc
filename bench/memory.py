#!/usr/bin/env python3
"""Does a long training run need more and more memory?

    python bench/memory.py --iterations 2000

Trains a small net on drawn people, with flips, crops, histograms and a checkpoint
every 500 iterations, and prints the resident memory of train.py as it logs iterations
100, 500, 1000, ..., and the growth from the first of these to the last.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

import _sides

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAINING_FLAGS = (
    *('--model_name', 'small_stripes', '--head_name', 'direct'),
    *('--net_input_height', '32', '--net_input_width', '16'),
    *('--pre_crop_height', '36', '--pre_crop_width', '18'),
    *('--flip_augment', '--crop_augment', '--batch_p', '4', '--batch_k', '4'),
    *('--histogram_frequency', '10', '--checkpoint_frequency', '500'),
    *('--decay_start_iteration', '-1', '--seed', '1'),
)


def build_parser():
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--iterations', type=int, default=2000, help='Of the run.')
    return parser


def measure(directory, iterations):
    """Yield (iteration, resident memory in MB) of a training run."""
    process = subprocess.Popen(
        [
            *(sys.executable, ROOT / 'train.py', *TRAINING_FLAGS),
            *('--experiment_root', f'{directory}/run'),
            *('--train_set', f'{directory}/market1501_train.csv'),
            *('--image_root', f'{directory}/data'),
            *('--train_iterations', str(iterations)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    status = pathlib.Path(f'/proc/{process.pid}/status')
    with process:
        for line in process.stderr:
            found = re.match(r'iter: *(\d+),', line)
            # The last one is too late: the process may be gone.
            done = int(found[1]) if found else 0
            if done == 100 or (done and done % 500 == 0) or done == iterations - 1:
                resident = re.search(r'VmRSS:\s*(\d+)', status.read_text())
                if resident:
                    yield done, int(resident[1]) / 1000
    if process.returncode:
        raise SystemExit(f'training failed with status {process.returncode}')


def main():
    args = build_parser().parse_args()
    points = []
    with tempfile.TemporaryDirectory() as directory:
        _sides.draw_people(directory)
        for done, memory in measure(directory, args.iterations):
            points.append((done, memory))
            print(f'iteration {done:6d}: {memory:.0f} MB', flush=True)
    (first, before), (last, after) = points[0], points[-1]
    print(f'growth from {first} to {last}: {after - before:.0f} MB')


if __name__ == '__main__':
    main()
