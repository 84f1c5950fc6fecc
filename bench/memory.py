"""Does a long training run need more and more memory?

    python -m bench.memory --iterations 2000

Trains a small net on drawn people, with flips, crops, histograms and a checkpoint
every 500 iterations, and prints the resident memory of train.py as it logs iterations
100, 500, 1000, ..., and the growth from the first of these to the last.
"""

import re
import subprocess
import tempfile

import common
from bench import _sides, _yardsticks

TRAINING_FLAGS = {
    'model_name': 'small_stripes',
    'head_name': 'direct',
    'net_input_height': 32,
    'net_input_width': 16,
    'pre_crop_height': 36,
    'pre_crop_width': 18,
    'flip_augment': True,
    'crop_augment': True,
    'batch_p': 4,
    'batch_k': 4,
    'histogram_frequency': 10,
    'checkpoint_frequency': 500,
    'decay_start_iteration': -1,
    'seed': 1,
}


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('--iterations', type=int, default=2000, help='Of the run.')
    return parser


def measure(directory, iterations):
    """Yield (iteration, resident memory in MB) of a training run on drawn people."""
    command = _sides.script(
        'train.py',
        experiment_root=f'{directory}/run',
        train_iterations=iterations,
        **_yardsticks.draw_people(directory),
        **TRAINING_FLAGS,
    )
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            found = re.match(r'iter: *(\d+),', line)
            # The last one is too late: the process may be gone.
            done = int(found[1]) if found else 0
            if done == 100 or (done and done % 500 == 0) or done == iterations - 1:
                resident = _sides.resident_memory(process.pid)
                if resident is not None:
                    yield done, resident
    if process.returncode:
        raise SystemExit(f'training failed with status {process.returncode}')


def main():
    args = build_parser().parse_args()
    points = []
    with tempfile.TemporaryDirectory() as directory:
        for done, memory in measure(directory, args.iterations):
            points.append((done, memory))
            print(f'iteration {done:6d}: {memory:.0f} MB', flush=True)
    (first, before), (last, after) = points[0], points[-1]
    print(f'growth from {first} to {last}: {after - before:.0f} MB')


if __name__ == '__main__':
    main()
