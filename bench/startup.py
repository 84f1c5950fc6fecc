"""How long until the first iteration of a large data set, and how much memory?

    python -m bench.startup --rows 1000000 --pids 100000

Writes a CSV of that size and its images, a hundred small drawings under a million
names (hard links), a thousand PIDs a directory; that takes a minute. Then starts
train.py with a small net, several times. Prints the seconds until it logs the first
iteration, those that processors worked for it (other work does not change them much),
and its peak memory by then: median and range of the runs.
"""

import os
import pathlib
import subprocess
import tempfile
import time

import common
from bench import _sides
from bench._yardsticks import draw_jpegs, spread

NUM_DRAWINGS = 100
PIDS_PER_DIRECTORY = 1000
TRAINING_FLAGS = {
    'model_name': 'small_stripes',
    'head_name': 'direct',
    'net_input_height': 128,
    'net_input_width': 64,
    'batch_p': 18,
    'batch_k': 4,
    'train_iterations': 1,
}


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('--rows', type=int, default=10**6, help='Of the CSV.')
    parser.add_argument('--pids', type=int, default=10**5, help='Identities in it.')
    parser.add_argument('--runs', type=int, default=3, help='Starts of train.py.')
    return parser


def make_data(directory, num_rows, num_pids):
    """Write train.csv and the directory `images`."""
    drawings = draw_jpegs(directory, NUM_DRAWINGS)
    with open(directory / 'train.csv', 'w', encoding='utf-8') as file:
        for row in range(num_rows):
            pid = row * num_pids // num_rows
            fid = f'{pid // PIDS_PER_DIRECTORY}/{pid:07d}_{row}.jpg'
            filename = directory / 'images' / fid
            filename.parent.mkdir(parents=True, exist_ok=True)
            os.link(drawings[row % NUM_DRAWINGS], filename)
            file.write(f'{pid:07d},{fid}\n')


def measure(directory, name):
    """Return (seconds, processor seconds, peak MB) to the first iteration of a run."""
    start = time.perf_counter()
    command = _sides.script(
        'train.py',
        experiment_root=directory / name,
        train_set=directory / 'train.csv',
        image_root=directory / 'images',
        **TRAINING_FLAGS,
    )
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith('iter:'):
                secs = time.perf_counter() - start
                peak_mb = _sides.peak_memory(process.pid)
                return secs, processor_secs(process.pid), peak_mb
    raise SystemExit(f'training failed with status {process.returncode}')


def processor_secs(process):
    """Return the seconds that processors have worked for a process, by its number."""
    stat = pathlib.Path(f'/proc/{process}/stat').read_text()
    ticks = stat.rpartition(')')[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf('SC_CLK_TCK')


def main():
    args = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        make_data(directory, args.rows, args.pids)
        results = [measure(directory, f'run{i}') for i in range(args.runs)]
    secs, worked, peaks = zip(*results, strict=True)
    print(f'{args.rows} rows, {args.pids} PIDs: first iteration after {spread(secs)} s')
    print(f'processor time {spread(worked)} s')
    print(f'peak memory {spread(peaks, digits=0)} MB')


if __name__ == '__main__':
    main()
