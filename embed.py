#!/usr/bin/env python3
"""Embed the images of a CSV data set with a trained network.

    python embed.py --experiment_root ~/exp/market --dataset data/market1501_query.csv

Reads args.json and the newest checkpoint. Writes `emb`, float32 [N, D], in CSV order,
with `fid` and `pid`, to market1501_query_embeddings.h5 in the experiment root; with
--flip_augment or --crop_augment five also `emb_aug`, float32 [A, N, D], one layer for
each variant that `augmentation_types` names. Several machines compute a part each with
--shard, and --merge joins the parts.
"""

import os
import pathlib

import aggregators
import common
import embedding_files
import images
from embedding import shards
from precision import PRECISION_CHOICES

# Imported at first use, so that --help and a mistyped flag answer at once.
batches = common.lazy_import('batches')
checkpoints = common.lazy_import('checkpoints')
embedder = common.lazy_import('embedder')
layers = common.lazy_import('layers')
model = common.lazy_import('model')

# What embed.py needs to know of a training run.
TRAINING_FLAGS = (
    'model_name',
    'head_name',
    'embedding_dim',
    'net_input_height',
    'net_input_width',
    'pre_crop_height',
    'pre_crop_width',
    'last_stride',
    'precision',
)

# The only values that older runs, and the original's, know; their args.json has none.
OLDER_VALUES = {'last_stride': 2, 'precision': 'float32'}


def build_parser():
    """Return the parser of embed.py's flags."""
    parser = common.new_parser(__doc__)
    add_input_flags(parser)
    add_augmentation_flags(parser)
    add_output_flags(parser)
    return parser


def add_input_flags(parser):
    """Add the flags that say what is embedded, and by which network, to a parser."""
    required = parser.add_argument_group('required')
    required.add_argument(
        '--experiment_root',
        required=True,
        type=common.readable_directory,
        help='Directory of the training run: args.json and checkpoints.',
    )
    required.add_argument(
        '--dataset',
        required=True,
        type=common.path,
        help='CSV of the images, a line `PID,FID` each; see make_csv.py.',
    )

    data = parser.add_argument_group('data and model')
    data.add_argument(
        '--image_root',
        type=common.path,
        help="Directory that the FIDs are relative to. Default: the training run's.",
    )
    data.add_argument(
        '--checkpoint',
        help='Name of a checkpoint in the experiment root, such as checkpoint-25000, '
        'or `best` of a run with --val_set. Default: the newest.',
    )
    common.add_loading_threads(data)
    data.add_argument(
        '--batch_size',
        default=256,
        type=common.positive_int,
        help='Images per pass through the net; fewer need less memory.',
    )
    data.add_argument(
        '--precision',
        choices=PRECISION_CHOICES,
        help='Number format of activations and products; the embeddings are float32 '
        "in any case. Default: the training run's. The half formats are faster where "
        'the processor has them (GPU; AVX-512 for bfloat16), slower elsewhere.',
    )


def add_augmentation_flags(parser):
    """Add the flags of test-time augmentation to a parser."""
    augmentation = parser.add_argument_group('test-time augmentation')
    augmentation.add_argument(
        '--flip_augment',
        action='store_true',
        help='Embed every image and its mirror image.',
    )
    augmentation.add_argument(
        '--crop_augment',
        choices=images.CROP_CHOICES,
        help='Resize images to the pre-crop size of the training and embed their '
        'centre; the whole (the net averages over it); or centre and four corners. '
        'Without it images are resized to the net input.',
    )
    augmentation.add_argument(
        '--aggregator',
        choices=tuple(aggregators.AGGREGATOR_CHOICES),
        help='How the variants of an image become one embedding: their mean, or '
        'their mean scaled to length 1. Required where an image has several variants.',
    )


