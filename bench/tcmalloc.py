"""Does tcmalloc still make training faster? Ours with and without it, in turn.

    python -m bench.tcmalloc /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4

Trains a ResNet-50 on drawn people, each run in a process of its own, alternating.
Prints seconds per iteration (median of the runs, and their range), peak memory, and
the ratio of the medians.
"""

import os
import pathlib
import re
import statistics
import tempfile

import common
from bench import _sides, _yardsticks

TRAINING_FLAGS = {
    'batch_p': 18,
    'batch_k': 4,
    'flip_augment': True,
    'crop_augment': True,
    'net_input_height': 128,
    'net_input_width': 64,
    'pre_crop_height': 144,
    'pre_crop_width': 72,
    'checkpoint_frequency': 0,
    'decay_start_iteration': -1,
    'seed': 1,
}


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('library', help='The shared library to preload.')
    parser.add_argument('--runs', type=int, default=3, help='Runs of each side.')
    parser.add_argument('--iterations', type=int, default=40, help='Of each run.')
    return parser


def measure(experiment_root, iterations, data, library):
    """Return (seconds per iteration, peak memory in MB) of a new training run.

    Args:
        experiment_root: of the run.
        iterations: of the run.
        data: of _yardsticks.draw_people.
        library: to preload, or None.
    """
    preload = {} if library is None else {'LD_PRELOAD': library}
    command = _sides.script(
        'train.py',
        experiment_root=experiment_root,
        train_iterations=iterations,
        **data,
        **TRAINING_FLAGS,
    )
    usage = _sides.run(command, os.environ | preload)
    log = pathlib.Path(experiment_root, 'train.log').read_text(encoding='utf-8')
    # The last line's running mean; it leaves out the first iteration.
    return float(re.findall(r'\(([\d.]+)s/it\)', log)[-1]), usage.peak_mb


def describe(side, results):
    """Return a line about one side's [(seconds per iteration, MB)]."""
    secs, peaks = zip(*results, strict=True)
    return (
        f'{side:>9}: {_yardsticks.spread(secs, digits=3)} s/it, '
        f'peak {max(peaks):.0f} MB'
    )


def main():
    args = build_parser().parse_args()
    sides = {'malloc': None, 'tcmalloc': args.library}
    results = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as directory:
        data = _yardsticks.draw_people(directory)
        for run in range(args.runs):
            for side, library in sides.items():
                root = f'{directory}/{side}{run}'
                results[side].append(measure(root, args.iterations, data, library))
    for side, outcomes in results.items():
        print(describe(side, outcomes))
    medians = [statistics.median(o[0] for o in results[side]) for side in sides]
    print(f'    ratio: {medians[0] / medians[1]:.2f} times as fast with tcmalloc')


if __name__ == '__main__':
    main()
