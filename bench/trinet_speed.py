"""How fast are ten-crop embeddings? trinet_embed.py against the naive way, in turn.

    python -m bench.trinet_speed

Embeds drawn images with random weights: the naive way (the same network of Keras' own
layers, an image per call, its ten crops cut by NumPy), ours an image per call, and ours
in batches. Prints images/s (median of the rounds, and their range), what fraction that
is of the floating point rate of a matrix product, measured in the same rounds, and the
peak memory of the whole command.
"""

import pathlib
import statistics
import tempfile
import time
import typing

import numpy as np

import common
import trinet_embed
from bench import _sides, _yardsticks
from nets import _trinet

# Imported at first use, after start_tensorflow.
tf = common.lazy_import('tensorflow')
batches = common.lazy_import('batches')

# Threads that read images, and batches that they are ahead.
NUM_THREADS, BATCHES_AHEAD = 8, 2


class Way(typing.NamedTuple):
    """A way to embed.

    Attributes:
        name: that is printed.
        embed: function of a list of image files.
        files: to embed in a round.
    """

    name: str
    embed: typing.Callable
    files: list


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('--rounds', type=int, default=5, help='Of each side.')
    parser.add_argument('--images', type=int, default=64, help='In batches.')
    parser.add_argument('--single_images', type=int, default=8, help='One per call.')
    parser.add_argument('--batch_sizes', type=int, nargs='+', default=[8])
    return parser


def draw_weights():
    """Return random weights that keep activations in a sensible range."""
    rng = np.random.default_rng(0)
    weights = {}
    for layer, kind, shape in _trinet.layout():
        if kind == 'W':
            fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
            value = rng.standard_normal(shape, np.float32) / np.sqrt(fan_in)
        else:
            value = np.full(shape, kind in ('gamma', 'inv_std'))
        weights[layer, kind] = np.float32(value)
    return weights


def naive_net():
    """Return the same network as Keras users would build it."""
    body = tf.keras.applications.ResNet50(
        weights=None,
        include_top=False,
        input_shape=(*_trinet.CROP_SIZE, 3),
        pooling='avg',
    )
    hidden = tf.keras.layers.Dense(1024)(body.output)
    hidden = tf.keras.layers.ReLU()(tf.keras.layers.BatchNormalization()(hidden))
    return tf.keras.Model(
        body.input, tf.keras.layers.Dense(_trinet.EMBEDDING_DIM)(hidden)
    )


def embed_naively(net, names):
    """Embed images one by one, their crops cut by NumPy."""
    for name in names:
        image = np.float32(trinet_embed.read_image(name)) - np.float32(
            _trinet.BGR_MEANS
        )
        places = [(16, 8), (0, 0), (0, 16), (32, 0), (32, 16)]
        crops = [image[y : y + 256, x : x + 128] for y, x in places]
        crops += [crop[:, ::-1] for crop in crops]
        net.predict_on_batch(np.stack(crops)).mean(axis=0)


def make_ours(net, batch_size):
    """Return a function that embeds images as the command does."""
    embed_batch = trinet_embed.compile_net(net, _trinet.AUGMENTATIONS)

    def embed(names):
        num_ahead = BATCHES_AHEAD * batch_size
        futures = batches.read_ahead(
            trinet_embed.read_image, names, NUM_THREADS, num_ahead
        )
        for _, batch in trinet_embed.make_batches(futures, batch_size, None):
            embed_batch(batch).numpy().mean(axis=0)

    return embed


def measure_command(directory, names, weights):
    """Return the _sides.Usage of the whole command on these images."""
    file = f'{directory}/weights.npz'
    np.savez(file, *weights.values())
    listed = pathlib.Path(directory, 'list.txt')
    listed.write_text('\n'.join(names))
    return _sides.run(_sides.script('trinet_embed.py', listed, file))


def make_ways(names, weights, num_single, batch_sizes):
    """Return the Ways to compare, the naive one first.

    Args:
        names: list of str, the image files.
        weights: of draw_weights.
        num_single: images that are embedded one per call.
        batch_sizes: of ours.
    """
    net, naive = _trinet.build_net(weights), naive_net()
    few = names[:num_single]
    ways = [
        Way('naive, one image per call', lambda n: embed_naively(naive, n), few),
        Way('ours, --batch_size 1', make_ours(net, 1), few),
    ]
    for size in batch_sizes:
        ways.append(Way(f'ours, --batch_size {size}', make_ours(net, size), names))
    return ways


def measure(ways, num_warm, num_rounds):
    """Let all ways embed in turn, and multiply matrices after them.

    Args:
        ways: list of Way.
        num_warm: images that each embeds first, to trace and to warm up.
        num_rounds: measurements of each.

    Returns:
        (rates, products): {name of a way: list of images/s}, and the floating point
        operations per second of a float32 matrix product, list.
    """
    for way in ways:
        way.embed(way.files[:num_warm])
    rates, products = {way.name: [] for way in ways}, []
    for _ in range(num_rounds):
        for way in ways:
            start = time.perf_counter()
            way.embed(way.files)
            rates[way.name].append(len(way.files) / (time.perf_counter() - start))
        products.append(_yardsticks.tensorflow_product_rate('float32'))
    return rates, products


def report(rates, products):
    """Print what measure returns."""
    crop_operations = _yardsticks.count_operations(
        _trinet.CROP_SIZE, _trinet.EMBEDDING_DIM, is_caffe=True
    )
    operations = len(_trinet.AUGMENTATIONS) * crop_operations
    print(f'{operations / 1e9:.1f} GFLOP an image, ten crops of {_trinet.CROP_SIZE}')
    print(f'{"matrix product":28} {_yardsticks.spread(products, 1e-9)} GFLOP/s')
    for name, values in rates.items():
        print(f'{name:28} {_yardsticks.spread(values)} images/s')
    # Images/s at which a net would reach the rate of the matrix product.
    limit = statistics.median(products) / operations
    medians = {name: statistics.median(values) for name, values in rates.items()}
    slowest = next(iter(medians.values()))
    for name, median in medians.items():
        print(
            f'{name:28} {median / limit:.0%} of the matrix product, '
            f'{median / slowest:.2f}x'
        )
    print(f'{limit:.2f} images/s is all that a matrix product allows,')
    print(f'{limit / slowest:.2f} times the naive rate')


def main():
    args = build_parser().parse_args()
    weights = draw_weights()
    with tempfile.TemporaryDirectory() as directory:
        names = _yardsticks.draw_jpegs(directory, args.images)
        usage = measure_command(directory, names, weights)
        common.start_tensorflow()
        ways = make_ways(names, weights, args.single_images, args.batch_sizes)
        rates, products = measure(ways, max(args.batch_sizes), args.rounds)
    report(rates, products)
    print(
        f'command on {len(names)} images: {usage.peak_mb:.0f} MB at its peak, '
        f'{usage.secs:.1f} s'
    )


if __name__ == '__main__':
    main()
