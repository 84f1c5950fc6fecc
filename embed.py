#!/usr/bin/env python3
"""Embed images with a trained network: a CSV data set, a folder, a list, or one image.

    python embed.py --experiment_root ~/exp/market \\
        --dataset data/market1501_query.csv

Reads args.json and the newest checkpoint. Writes `emb`, float32 [N, D], in CSV order,
with `fid` and `pid`, to market1501_query_embeddings.h5 in the experiment root; with
--flip_augment or --crop_augment five also `emb_aug`, float32 [A, N, D], one layer for
each variant that `augmentation_types` names. Several machines compute a part each with
--shard, and --merge joins the parts.
"""

import contextlib
import functools
import logging
import os
import typing

import aggregators
import common
import datasets
import embedder
import embedding_files
import images
import run_args
from embedding import blocks, outputs, shards, sources
from precision import PRECISION_CHOICES

# Imported at first use, so that --help and a mistyped flag answer at once.
checkpoints = common.lazy_import('checkpoints')


def build_parser():
    """Return the parser of embed.py's flags."""
    parser = common.new_parser(__doc__)
    add_input_flags(parser)
    embedder.add_view_flags(parser)
    add_output_flags(parser)
    return parser


def add_input_flags(parser):
    """Add the flags that say what is embedded, and by which network, to a parser."""
    required = parser.add_argument_group('required')
    embedder.add_experiment_root(required)
    required.add_argument(
        '--dataset',
        required=True,
        type=common.path,
        help='The images: a CSV with a line `PID,FID` each, see make_csv.py; a folder, '
        'with all below it; a .txt file of image names, one a line, or - for such '
        'names on standard input; or one image.',
    )

    data = parser.add_argument_group('data and model')
    data.add_argument(
        '--image_root',
        type=common.path,
        help='Directory that the FIDs are relative to. Default: of a CSV, the training '
        "run's; of a folder, the folder; else the current directory.",
    )
    embedder.add_checkpoint(data)
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
        '--on_bad_image',
        choices=('stop', 'skip'),
        default='stop',
        help='What an image that cannot be read does: it ends the command, or it is '
        'named and skipped. A skipped row keeps its place: its embedding is NaN, and '
        '`skipped` and `skipped_reason` in the file name it; the other commands leave '
        'it out.',
    )
    data.add_argument(
        '--check_images',
        action='store_true',
        help='First decode every image once. Those that are damaged but can be read '
        'are named. If some cannot be read, all of them are listed and nothing is '
        'embedded, unless --on_bad_image is skip.',
    )
    data.add_argument(
        '--precision',
        choices=PRECISION_CHOICES,
        help='Number format of activations and products; the embeddings are float32 '
        "in any case. Default: the training run's. The half formats are faster where "
        'the processor has them (GPU; AVX-512 for bfloat16), slower elsewhere.',
    )


