#!/usr/bin/env python3
"""How fast are embeddings? embed.py's pass over a data set against PyTorch's, in turn.

    python bench/embed.py --torch_python ~/torchenv/bin/python

ResNet-50 with fc1024 and random weights. Timed on either side is all from image files
to a file of embeddings: reading, resizing, crops, network, writing; not the start-up.
Ours is what embed.py runs (TensorFlow, batch norm folded). PyTorch's reads with cv2 in
threads ahead of the network, which runs channels-last in inference mode.
bench/requirements.txt says how its environment is made. Each is a process of its own,
new for each precision and number of variants, that sleeps while the other measures.

Prints, for one variant of an image and for ten, images/s (median of the runs and their
range), processor time, peak memory, the share of the fastest matrix product that either
library reached in the same run and precision, and the ratios.
"""

import argparse
import collections
import concurrent.futures
import functools
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
import time

BENCH = pathlib.Path(__file__).resolve().parent
# The root first: in bench/, this file would hide the command of its name.
sys.path[:1] = [str(BENCH.parent), str(BENCH)]

import _sides  # noqa: E402
import numpy as np  # noqa: E402

EMBEDDING_DIM = 128

# Height and width of the images that ten crops are cut from, relative to the crops'.
PRE_CROP = 9 / 8

# Images that the cv2 loader reads ahead, in batches.
BATCHES_AHEAD = 2


def build_parser():
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--torch_python', help='Interpreter that has PyTorch.')
    parser.add_argument('--runs', type=int, default=5, help='Of each side.')
    parser.add_argument('--height', type=int, default=256, help='Of the net input.')
    parser.add_argument('--width', type=int, default=128, help='Of the net input.')
    parser.add_argument(
        '--precisions', nargs='+', default=['float32', 'bfloat16'], help='To compare.'
    )
    parser.add_argument(
        '--images', type=int, default=256, help='Drawn if no --dataset.'
    )
    parser.add_argument('--dataset', help='CSV of images. Default: drawn ones.')
    parser.add_argument('--image_root', help='What its FIDs are relative to.')
    parser.add_argument('--batch_size', type=int, default=256, help="Ours; embed.py's.")
    parser.add_argument('--torch_batch_size', type=int, default=64, help="PyTorch's.")
    parser.add_argument('--loading_threads', type=int, default=8, help='Of both.')
    parser.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
    return parser


def draw_images(directory, num_images):
    """Write JPEGs of Market-1501's size; return their names."""
    import cv2

    rng = np.random.default_rng(0)
    names = []
    for i in range(num_images):
        pixels = cv2.resize(rng.integers(0, 256, (8, 4, 3), np.uint8), (64, 128))
        names.append(f'{directory}/{i}.jpg')
        cv2.imwrite(names[-1], pixels)
    return names


def read_names(dataset, image_root):
    """Return the image files of a CSV, list of str."""
    import common

    _, fids = common.load_dataset(dataset, image_root)
    return [os.path.join(image_root, fid) for fid in fids]


# --- ours ------------------------------------------------------------------------


def serve_ours():
    """Answer tasks with TensorFlow."""
    import common

    common.start_tensorflow()

    import tensorflow as tf

    import aggregators
    import batches
    import embedder
    import embedding_files
    import images
    import layers
    import model

    @functools.cache
    def compiled(precision, is_tenfold, net_size):
        network = model.build_model('resnet_v1_50', 'fc1024', EMBEDDING_DIM, precision)
        for variable in network.variables:
            # A mean of zero would leave biases of zero, which TensorFlow leaves out.
            if variable.path.endswith('moving_mean'):
                variable.assign(tf.random.normal(variable.shape, stddev=0.1))
        layers.fold(network)
        variants = variants_of(is_tenfold)
        size = image_size(net_size, is_tenfold)
        return embedder.make_embed_batch(network, variants, net_size, size)

    def variants_of(is_tenfold):
        return images.augmentation_plan(is_tenfold, 'five' if is_tenfold else None)

    def measure(
        names, filename, net_size, precision, is_tenfold, batch_size, loading_threads
    ):
        net_size = tuple(net_size)
        embed_batch = compiled(precision, is_tenfold, net_size)
        start, cpu_start = time.perf_counter(), time.process_time()
        size = image_size(net_size, is_tenfold)
        dataset = batches.image_batches(names, size, batch_size, loading_threads)
        embs = embedder.embed(
            embed_batch, embedder.read_batches(dataset, names, batch_size, True)
        )
        aggregator = aggregators.mean if is_tenfold else None
        variants = variants_of(is_tenfold)
        embedding_files.write(
            filename, embs, names, variants, EMBEDDING_DIM, aggregator, {}
        )
        secs = time.perf_counter() - start
        return {
            'secs': secs,
            'cpu_secs': time.process_time() - cpu_start,
            'product_rate': _sides.tensorflow_product_rate(precision),
        }

    _sides.serve(measure)


