#!/usr/bin/env python3
"""How fast do JPEG files become augmented P x K batches? Ours against two others.

    python bench/pipeline.py --threads 1 2 4 8

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
import sys
import tempfile
import time

import _sides
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import common  # noqa: E402 (after the path)

# Of the drawn data set: Market-1501's training set has 12936 images of 751 PIDs.
NUM_PIDS, NUM_ROWS, NUM_FILES = 751, 12936, 200

# Batches that a side throws away first: they were prepared while others measured.
NUM_PREPARED = 3


def build_parser():
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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


def make_data(directory):
    """Draw images and write a CSV of many rows of them; return its name."""
    import cv2

    import demo_data

    demo_data.write_dataset(directory / 'drawn', num_train_pids=10, num_test_pids=2)
    drawn = sorted((directory / 'drawn').rglob('*.jpg'))
    fids = []
    for number in range(NUM_FILES):
        image = cv2.imread(str(drawn[number % len(drawn)]))
        fids.append(f'{number}.jpg')
        cv2.imwrite(str(directory / fids[-1]), image)
    filename = directory / 'train.csv'
    with open(filename, 'w', encoding='utf-8') as file:
        for row in range(NUM_ROWS):
            file.write(f'{row * NUM_PIDS // NUM_ROWS:04d},{fids[row % NUM_FILES]}\n')
    return str(filename)


def our_batches(args, pids, paths, threads, is_cached=False):
    """Return an iterator of batches of train.py's pipeline."""
    import batches
    from training import image_cache

    augmentation = batches.Augmentation(
        (args.height, args.width), pre_crop_size(args), flips=True, crops=True
    )
    sampler = batches.Sampler(pids, args.batch_p, args.batch_k, seed=0)
    cache = image_cache.ImageCache(paths, threads) if is_cached else None
    return (
        images
        for _, images in batches.training_batches(
            sampler, paths, augmentation, 0, 10**9, threads, cache
        )
    )


def cached_batches(args, pids, paths, threads):
    """Return an iterator of batches of train.py's pipeline with --cache."""
    return our_batches(args, pids, paths, threads, is_cached=True)


def cv2_batches(args, pids, paths, threads):
    """Yield batches of a thread pool that reads with cv2, one batch ahead."""
    import cv2

    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    _, rows_of_pid = common.group_rows(pids)
    height, width = pre_crop_size(args)

    def load(row, top, left, is_flipped):
        image = cv2.imread(paths[row])
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        image = cv2.resize(image, (width, height))
        if is_flipped:
            image = image[:, ::-1]
        return image[top : top + args.height, left : left + args.width]

    def submit(pool):
        chosen = rng.choice(len(rows_of_pid), args.batch_p, replace=False)
        rows = np.concatenate(
            [
                rng.choice(rows, args.batch_k, replace=len(rows) < args.batch_k)
                for rows in (rows_of_pid[i] for i in chosen)
            ]
        )
        tops = rng.integers(0, height - args.height + 1, len(rows))
        lefts = rng.integers(0, width - args.width + 1, len(rows))
        return [
            pool.submit(load, *each)
            for each in zip(rows, tops, lefts, rng.random(len(rows)) < 0.5, strict=True)
        ]

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        upcoming = submit(pool)
        while True:
            current, upcoming = upcoming, submit(pool)
            yield np.stack([image.result() for image in current]).astype(np.float32)


def naive_batches(args, pids, paths, threads):
    """Return an iterator of the tf.data pipeline that first comes to mind."""
    import tensorflow as tf

    all_pids, all_paths = tf.constant(pids), tf.constant(paths)
    names = np.unique(pids.astype(str))

    def draw_images(pid):
        rows = tf.boolean_mask(all_paths, tf.equal(all_pids, pid))
        copies = -(-args.batch_k // tf.size(rows))
        return tf.random.shuffle(tf.tile(rows, [copies]))[: args.batch_k]

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.image.resize(image, pre_crop_size(args))
        image = tf.image.random_flip_left_right(image)
        return tf.image.random_crop(image, (args.height, args.width, 3))

    dataset = tf.data.Dataset.from_tensor_slices(names).shuffle(len(names)).repeat()
    dataset = dataset.map(draw_images, num_parallel_calls=threads).unbatch()
    dataset = dataset.map(load, num_parallel_calls=threads)
    return iter(dataset.batch(args.batch_p * args.batch_k).prefetch(1))


SIDES = {
    'ours': our_batches,
    'ours, --cache': cached_batches,
    'cv2': cv2_batches,
    'naive tf.data': naive_batches,
}


def pre_crop_size(args):
    """Return (height, width) of images before they are cropped, pixels."""
    return args.height * 9 // 8, args.width * 9 // 8


def serve_side(args):
    """Be one side: answer how fast its batches come."""
    if args.side != 'cv2':
        common.start_tensorflow()
    pids, fids = common.load_dataset(args.dataset)
    paths = [f'{args.image_root}/{fid}' for fid in fids]
    iterators = {}

    def measure(threads):
        if threads not in iterators:
            iterators.clear()
            iterators[threads] = iter(SIDES[args.side](args, pids, paths, threads))
        for _ in range(NUM_PREPARED):
            next(iterators[threads])
        start = time.perf_counter()
        for _ in range(args.batches):
            images = next(iterators[threads])
        secs = time.perf_counter() - start
        assert images.shape[1:] == (args.height, args.width, 3)
        return {'rate': args.batches * len(images) / secs}

    _sides.serve(measure)


def compare(args):
    """Let all sides measure in turn and print what came out."""
    words = ['--dataset', args.dataset, '--image_root', args.image_root]
    for name in ('batch_p', 'batch_k', 'height', 'width', 'batches'):
        words += [f'--{name}', getattr(args, name)]
    sides = {
        name: _sides.Side([sys.executable, __file__, '--side', name, *words])
        for name in SIDES
    }
    try:
        tasks = {threads: {'threads': threads} for threads in args.threads}
        results = _sides.alternate(sides, args.runs, tasks)
    finally:
        for side in sides.values():
            side.close()
    for threads in args.threads:
        rates = {n: [a['rate'] for a in results[threads, n]] for n in sides}
        for name, values in rates.items():
            ratio = statistics.median(rates['ours']) / statistics.median(values)
            print(
                f'{threads} threads, {name}: {_sides.spread(values, digits=0)} images/s'
                + ('' if name == 'ours' else f', ours {ratio:.2f} times as fast')
            )
    for name in sides:
        peak = max(a['peak_mb'] for t in args.threads for a in results[t, name])
        print(f'{name}: peak memory {peak:.0f} MB')


def main():
    args = build_parser().parse_args()
    if args.side:
        serve_side(args)
        return
    with tempfile.TemporaryDirectory() as directory:
        if args.dataset is None:
            args.dataset = make_data(pathlib.Path(directory))
            args.image_root = directory
        compare(args)


if __name__ == '__main__':
    main()
