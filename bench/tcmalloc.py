#!/usr/bin/env python3
"""Does tcmalloc still make training faster? Ours with and without it, in turn.

    python bench/tcmalloc.py /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4

Trains a ResNet-50 on drawn people, each run in a process of its own, alternating.
Prints seconds per iteration (median of the runs, and their range), peak memory, and
the ratio of the medians.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import _sides

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAINING_FLAGS = (
    *('--batch_p', '18', '--batch_k', '4', '--flip_augment', '--crop_augment'),
    *('--net_input_height', '128', '--net_input_width', '64'),
    *('--pre_crop_height', '144', '--pre_crop_width', '72'),
    *('--checkpoint_frequency', '0', '--seed', '1'),
)


def build_parser():
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('library', help='The shared library to preload.')
    parser.add_argument('--runs', type=int, default=3, help='Runs of each side.')
    parser.add_argument('--iterations', type=int, default=40, help='Of each run.')
    return parser


def measure(directory, name, iterations, library):
    """Return (seconds per iteration, peak memory in MB) of a new training run."""
    preload = {} if library is None else {'LD_PRELOAD': library}
    experiment_root = f'{directory}/{name}'
    process = subprocess.Popen(
        [
            *(sys.executable, ROOT / 'train.py', *TRAINING_FLAGS),
            *('--experiment_root', experiment_root),
            *('--train_set', f'{directory}/market1501_train.csv'),
            *('--image_root', f'{directory}/data'),
            *('--train_iterations', str(iterations), '--decay_start_iteration', '-1'),
        ],
        env=os.environ | preload,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f'training failed with status {status}')
    log = pathlib.Path(experiment_root, 'train.log').read_text(encoding='utf-8')
    # The last line's running mean; it leaves out the first iteration.
    return float(re.findall(r'\(([\d.]+)s/it\)', log)[-1]), usage.ru_maxrss / 1000


def describe(side, results):
    """Return a line about one side's [(seconds per iteration, MB)]."""
    secs = [result[0] for result in results]
    memory = max(result[1] for result in results)
    return (
        f'{side:>9}: {statistics.median(secs):.3f} s/it '
        f'({min(secs):.3f} to {max(secs):.3f}), peak {memory:.0f} MB'
    )


def main():
    args = build_parser().parse_args()
    sides = {'malloc': None, 'tcmalloc': args.library}
    results = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as directory:
        _sides.draw_people(directory)
        for run in range(args.runs):
            for side, library in sides.items():
                outcome = measure(directory, f'{side}{run}', args.iterations, library)
                results[side].append(outcome)
    for side, outcomes in results.items():
        print(describe(side, outcomes))
    medians = [statistics.median(o[0] for o in results[side]) for side in sides]
    print(f'    ratio: {medians[0] / medians[1]:.2f} times as fast with tcmalloc')


if __name__ == '__main__':
    main()
