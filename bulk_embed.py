#!/usr/bin/env python3
"""Embed a collection that no machine holds, on a cluster, by Ray Data.

    python bulk_embed.py --experiment_root ~/exp/trinet --input s3://bucket/photos \\
        --output s3://bucket/embeddings --address auto --num_actors 8 --gpus_per_actor 1

Reads folders, CSVs, Parquet files with paths or contents of images, or tars of
WebDataset, on any file system that PyArrow reads. Writes a directory of Parquet files
with columns fid, pid (if known), emb and skipped_reason, which evaluate.py, search.py
and visualize.py read. A part appears when it is complete; the same command goes on with
those that are missing. An image that cannot be read is a row with its reason and an
embedding of NaN. Without --address, a cluster of this machine alone is started.

The embeddings are those of embed.py, of the same batches bit for bit. For a collection
that one machine holds, or a scheduler that starts plain processes, use embed.py, with
--shard: docs/scale.md.
"""

import importlib
import json
import logging
import os

import common
import datasets
import embedder
import embedding_files
import images
import run_args
from bulk import inputs, parts

# Imported at first use, so that --help and a mistyped flag answer at once.
actor = common.lazy_import('bulk.actor')
checkpoints = common.lazy_import('checkpoints')
tqdm = common.lazy_import('tqdm')

# Bytes for what Ray passes on here: lists of names.
OBJECT_STORE = 256 * 2**20


def build_parser():
    """Return the argument parser."""
    parser = common.new_parser(__doc__)
    required = parser.add_argument_group('required')
    embedder.add_experiment_root(required)
    required.add_argument(
        '--input',
        required=True,
        nargs='+',
        type=common.path,
        help='Folders, CSVs (PID,FID; of this machine), Parquet files or tars: paths '
        'or addresses such as s3://bucket/photos.',
    )
    required.add_argument(
        '--output',
        required=True,
        type=common.path,
        help='Directory of the parts, a path or an address. An unfinished job goes on.',
    )
    add_data_flags(parser)
    embedder.add_view_flags(parser)
    add_cluster_flags(parser)
    common.add_quiet(parser)
    return parser


def add_data_flags(parser):
    """Add the flags of what is read to a parser."""
    data = parser.add_argument_group('data and model')
    embedder.add_checkpoint(data)
    data.add_argument(
        '--kind',
        choices=inputs.KINDS,
        help='What the inputs are. Default: by their ends .csv, .parquet and .tar; '
        'anything else is a folder.',
    )
    data.add_argument(
        '--image_root',
        type=common.path,
        help="Directory of a CSV's FIDs, a path or an address. Default: the training "
        "run's.",
    )
    datasets.add_outside_flag(data)
    datasets.add_header_flag(data)
    common.add_loading_threads(data)
    data.add_argument(
        '--batch_size',
        default=256,
        type=common.positive_int,
        help='Images per pass through the net.',
    )
    data.add_argument(
        '--rows_per_part',
        default=2**14,
        type=common.positive_int,
        help='Images of a part: what is lost at most if a machine is. Rounded up to '
        'whole batches. A tar is a part, whatever it holds, and a row group of Parquet '
        'is not divided.',
    )


def add_cluster_flags(parser):
    """Add the flags of Ray to a parser."""
    cluster = parser.add_argument_group('cluster')
    cluster.add_argument(
        '--address',
        help='Of a Ray cluster: `auto` for the one that this machine is in, or '
        'ray://HOST:10001. This code, the run and its paths must be there on every '
        'machine. Default: this machine alone.',
    )
    cluster.add_argument(
        '--num_actors',
        type=common.positive_int,
        default=1,
        help='Processes, each with a network of its own.',
    )
    cluster.add_argument(
        '--gpus_per_actor',
        type=common.non_negative_float,
        default=0.0,
        help='GPUs that each has to itself; 0.5 lets two share one.',
    )
    cluster.add_argument(
        '--cpus_per_actor',
        type=common.positive_int,
        help='Cores that each has to itself. Default: an equal share of this machine; '
        'with --address 1.',
    )


def parse_args(argv):
    """Return the checked flags."""
    parser = build_parser()
    args = parser.parse_args(argv)
    num_variants = len(images.augmentation_plan(args.flip_augment, args.crop_augment))
    if (num_variants > 1) != (args.aggregator is not None):
        parser.error(
            f'an image has {num_variants} variant(s): --aggregator joins several, and '
            'is left out for one'
        )
    return args


def require_ray():
    """Return Ray and its module for data, quiet.

    Raises:
        InputError: it is not installed.
    """
    # Ray reports its use to its makers unless it is told not to, and its C++ code warns
    # of what its own Python code does.
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise common.InputError(
            'bulk_embed.py needs Ray; install it: pip install -r '
            'requirements-cluster.txt'
        ) from error
    return ray


def start_ray(ray, address, num_cpus):
    """Connect to a cluster, or start one of this machine."""
    here = os.path.dirname(os.path.abspath(__file__))
    options = {'object_store_memory': OBJECT_STORE, 'include_dashboard': False}
    options |= {'num_cpus': num_cpus}
    ray.init(
        address=address,
        logging_level='ERROR',
        log_to_driver=False,
        runtime_env={'env_vars': {'PYTHONPATH': here}},
        **({} if address else options),
    )
    for name in ('ray', 'ray.data'):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # An actor that is lost is started again; a part that fails is our error.
    context.max_errored_blocks = 0
    context.raise_original_map_exception = True