def image_size(net_size, is_tenfold):
    """Return (height, width) that images are resized to, pixels."""
    if not is_tenfold:
        return net_size
    return tuple(int(side * PRE_CROP) for side in net_size)


# --- PyTorch's -------------------------------------------------------------------


def serve_torch():
    """Answer tasks with PyTorch."""
    import cv2
    import torch
    from _torch_resnet import ResNet50

    cv2.setNumThreads(1)  # The loader has threads of its own.

    @functools.cache
    def build(precision):
        net = ResNet50(EMBEDDING_DIM).eval()
        return net.to(getattr(torch, precision), memory_format=torch.channels_last)

    def read(name, size):
        image = cv2.cvtColor(cv2.imread(name), cv2.COLOR_BGR2RGB)
        return cv2.resize(image, (size[1], size[0]))

    def read_batches(names, size, batch_size, loading_threads):
        upcoming = collections.deque()
        num_ahead = BATCHES_AHEAD * batch_size
        with concurrent.futures.ThreadPoolExecutor(loading_threads) as pool:
            remaining = iter(names)
            for _ in range(0, len(names), batch_size):
                wanted = num_ahead + batch_size - len(upcoming)
                for name in itertools.islice(remaining, wanted):
                    upcoming.append(pool.submit(read, name, size))
                num = min(batch_size, len(upcoming))
                yield np.stack([upcoming.popleft().result() for _ in range(num)])

    def make_variants(pixels, net_size):
        """Yield the ten crops of [B, C, H, W], as embed.py makes them."""
        height, width = net_size
        free_y, free_x = pixels.shape[2] - height, pixels.shape[3] - width
        corners = [(0, 0), (0, free_x), (free_y, 0), (free_y, free_x)]
        for side in (pixels, pixels.flip(3)):
            for y, x in [(free_y // 2, free_x // 2), *corners]:
                crop = side[:, :, y : y + height, x : x + width]
                yield crop.contiguous(memory_format=torch.channels_last)

    def measure(
        names, filename, net_size, precision, is_tenfold, batch_size, loading_threads
    ):
        net = build(precision)
        start, cpu_start = time.perf_counter(), time.process_time()
        size = image_size(net_size, is_tenfold)
        embs = []
        with torch.inference_mode():
            for batch in read_batches(names, size, batch_size, loading_threads):
                # [B, H, W, C] in memory, hence channels-last already.
                pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)
                pixels = pixels.to(getattr(torch, precision))
                variants = make_variants(pixels, net_size) if is_tenfold else [pixels]
                embs.append(np.stack([net(v).float().numpy() for v in variants]))
        embs = np.concatenate(embs, axis=1)  # [A, N, D]
        np.savez(filename, emb_aug=embs, emb=embs.mean(axis=0))
        secs = time.perf_counter() - start
        return {
            'secs': secs,
            'cpu_secs': time.process_time() - cpu_start,
            'product_rate': _sides.torch_product_rate(precision),
        }

    _sides.serve(measure)


SIDES = {'ours': serve_ours, 'PyTorch': serve_torch}


# --- the comparison --------------------------------------------------------------


def compare(pythons, num_runs, tasks):
    """Let the sides measure every task in turn.

    Args:
        pythons: {side: interpreter}.
        num_runs: measurements of each side.
        tasks: {(precision, is_tenfold): {side: dict of a task}}.

    Returns:
        {(precision, is_tenfold, side): list [num_runs] of answers}; what comes before,
        a warm-up on either side, is not in it.
    """
    results = {}
    for key, task_of_side in tasks.items():
        # New processes, so that the peak memory is that of this task.
        sides = {
            name: _sides.Side([python, __file__, '--side', name])
            for name, python in pythons.items()
        }
        for run in range(-1, num_runs):
            for name, side in sides.items():
                answer = side.measure(**task_of_side[name])
                if run >= 0:  # The first warms up.
                    results.setdefault((*key, name), []).append(answer)
        for side in sides.values():
            side.close()
        for run in range(num_runs):
            answers = [results[*key, name][run] for name in sides]
            fastest = max(answer['product_rate'] for answer in answers)
            for answer in answers:
                answer['fastest_product_rate'] = fastest
    return results


def report(results, num_images, operations):
    """Print what was measured, and the ratios.

    Args:
        results: {(precision, is_tenfold, side): list of answers}.
        num_images: of each pass.
        operations: floating point operations of the net for one image.
    """
    rates = {}
    for (precision, is_tenfold, side), answers in results.items():
        num_variants = 10 if is_tenfold else 1
        images_per_sec = [num_images / a['secs'] for a in answers]
        cpu_ms = [1e3 * a['cpu_secs'] / num_images for a in answers]
        products = [a['fastest_product_rate'] for a in answers]
        share = statistics.median(
            rate * num_variants * operations / product
            for rate, product in zip(images_per_sec, products, strict=True)
        )
        rates[precision, is_tenfold, side] = statistics.median(images_per_sec)
        print(
            f'{precision:8} x{num_variants:<2} {side:7} '
            f'{_sides.spread(images_per_sec)} images/s, '
            f'{_sides.spread(cpu_ms)} ms of processor time an image, '
            f'{share:.0%} of {_sides.spread(products, 1e-9, 0)} GFLOP/s, '
            f'peak {max(a["peak_mb"] for a in answers):.0f} MB'
        )
    for precision, is_tenfold, side in results:
        rate = rates[precision, is_tenfold, side]
        others = (precision, is_tenfold, 'PyTorch')
        if side == 'ours' and others in rates:
            variants = 'ten variants' if is_tenfold else 'one variant'
            print(f'{precision}, {variants}: {rate / rates[others]:.2f} times PyTorch')
        if is_tenfold and (precision, False, side) in rates:
            cost = rates[precision, False, side] / rate
            print(f'{precision}, {side}: ten variants cost {cost:.2f} times one')


def main():
    args = build_parser().parse_args()
    if args.side:
        SIDES[args.side]()
        return
    pythons = {'ours': sys.executable}
    if args.torch_python:
        pythons['PyTorch'] = args.torch_python
    batch_sizes = {'ours': args.batch_size, 'PyTorch': args.torch_batch_size}
    net_size = args.height, args.width
    with tempfile.TemporaryDirectory() as directory:
        if args.dataset:
            names = read_names(args.dataset, args.image_root or '.')
        else:
            names = draw_images(directory, args.images)
        task = {
            'names': names,
            'net_size': net_size,
            'loading_threads': args.loading_threads,
        }
        tasks = {
            (precision, is_tenfold): {
                side: task
                | {'filename': f'{directory}/{side}.npz', 'precision': precision}
                | {'is_tenfold': is_tenfold, 'batch_size': batch_sizes[side]}
                for side in pythons
            }
            for precision in args.precisions
            for is_tenfold in (False, True)
        }
        results = compare(pythons, args.runs, tasks)
    operations = _sides.count_operations(net_size, EMBEDDING_DIM)
    print(f'{len(names)} images, {operations / 1e9:.1f} GFLOP each and variant')
    report(results, len(names), operations)


if __name__ == '__main__':
    main()