def add_output_flags(parser):
    """Add the flags of what is written to a parser."""
    output = parser.add_argument_group('output')
    output.add_argument(
        '--filename',
        type=common.path,
        help='The HDF5 file to write. Default: the name of the dataset with '
        '_embeddings.h5, in the experiment root. An existing file is replaced once '
        'the new one is complete.',
    )
    output.add_argument(
        '--shard',
        type=shards.shard,
        metavar='I/N',
        help='Embed part I of N alone, I from 1 to N, and write it beside --filename '
        'as NAME.shard-I-of-N.h5. Parts are whole batches, so N is at most the number '
        'of batches.',
    )
    output.add_argument(
        '--merge',
        action='store_true',
        help='Embed nothing, but join the parts that --shard wrote to --filename, the '
        'file that one call without --shard writes. Needs the other flags of the '
        'parts. The parts stay.',
    )
    output.add_argument('--quiet', action='store_true', help='No progress, no report.')


def parse_args(argv):
    """Return the checked flags and the names of the variants of an image."""
    parser = build_parser()
    args = parser.parse_args(argv)
    variants = images.augmentation_plan(args.flip_augment, args.crop_augment)
    if len(variants) > 1 and args.aggregator is None:
        parser.error(
            f'{len(variants)} variants of every image need an --aggregator: '
            f'{" or ".join(aggregators.AGGREGATOR_CHOICES)}'
        )
    if len(variants) == 1 and args.aggregator is not None:
        parser.error(
            '--aggregator has nothing to join: add --flip_augment or --crop_augment '
            'five, or leave it out'
        )
    if args.merge and args.shard:
        parser.error(
            '--merge joins what --shard has computed; give one of the two, the parts '
            'first'
        )
    if args.filename is None:
        name = pathlib.Path(args.dataset).stem + '_embeddings.h5'
        args.filename = os.path.join(args.experiment_root, name)
    return args, variants


def read_training_args(experiment_root):
    """Return the flags of the training run that matter here, as a dict.

    Raises:
        FileNotFoundError, ValueError: args.json is missing, or lacks one of them.
    """
    stored = OLDER_VALUES | common.read_args(experiment_root)
    missing = [name for name in TRAINING_FLAGS if name not in stored]
    if missing:
        raise common.InputError(
            f'{experiment_root}/args.json lacks {", ".join(missing)}; expected the '
            'flags of a train.py run'
        )
    for name in TRAINING_FLAGS:
        expected = str if name.endswith(('_name', 'precision')) else int
        if not isinstance(stored[name], expected):
            raise common.InputError(
                f'{name} in {experiment_root}/args.json is {stored[name]!r}, expected '
                f'{"a name" if expected is str else "a whole number"}'
            )
    return stored


def restore_model(training, prefix, precision):
    """Return (model, report) of a training run and one of its checkpoints.

    The model has its batch norms folded: it embeds faster and cannot be trained.

    Args:
        training: dict of its flags.
        prefix: of the checkpoint.
        precision: number format of its activations and products.
    """
    network = model.build_model(
        training['model_name'],
        training['head_name'],
        training['embedding_dim'],
        precision,
        training['last_stride'],
    )
    report = checkpoints.load_weights(network, prefix)
    layers.fold(network)
    return network, report


def image_size(training, crop):
    """Return (height, width) that images are resized to, pixels.

    Args:
        training: dict of the training run's flags.
        crop: of --crop_augment, or None.

    Raises:
        ValueError: the crops are larger than the image.
    """
    net_size = training['net_input_height'], training['net_input_width']
    pre_crop_size = training['pre_crop_height'], training['pre_crop_width']
    if crop is None:
        return net_size
    if crop != 'avgpool' and (
        net_size[0] > pre_crop_size[0] or net_size[1] > pre_crop_size[1]
    ):
        raise common.InputError(
            f'--crop_augment {crop} cannot cut {net_size[0]}x{net_size[1]} pixels out '
            f"of the training run's pre-crop size {pre_crop_size[0]}x"
            f'{pre_crop_size[1]}; leave it out'
        )
    return pre_crop_size


