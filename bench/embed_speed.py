"""How fast are embeddings? embed.py's pass over a data set against PyTorch's, in turn.

    python -m bench.embed_speed --torch_python ~/torchenv/bin/python

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

import statistics
import sys
import tempfile

import common
import datasets
from bench import _sides, _yardsticks

EMBEDDING_DIM = 128

# Height and width of the images that ten crops are cut from, relative to the crops'.
PRE_CROP = 9 / 8

# Modules of this package.
SIDES = {'ours': '_our_embed', 'PyTorch': '_torch_embed'}


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
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
    return parser


def read_names(dataset, image_root):
    """Return the image files of a CSV, list of str."""
    fids = datasets.read(dataset).fids
    datasets.check_images_exist(dataset, fids, image_root)
    return datasets.join_paths(image_root, fids)


def make_tasks(names, directory, net_size, batch_sizes, loading_threads, precisions):
    """Return the _embed_task.Task of every comparison and side, as dicts.

    Args:
        names: list of str, the image files.
        directory: for the embeddings.
        net_size: (height, width) of the net's input, pixels.
        batch_sizes: {side: images per pass through the net}.
        loading_threads: images read at the same time.
        precisions: to compare.

    Returns:
        {(precision, is_tenfold): {side: task}}.
    """
    tasks = {}
    for precision in precisions:
        for is_tenfold in (False, True):
            scale = PRE_CROP if is_tenfold else 1
            tasks[precision, is_tenfold] = {
                side: {
                    'names': names,
                    'filename': f'{directory}/{side}.npz',
                    'net_size': net_size,
                    'image_size': [int(pixels * scale) for pixels in net_size],
                    'precision': precision,
                    'is_tenfold': is_tenfold,
                    'embedding_dim': EMBEDDING_DIM,
                    'batch_size': batch_size,
                    'loading_threads': loading_threads,
                }
                for side, batch_size in batch_sizes.items()
            }
    return tasks


def compare(pythons, num_runs, tasks):
    """Let the sides measure every task in turn.

    Args:
        pythons: {side: interpreter}.
        num_runs: measurements of each side.
        tasks: of make_tasks.

    Returns:
        {(precision, is_tenfold, side): list [num_runs] of answers}.
    """
    results = {}
    for key, task_of_side in tasks.items():
        # New processes, so that the peak memory is that of this task.
        sides = {
            name: _sides.Side(SIDES[name], python) for name, python in pythons.items()
        }
        with _sides.closing(sides):
            answers_of_side = _sides.alternate(sides, num_runs, task_of_side)
        for answers in zip(*answers_of_side.values(), strict=True):  # Of one run.
            fastest = max(answer['product_rate'] for answer in answers)
            for answer in answers:
                answer['fastest_product_rate'] = fastest
        for name, answers in answers_of_side.items():
            results[*key, name] = answers
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
            f'{_yardsticks.spread(images_per_sec)} images/s, '
            f'{_yardsticks.spread(cpu_ms)} ms of processor time an image, '
            f'{share:.0%} of {_yardsticks.spread(products, 1e-9, 0)} GFLOP/s, '
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
    pythons = {'ours': sys.executable}
    batch_sizes = {'ours': args.batch_size}
    if args.torch_python:
        pythons['PyTorch'] = args.torch_python
        batch_sizes['PyTorch'] = args.torch_batch_size
    net_size = args.height, args.width
    with tempfile.TemporaryDirectory() as directory:
        if args.dataset:
            names = read_names(args.dataset, args.image_root or '.')
        else:
            names = _yardsticks.draw_jpegs(directory, args.images)
        tasks = make_tasks(
            names,
            directory,
            net_size,
            batch_sizes,
            args.loading_threads,
            args.precisions,
        )
        results = compare(pythons, args.runs, tasks)
    operations = _yardsticks.count_operations(net_size, EMBEDDING_DIM)
    print(f'{len(names)} images, {operations / 1e9:.1f} GFLOP each and variant')
    report(results, len(names), operations)


if __name__ == '__main__':
    main()