def add_output_flags(parser):
    """Add the flags of what is written to a parser."""
    output = parser.add_argument_group('output')
    output.add_argument(
        '--filename',
        type=common.path,
        help='The file to write; relative to the experiment root, not to the current '
        'directory. Its end says in which format: .npy (with the FIDs in a .txt beside '
        'it), .npz, .csv, .parquet, or else HDF5. Default: the name of the dataset '
        'with _embeddings.h5. An existing file is replaced once the new one is '
        'complete.',
    )
    output.add_argument(
        '--resume',
        action='store_true',
        help='Go on where the same command was interrupted; the file is byte for byte '
        'that of one run. What is done is kept every half a minute.',
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
    if args.merge and args.resume:
        parser.error('--merge has nothing to resume: leave --resume out')
    if args.merge and args.check_images:
        parser.error('--merge reads no images: leave --check_images out')
    if args.filename is not None:
        check_suffix(parser, args.filename)
    name = args.filename or sources.default_name(args.dataset) + '_embeddings.h5'
    if args.on_bad_image == 'skip' and name.lower().endswith('.npy'):
        parser.error(
            '--on_bad_image skip needs a file that can say which rows are missing, and '
            '.npy cannot; choose .h5, .npz, .csv or .parquet'
        )
    # An absolute name stays what it is.
    args.filename = os.path.join(args.experiment_root, name)
    return args, variants


def check_suffix(parser, filename):
    """Leave with an error if the end of a file's name is nearly that of a format."""
    suffix = os.path.splitext(filename)[1].lower()
    if suffix not in (*outputs.WRITERS, '.h5', '.hdf5', ''):
        hint = common.suggest(suffix, [*outputs.WRITERS, '.h5', '.hdf5'])
        if hint:
            parser.error(
                f'--filename {filename} ends like no format: expected .h5, '
                f'{", ".join(outputs.WRITERS)}{hint}'
            )


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


def choose_root(name, image_root, experiment_root):
    """Return the image root of --dataset, or None where it needs none from a run.

    Args:
        name: of --dataset.
        image_root: of the flags, or None.
        experiment_root: directory of the run, or None.
    """
    if experiment_root is None or not sources.is_data_set(name):
        return image_root
    return embedder.choose_image_root(image_root, experiment_root)


def warn_of_scale(experiment_root, crop, trained, logger):
    """Log what describe_scale has to say, if anything."""
    stored = run_args.read(experiment_root)
    warning = describe_scale(crop, stored.get('crop_augment'), trained)
    if warning is not None:
        logger.warning(f'warning: {warning}')


def restore(experiment_root, checkpoint, trained, precision, logger):
    """Return (embedder.Embedder, prefix) of a run's checkpoint, by name or the newest.

    Args:
        experiment_root: directory of the run.
        checkpoint: name of the checkpoint, or None.
        trained: embedder.TrainedNet.
        precision: number format of activations and products.
        logger: is told what was loaded.
    """
    common.start_tensorflow()
    prefix = checkpoints.find(experiment_root, checkpoint)
    ours, report = embedder.Embedder.restore(trained, prefix, precision)
    logger.info(f'{prefix}: {report}')
    return ours, prefix


def choose_stored(flags):
    """Return those of a command's flags that its file tells of, a dict.

    However the file comes about, they are those of one run that embeds all of it.
    """
    rest = {name: flags[name] for name in flags if name != 'check_images'}
    return rest | {'merge': False, 'resume': False}


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


def merge(output, source, logger):
    """Join the parts that --shard wrote to the file that one call writes.

    Args:
        output: the Output of that call.
        source: the whole sources.Source.
        logger: is told the result.

    Raises:
        FileNotFoundError, InputError: see shards.find and shards.check.
    """
    common.check_file_name(output.filename)
    has_variants = output.aggregator is not None
    shape = (len(source.fids), output.embedding_dim)
    if has_variants:
        shape = (len(output.variants), *shape)
    parts = shards.find(output.filename)
    attributes, skipped = shards.check(parts, output.flags, source.fids, shape)
    embs = shards.read(parts, output.flags['batch_size'], has_variants)
    # In the order of embedding_files.describe, for the same bytes.
    attributes = {'args': embedding_files.dump_args(output.flags)} | attributes
    write(output, output.filename, embs, source, attributes, skipped)
    logger.info(f'{output.filename}: {len(source.fids)} embeddings; the parts stay')


def write(output, filename, embs, source, attributes, skipped):
    """Write embeddings in the format of a file's name; see embedding_files.write."""
    module = outputs if outputs.choose_writer(filename) else embedding_files
    module.write(
        filename,
        embs,
        source.fids,
        output.variants,
        output.embedding_dim,
        output.aggregator,
        attributes,
        source.pids,
        skipped,
    )


def choose_part(filename, source, part, batch_size):
    """Return (name of the file, first row, sources.Source) of what one call embeds.

    Args:
        filename: of the whole data set's embeddings.
        source: the whole sources.Source.
        part: shards.Shard, or None: all.
        batch_size: images of a batch.
    """
    if part is None:
        return filename, 0, source
    rows = shards.rows_of(part, len(source.fids), batch_size)
    some = source.select(slice(rows.start, rows.stop))
    return shards.name_of(filename, part), rows.start, some


def check_source(name, source, first_row, allows_outside, on_bad_image):
    """Raise InputError if images are outside the image root, or missing.

    Args:
        name: of --dataset.
        source: sources.Source.
        first_row: of the source in the data set.
        allows_outside: whether they may be outside.
        on_bad_image: of the flags; if they are skipped, missing ones are, too.
    """
    if source.image_root:  # Without one, there is nothing to leave.
        datasets.check_inside(name, source.fids, source.image_root, allows_outside)
    if on_bad_image == 'stop':
        datasets.check_images_exist(
            *(name, source.fids, source.image_root),
            first_row=first_row,
            is_csv=sources.is_data_set(name),
        )


def check_images(is_wanted, source, skips, quiet):
    """Name the damaged images of a source; see images.check_all.

    Args:
        is_wanted: whether to look at them at all.
        source: sources.Source.
        skips: whether those that cannot be read are left to `embed`, which skips them.
        quiet: whether there is no progress bar.

    Raises:
        InputError: some cannot be read; all are listed.
    """
    if not is_wanted:
        return
    common.start_tensorflow()
    paths = datasets.join_paths(source.image_root, dict.fromkeys(source.fids))
    images.check_all(paths, logging.getLogger(common.LOGGER), quiet, skips)


class Skipped(dict):
    """{row: reason} of images that cannot be read, each of which is reported.

    Args:
        fids: sequence [N] of str.
        logger: gets a warning for each.
        known: {row: reason} of those that were reported before.
    """

    def __init__(self, fids, logger, known):
        super().__init__(known)
        self.fids = fids
        self.logger = logger

    def add(self, row, reason):
        """Skip a row."""
        self[row] = reason
        self.logger.warning(common.one_line(f'{self.fids[row]} is skipped: {reason}'))

    def refuse_all(self):
        """Raise InputError if no image could be read."""
        if len(self) == len(self.fids):
            row = min(self)
            raise common.InputError(
                f'none of the {len(self)} images can be read (first: '
                f'{self.fids[row]}: {self[row]}); check --image_root'
            )


def conclude(filename, num_rows, skipped, logger):
    """Say what was written, and how many images were skipped.

    Args:
        filename: of the embeddings.
        num_rows: N.
        skipped: Skipped, or None.
        logger: is told.
    """
    if skipped:
        logger.warning(
            f'{len(skipped)} of {num_rows} images skipped (first: '
            f'{common.one_line(skipped.fids[min(skipped)])}); their rows are NaN'
        )
    count = num_rows - len(skipped or ())
    logger.info(f'{filename}: {count} embedding{"" if count == 1 else "s"}')


@contextlib.contextmanager
def open_blocks(filename, output, source, describe, is_resumed, logger):
    """Yield the blocks.Blocks of a file: what is done of it, and where more is kept.

    Once the block has written the file, nothing is kept any more.

    Args:
        filename: of the embeddings.
        output: the Output of the whole data set.
        source: sources.Source.
        describe: function that returns {what: value} of network and software.
        is_resumed: whether an interrupted run is to be continued.
        logger: is told how much is done.

    Raises:
        InputError: see blocks.Blocks.find.
    """
    kept = blocks.Blocks(
        filename,
        output.flags,
        lambda: {**describe(), 'data set': sources.checksum(source)},
        (len(output.variants), len(source.fids), output.embedding_dim),
    )
    with contextlib.closing(kept):
        kept.find(is_resumed)
        if kept.skipped and output.flags['on_bad_image'] == 'stop':
            raise common.InputError(
                f'{filename}: the interrupted run had skipped {len(kept.skipped)} '
                'images; add --on_bad_image skip'
            )
        if kept.done:
            logger.info(f'going on after {kept.done} of {len(source.fids)} images')
        yield kept
        kept.remove()


def embed(embed_files, source, kept, skipped, logger):
    """Yield (rows, float32 [A, B, D]) of a source, after what is there already.

    Args:
        embed_files: function of paths and `skip`; see embedder.Embedder.embed_files.
        source: sources.Source.
        kept: blocks.Blocks.
        skipped: Skipped, or None: images that cannot be read are errors.
        logger: is told where an interrupted run goes on.
    """
    yield from kept.replay()
    first = kept.done
    paths = datasets.join_paths(source.image_root, source.fids[first:])
    skip = None if skipped is None else lambda row, why: skipped.add(first + row, why)
    embedded = embed_files(paths, skip=skip)
    shifted = (([first + row for row in rows], embs) for rows, embs in embedded)
    try:
        yield from kept.keep(shifted, {} if skipped is None else skipped)
    except KeyboardInterrupt:
        if kept.done:
            logger.info(
                f'{kept.done} of {len(source.fids)} images are done; the same command '
                'with --resume goes on'
            )
        raise
    if skipped is not None:
        skipped.refuse_all()


def main(argv=None):
    args, variants = parse_args(argv)
    logger = common.setup_logging(quiet=args.quiet)
    trained = embedder.read_trained_net(args.experiment_root)
    # Joining parts needs no image.
    root = None if args.merge else args.experiment_root
    source = sources.read(
        args.dataset, args.csv_header, choose_root(args.dataset, args.image_root, root)
    )
    image_size = trained.image_size(args.crop_augment)
    output = Output(
        args.filename,
        variants,
        trained.embedding_dim,
        aggregators.AGGREGATOR_CHOICES.get(args.aggregator),
        choose_stored(vars(args)),
    )
    if args.merge:
        merge(output, source, logger)
        return

    filename, first_row, source = choose_part(
        args.filename, source, args.shard, args.batch_size
    )
    outside, bad = args.allow_outside_image_root, args.on_bad_image
    check_source(args.dataset, source, first_row, outside, bad)
    common.check_file_name(filename)
    check_images(args.check_images, source, bad == 'skip', args.quiet)
    warn_of_scale(args.experiment_root, args.crop_augment, trained, logger)
    precision = args.precision or trained.precision
    ours, prefix = restore(
        args.experiment_root, args.checkpoint, trained, precision, logger
    )
    weights = checkpoints.fingerprint(checkpoints.variables_by_name(ours.network))
    attributes = embedding_files.describe(
        output.flags, prefix, weights, source.image_root
    )
    if args.shard is not None:
        attributes |= shards.describe(args.shard, trained._asdict(), precision, weights)
    software = attributes['versions']
    embed_files = functools.partial(
        ours.embed_files,
        view=embedder.View(image_size, variants, output.aggregator),
        batch_size=args.batch_size,
        loading_threads=args.loading_threads,
        quiet=args.quiet,
    )
    with open_blocks(
        filename,
        output,
        source,
        lambda: {'network': [*trained, precision, weights], 'software': software},
        args.resume,
        logger,
    ) as kept:
        skipped = Skipped(source.fids, logger, kept.skipped) if bad == 'skip' else None
        embs = embed(embed_files, source, kept, skipped, logger)
        write(output, filename, embs, source, attributes, skipped)
    conclude(filename, len(source.fids), skipped, logger)


if __name__ == '__main__':
    common.run(main)
