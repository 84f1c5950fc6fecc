"""How fast do JPEG files become augmented P x K batches? Ours against two others.

    python -m bench.pipeline_speed --threads 1 2 4 8

Four sides, each a process of its own, measure in turn: ours; ours with --cache; a
loader of cv2 and NumPy in a thread pool; and a naive tf.data pipeline that compares the
PIDs of all rows for every PID it draws. All draw P PIDs and K images each, resize,
mirror and crop, and prepare the next batch meanwhile. Prints images per second (median
of the runs and their range), peak memory, and how many times as fast ours is.

Reads drawn people, 128x64, 200 files under as many PIDs and rows as Market-1501 has,
unless --dataset and --image_root name others.
"""

import argparse
import concurrent.futures
import pathlib
import statistics
import tempfile
import time
import typing

import cv2
import numpy as np

import common
import datasets
from bench import _sides, _yardsticks

# Imported at first use, after start_tensorflow, by the sides that need them.
tf = common.lazy_import('tensorflow')
batches = common.lazy_import('batches')
image_cache = common.lazy_import('training.image_cache')

# Of the drawn data set: Market-1501's training set has 12936 images of 751 PIDs.
NUM_PIDS, NUM_ROWS, NUM_FILES = 751, 12936, 200

# Batches that a side throws away first: they were prepared while others measured.
NUM_PREPARED = 3

# More batches than any run of this bench asks for.
NUM_STEPS = 10**9


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('--dataset', help='CSV of PID,FID rows.')
    parser.add_argument('--image_root', help='What its FIDs are relative to.')
    parser.add_argument('--batch_p', type=int, default=18)
    parser.add_argument('--batch_k', type=int, default=4)
    parser.add_argument('--height', type=int, default=256, help='Pixels.')
    parser.add_argument('--width', type=int, default=128, help='Pixels.')
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2, 4, 8])
    parser.add_argument('--runs', type=int, default=5, help='Of each side.')
    parser.add_argument('--batches', type=int, default=10, help='Of each run.')
    parser.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
    return parser


class Setting(typing.NamedTuple):
    """What every side makes.

    Attributes:
        paths: list [N] of str, the image files.
        pids: object array [N] of str.
        batch_p, batch_k: P and K.
        height, width: of the images, pixels.
    """

    paths: list
    pids: np.ndarray
    batch_p: int
    batch_k: int
    height: int
    width: int

    @property
    def pre_crop_size(self):
        """(height, width) of images before they are cropped, pixels."""
        return self.height * 9 // 8, self.width * 9 // 8


def make_data(directory):
    """Draw images and write a CSV of many rows of them; return its name."""
    images = _yardsticks.draw_people(directory)['image_root']
    drawn = sorted(pathlib.Path(images, 'bounding_box_train').glob('*.jpg'))
    fids = []
    for number, filename in enumerate(drawn[:NUM_FILES]):
        image = cv2.imread(str(filename))
        fids.append(f'{number}.jpg')
        cv2.imwrite(str(directory / fids[-1]), image)
    filename = directory / 'train.csv'
    with open(filename, 'w', encoding='utf-8') as file:
        for row in range(NUM_ROWS):
            file.write(f'{row * NUM_PIDS // NUM_ROWS:04d},{fids[row % NUM_FILES]}\n')
    return str(filename)


def our_batches(setting, threads, cache=None):
    """Yield batches of train.py's pipeline."""
    augmentation = batches.Augmentation(
        (setting.height, setting.width), setting.pre_crop_size, flips=True, crops=True
    )
    sampler = batches.Sampler(setting.pids, setting.batch_p, setting.batch_k, seed=0)
    for _, images in batches.TrainingBatches(
        sampler, setting.paths, augmentation, range(NUM_STEPS), threads, cache
    ):
        yield images


def cached_batches(setting, threads):
    """Yield batches of train.py's pipeline with --cache."""
    cache = image_cache.ImageCache(setting.paths, threads)
    yield from our_batches(setting, threads, cache)


