#!/usr/bin/env python3
"""Embed the images of a CSV data set with a trained network.

    python embed.py --experiment_root ~/exp/market \\
        --dataset data/market1501_query.csv

Reads args.json and the newest checkpoint. Writes `emb`, float32 [N, D], in CSV order,
with `fid` and `pid`, to market1501_query_embeddings.h5 in the experiment root; with
--flip_augment or --crop_augment five also `emb_aug`, float32 [A, N, D], one layer for
each variant that `augmentation_types` names. Several machines compute a part each with
--shard, and --merge joins the parts.
"""

import json
import os
import pathlib
import typing

import aggregators
import common
import datasets
import embedder
import embedding_files
import images
from embedding import shards
from precision import PRECISION_CHOICES

# Imported at first use, so that --help and a mistyped flag answer at once.
checkpoints = common.lazy_import('checkpoints')


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
    datasets.add_outside_flag(data)
    datasets.add_header_flag(data)
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
        help='The HDF5 file to write; relative to the experiment root, not to the '
        'current directory. Default: the name of the dataset with _embeddings.h5. An '
        'existing file is replaced once the new one is complete.',
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
    common.add_quiet(output)


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
    name = args.filename or pathlib.Path(args.dataset).stem + '_embeddings.h5'
    # An absolute name stays what it is.
    args.filename = os.path.join(args.experiment_root, name)
    return args, variants


def choose_image_root(image_root, experiment_root):
    """Return the directory that FIDs are relative to.

    Args:
        image_root: of the command's flags, or None for the training run's.
        experiment_root: of the training run.

    Raises:
        InputError: the training run has none, or several.
    """
    image_root = image_root or common.read_args(experiment_root).get('image_root')
    if image_root is None:
        raise common.InputError(
            f'{experiment_root}/args.json has no image_root; give --image_root'
        )
    if not are_texts(image_root):
        raise common.InputError(
            f'{experiment_root}/args.json: image_root is {json.dumps(image_root)}, '
            'expected a directory; give --image_root'
        )
    if isinstance(image_root, list):
        raise common.InputError(
            f'{experiment_root}/args.json has several image_root '
            f'({", ".join(image_root)}); say with --image_root which one the data set '
            'belongs to'
        )
    return image_root


def are_texts(value):
    """Say whether a value of args.json is a text, or a list of them."""
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) for item in items)


def describe_scale(crop, trained_on_crops, trained):
    """Return what to say if things are of another size than in training, else None.

    Args:
        crop: one of images.CROP_CHOICES, or None: images are resized to the net input.
        trained_on_crops: crop_augment of the training run; None: not known.
        trained: an embedder.TrainedNet.
    """
    has_crops = crop is not None
    if trained_on_crops in (None, has_crops) or (
        trained.pre_crop_size == trained.net_size
    ):
        return None
    net, whole = ('{}x{}'.format(*s) for s in (trained.net_size, trained.pre_crop_size))
    if trained_on_crops:
        return (
            f'the training saw crops of {net} pixels out of {whole} (crop_augment in '
            f'args.json), but without --crop_augment the whole image is shrunk to '
            f'{net}; consider --crop_augment center or five'
        )
    return (
        f'the training saw whole images of {net} pixels (crop_augment is false), '
        f'but --crop_augment {crop} enlarges them to {whole}; consider leaving it out'
    )


class Output(typing.NamedTuple):
    """What a file of embeddings holds besides the embeddings.

    Attributes:
        filename: of the whole data set's file.
        variants: names of images.augmentation_plan, A of them.
        embedding_dim: D.
        aggregator: function of aggregators.py, or None if A is 1.
        flags: dict of the command's flags.
    """

    filename: str
    variants: list
    embedding_dim: int
    aggregator: typing.Callable | None
    flags: dict


def merge(output, dataset):
    """Join the parts that --shard wrote to the file that one call writes.

    Args:
        output: the Output of that call.
        dataset: the whole datasets.Dataset.

    Raises:
        FileNotFoundError, InputError: see shards.find and shards.check.
    """
    has_variants = output.aggregator is not None
    shape = (len(dataset.fids), output.embedding_dim)
    if has_variants:
        shape = (len(output.variants), *shape)
    parts = shards.find(output.filename)
    attributes = shards.check(parts, output.flags, dataset.fids, shape)
    embs = shards.read(parts, output.flags['batch_size'], has_variants)
    # In the order of embedding_files.describe, for the same bytes.
    attributes = {'args': embedding_files.dump_args(output.flags)} | attributes
    write(output, output.filename, embs, dataset, attributes)


def write(output, filename, embs, dataset, attributes):
    """Write embeddings to a file; see embedding_files.write."""
    embedding_files.write(
        filename,
        embs,
        dataset.fids,
        output.variants,
        output.embedding_dim,
        output.aggregator,
        attributes,
        pids=dataset.pids,
    )


def main(argv=None):
    args, variants = parse_args(argv)
    trained = embedder.read_trained_net(args.experiment_root)
    # Joining parts needs no image.
    image_root = None
    if not args.merge:
        image_root = choose_image_root(args.image_root, args.experiment_root)
    dataset = datasets.read(args.dataset, args.csv_header, image_root)
    image_size = trained.image_size(args.crop_augment)
    output = Output(
        args.filename,
        variants,
        trained.embedding_dim,
        aggregators.AGGREGATOR_CHOICES.get(args.aggregator),
        vars(args) | {'merge': False},
    )
    logger = common.setup_logging(quiet=args.quiet)
    if args.merge:
        common.check_file_name(args.filename)
        merge(output, dataset)
        logger.info(f'{args.filename}: {len(dataset.fids)} embeddings; the parts stay')
        return

    filename, rows = args.filename, range(len(dataset.fids))
    if args.shard is not None:
        rows = shards.rows_of(args.shard, len(dataset.fids), args.batch_size)
        dataset = dataset.select(slice(rows.start, rows.stop))
        filename = shards.name_of(filename, args.shard)
    datasets.check_inside(
        args.dataset, dataset.fids, image_root, args.allow_outside_image_root
    )
    datasets.check_images_exist(
        args.dataset, dataset.fids, image_root, first_row=rows.start
    )
    common.check_file_name(filename)
    stored = common.read_args(args.experiment_root)
    warning = describe_scale(args.crop_augment, stored.get('crop_augment'), trained)
    if warning is not None:
        logger.warning(f'warning: {warning}')
    common.start_tensorflow()
    prefix = checkpoints.find(args.experiment_root, args.checkpoint)
    precision = args.precision or trained.precision
    ours, report = embedder.Embedder.restore(
        trained, prefix, precision, image_size, variants
    )
    logger.info(f'{prefix}: {report}')
    attributes = embedding_files.describe(output.flags, prefix)
    if args.shard is not None:
        weights = checkpoints.variables_by_name(ours.network)
        attributes |= shards.describe(args.shard, trained._asdict(), precision, weights)
    paths = datasets.join_paths(image_root, dataset.fids)
    embs = ours.embed_files(paths, args.batch_size, args.loading_threads, args.quiet)
    write(output, filename, embs, dataset, attributes)
    logger.info(f'{filename}: {len(dataset.fids)} embeddings')


if __name__ == '__main__':
    common.run(main)