def embed_parts(ray, todo, all_parts, options, num_actors, cpus, gpus):
    """Yield how each part went, {name: value}, as they are finished.

    Args:
        ray: of require_ray, started.
        todo: list of int, parts to embed.
        all_parts: list of inputs.Part.
        options: {argument of actor.PartEmbedder: value}.
        num_actors, cpus, gpus: see the flags.
    """
    # As text: Arrow would make other types of lists and of names that are no UTF-8.
    rows = [{'number': i, 'part': json.dumps(all_parts[i])} for i in todo]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        actor.PartEmbedder,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(rows))),
        fn_constructor_kwargs=options,
        num_cpus=cpus,
        num_gpus=gpus,
    )
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        raise find_cause(error) from error


def find_cause(error):
    """Return the InputError that Ray has wrapped, or one that says what Ray says."""
    kinds = [common.InputError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    names = {f'{kind.__module__}.{kind.__name__}' for kind in kinds}
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in reversed(lines):  # Of a traceback, the last error is what was raised.
        name, _, reason = line.partition(': ')
        if name in names:
            return common.InputError(reason)
    return common.InputError(
        f'Ray failed: {lines[-1]}; the same command goes on with the parts that are '
        'missing'
    )


def choose_root(kind, image_root, experiment_root):
    """Return the directory of a CSV's FIDs, or None for what needs none."""
    if kind != 'csv':
        return None
    if image_root is not None and '://' in image_root:
        return image_root
    root = embedder.choose_image_root(image_root, experiment_root)
    return os.path.abspath(root)


def find_network(experiment_root, checkpoint):
    """Return (prefix, weights) of a run's checkpoint: what all machines must have."""
    common.start_tensorflow()
    # The actors need them.
    importlib.import_module('tensorflow').config.set_visible_devices([], 'GPU')
    prefix = checkpoints.find(experiment_root, checkpoint)
    ours = embedder.Embedder.load(
        experiment_root, os.path.basename(prefix), threshold=0.0
    )
    variables = checkpoints.variables_by_name(ours.network)
    return prefix, checkpoints.fingerprint(variables)


def report(told, total, quiet, logger):
    """Show progress, and say how a job went.

    Args:
        told: iterable of embed_parts.
        total: number of parts.
        quiet: whether there is no bar.
        logger: is told the sum.
    """
    num_images = num_skipped = 0
    first = ''
    for row in tqdm.tqdm(
        told, total=total, unit=' parts', disable=True if quiet else None
    ):
        num_images += row['num_images']
        num_skipped += row['num_skipped']
        first = first or row['first_skipped']
    if num_skipped:
        logger.warning(
            f'{num_skipped} of {num_images} images could not be read (first: {first}); '
            'their rows are NaN and have the reason'
        )
    logger.info(f'{num_images} images in {total} parts')


def main(argv=None):
    args = parse_args(argv)
    logger = common.setup_logging(quiet=args.quiet)
    run_args.read(args.experiment_root)
    ray = require_ray()
    kind = args.kind or inputs.choose_kind(args.input)
    root = choose_root(kind, args.image_root, args.experiment_root)
    rows = -(-args.rows_per_part // args.batch_size) * args.batch_size
    all_parts = inputs.list_parts(
        *(kind, [embedding_files.absolute(place) for place in args.input], root),
        *(args.csv_header, rows, args.allow_outside_image_root),
    )
    prefix, weights = find_network(args.experiment_root, args.checkpoint)
    view = args.flip_augment, args.crop_augment, args.aggregator
    flags = dict(zip(embedding_files.PLAIN, view, strict=True))
    flags['batch_size'] = args.batch_size
    with inputs.reaching(args.output):
        todo = parts.begin(args.output, parts.describe(flags, weights, all_parts))
    if not todo:
        logger.info(f'{args.output}: all {len(all_parts)} parts are finished')
        return
    if len(todo) < len(all_parts):
        done = len(all_parts) - len(todo)
        logger.info(f'going on after {done} of {len(all_parts)} parts')
    num_cpus = os.cpu_count()
    share = 1 if args.address else max(1, num_cpus // args.num_actors)
    cpus = args.cpus_per_actor or share
    options = {
        'experiment_root': os.path.abspath(args.experiment_root),
        'checkpoint': os.path.basename(prefix),
        'view': view,
        'batch_size': args.batch_size,
        'loading_threads': args.loading_threads,
        'num_threads': None if args.gpus_per_actor else cpus,
        'output': embedding_files.absolute(args.output),
        'attributes': embedding_files.describe(flags, prefix, weights, root),
        'weights': weights,
    }
    start_ray(ray, args.address, max(num_cpus, cpus * args.num_actors))
    try:
        told = embed_parts(
            *(ray, todo, all_parts, options),
            *(args.num_actors, cpus, args.gpus_per_actor),
        )
        report(told, len(todo), args.quiet, logger)
    finally:
        ray.shutdown()


if __name__ == '__main__':
    common.run(main)