def cv2_batches(setting, threads):
    """Yield batches of a thread pool that reads with cv2, one batch ahead."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    rows_of_pid = list(datasets.group_rows(setting.pids).values())
    height, width = setting.pre_crop_size
    batch_p, batch_k = setting.batch_p, setting.batch_k

    def load(row, top, left, is_flipped):
        image = cv2.imread(setting.paths[row])
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        image = cv2.resize(image, (width, height))
        if is_flipped:
            image = image[:, ::-1]
        return image[top : top + setting.height, left : left + setting.width]

    def submit(pool):
        chosen = rng.choice(len(rows_of_pid), batch_p, replace=False)
        rows = np.concatenate(
            [
                rng.choice(rows, batch_k, replace=len(rows) < batch_k)
                for rows in (rows_of_pid[i] for i in chosen)
            ]
        )
        tops = rng.integers(0, height - setting.height + 1, len(rows))
        lefts = rng.integers(0, width - setting.width + 1, len(rows))
        return [
            pool.submit(load, *each)
            for each in zip(rows, tops, lefts, rng.random(len(rows)) < 0.5, strict=True)
        ]

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        upcoming = submit(pool)
        while True:
            current, upcoming = upcoming, submit(pool)
            yield np.stack([image.result() for image in current]).astype(np.float32)


def naive_batches(setting, threads):
    """Return an iterator of the tf.data pipeline that first comes to mind."""
    all_pids, all_paths = tf.constant(setting.pids), tf.constant(setting.paths)
    names = np.unique(setting.pids.astype(str))

    def draw_images(pid):
        rows = tf.boolean_mask(all_paths, tf.equal(all_pids, pid))
        copies = -(-setting.batch_k // tf.size(rows))
        return tf.random.shuffle(tf.tile(rows, [copies]))[: setting.batch_k]

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.image.resize(image, setting.pre_crop_size)
        image = tf.image.random_flip_left_right(image)
        return tf.image.random_crop(image, (setting.height, setting.width, 3))

    dataset = tf.data.Dataset.from_tensor_slices(names).shuffle(len(names)).repeat()
    dataset = dataset.map(draw_images, num_parallel_calls=threads).unbatch()
    dataset = dataset.map(load, num_parallel_calls=threads)
    return iter(dataset.batch(setting.batch_p * setting.batch_k).prefetch(1))


def read_csv(dataset, image_root):
    """Return (image files, PIDs) of a CSV."""
    pids, fids, _ = datasets.read(dataset)
    return common.join_paths(image_root, fids), pids


SIDES = {
    'ours': our_batches,
    'ours, --cache': cached_batches,
    'cv2': cv2_batches,
    'naive tf.data': naive_batches,
}


def serve_side(name, setting, num_batches):
    """Be one side: answer how fast its batches come.

    Args:
        name: of the side.
        setting: a Setting.
        num_batches: of each measurement.
    """
    iterators = {}

    def measure(threads):
        if threads not in iterators:
            iterators.clear()
            iterators[threads] = SIDES[name](setting, threads)
        for _ in range(NUM_PREPARED):
            next(iterators[threads])
        start = time.perf_counter()
        for _ in range(num_batches):
            images = next(iterators[threads])
        secs = time.perf_counter() - start
        assert images.shape[1:] == (setting.height, setting.width, 3)
        return {'rate': num_batches * len(images) / secs}

    _sides.serve(measure)


def compare(thread_counts, num_runs, **flags):
    """Let all sides measure in turn.

    Args:
        thread_counts: of the loaders, to compare.
        num_runs: measurements of each side.
        **flags: of the sides.

    Returns:
        {threads: {side: list [num_runs] of answers}}.
    """
    sides = {name: _sides.Side('pipeline_speed', side=name, **flags) for name in SIDES}
    with _sides.closing(sides):
        return {
            threads: _sides.alternate(
                sides, num_runs, {key: {'threads': threads} for key in sides}
            )
            for threads in thread_counts
        }


def report(results):
    """Print what compare returns."""
    for threads, answers_of_side in results.items():
        rates = {n: [a['rate'] for a in each] for n, each in answers_of_side.items()}
        for name, values in rates.items():
            ratio = statistics.median(rates['ours']) / statistics.median(values)
            rate = f'{_yardsticks.spread(values, digits=0)} images/s'
            comparison = '' if name == 'ours' else f', ours {ratio:.2f} times as fast'
            print(f'{threads} threads, {name}: {rate}{comparison}')
    for name in SIDES:
        peak = max(a['peak_mb'] for each in results.values() for a in each[name])
        print(f'{name}: peak memory {peak:.0f} MB')


def main():
    args = build_parser().parse_args()
    sizes = {
        name: getattr(args, name) for name in ('batch_p', 'batch_k', 'height', 'width')
    }
    if args.side:
        if args.side != 'cv2':
            common.start_tensorflow()
        paths, pids = read_csv(args.dataset, args.image_root or '')
        serve_side(args.side, Setting(paths, pids, **sizes), args.batches)
        return
    with tempfile.TemporaryDirectory() as directory:
        if args.dataset is None:
            args.dataset = make_data(pathlib.Path(directory))
            args.image_root = directory
        results = compare(
            args.threads,
            args.runs,
            dataset=args.dataset,
            image_root=args.image_root,
            batches=args.batches,
            **sizes,
        )
    report(results)


if __name__ == '__main__':
    main()