def choose_image_root(image_root, experiment_root, training):
    """Return the directory that FIDs are relative to.

    Args:
        image_root: of the command's flags, or None for the training run's.
        experiment_root: of the training run.
        training: dict of its flags.

    Raises:
        ValueError: the training run has none, or several.
    """
    image_root = image_root or training.get('image_root')
    if image_root is None:
        raise common.InputError(
            f'{experiment_root}/args.json has no image_root; give --image_root'
        )
    if isinstance(image_root, list):
        raise common.InputError(
            f'{experiment_root}/args.json has several image_root '
            f'({", ".join(image_root)}); say with --image_root which one the data set '
            'belongs to'
        )
    return image_root


def merge(filename, flags, pids, fids, variants, embedding_dim, aggregator):
    """Join the parts that --shard wrote to the file that one call writes.

    Args:
        filename: of the whole.
        flags: dict of the flags of that call.
        pids, fids: sequences [N] of str, the whole data set.
        variants: names of images.augmentation_plan, A of them.
        embedding_dim: D.
        aggregator: function of aggregators.py, or None if A is 1.

    Raises:
        FileNotFoundError, ValueError: see shards.find and shards.check.
    """
    shape = (len(fids), embedding_dim)
    if aggregator is not None:
        shape = (len(variants), *shape)
    parts = shards.find(filename)
    attributes = shards.check(parts, flags, fids, shape)
    embs = shards.read(parts, flags['batch_size'], aggregator is not None)
    # In the order of embedding_files.describe, for the same bytes.
    attributes = {'args': embedding_files.dump_args(flags)} | attributes
    embedding_files.write(
        *(filename, embs, fids, variants, embedding_dim, aggregator, attributes),
        pids=pids,
    )


def main(argv=None):
    args, variants = parse_args(argv)
    training = read_training_args(args.experiment_root)
    # Joining parts needs no image.
    image_root = (
        None
        if args.merge
        else choose_image_root(args.image_root, args.experiment_root, training)
    )
    pids, fids = common.load_dataset(args.dataset, image_root)
    size = image_size(training, args.crop_augment)
    aggregator = aggregators.AGGREGATOR_CHOICES.get(args.aggregator)
    logger = common.setup_logging(quiet=args.quiet)
    if args.merge:
        flags = vars(args) | {'merge': False}
        dim = training['embedding_dim']
        merge(args.filename, flags, pids, fids, variants, dim, aggregator)
        logger.info(f'{args.filename}: {len(fids)} embeddings; the parts stay')
        return

    filename = args.filename
    if args.shard is not None:
        rows = shards.rows_of(args.shard, len(fids), args.batch_size)
        pids, fids = pids[rows.start : rows.stop], fids[rows.start : rows.stop]
        filename = shards.name_of(filename, args.shard)
    common.start_tensorflow()
    prefix = checkpoints.find(args.experiment_root, args.checkpoint)
    precision = args.precision or training['precision']
    network, report = restore_model(training, prefix, precision)
    logger.info(f'{prefix}: {report}')
    attributes = embedding_files.describe(vars(args), prefix)
    if args.shard is not None:
        attributes |= shards.describe(
            args.shard,
            {name: training[name] for name in TRAINING_FLAGS},
            precision,
            checkpoints.variables_by_name(network),
        )

    paths = common.join_paths(image_root, fids)
    dataset = batches.image_batches(paths, size, args.batch_size, args.loading_threads)
    net_size = training['net_input_height'], training['net_input_width']
    embs = embedder.embed(
        embedder.make_embed_batch(network, variants, net_size, size),
        embedder.read_batches(dataset, paths, args.batch_size, args.quiet),
    )
    embedding_files.write(
        *(filename, embs, fids, variants, training['embedding_dim'], aggregator),
        attributes,
        pids=pids,
    )
    logger.info(f'{filename}: {len(fids)} embeddings')


if __name__ == '__main__':
    common.run(main)
