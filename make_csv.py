#!/usr/bin/env python3
"""Write the CSV files of a data set: one `PID,FID` row per image.

    python make_csv.py market1501 ~/Market-1501-v15.09.15

writes market1501_train.csv, market1501_query.csv and market1501_test.csv into the
folder data/ beside this script, and prints how many images and PIDs each lists. Rows
are sorted by byte value; paths are relative to the data set, which train.py and
embed.py are told by --image_root.

A data set that is not complete is no error, but is reported with its counts; a folder
or list that is missing is one, and then no file is touched. What each layout expects
is told in docs/datasets.md; `folder` takes one sub-folder per identity.

    python make_csv.py table ~/lions/metadata.csv --pid_column identity \\
        --fid_column path

takes the columns of any CSV with a heading; see `make_csv.py table --help`.

    python make_csv.py split data/market1501_train.csv --val_pids 100 \\
        --excluder market1501

holds identities of a training CSV back for validation; see `make_csv.py split --help`.
"""

import argparse
import contextlib
import csv
import importlib
import os
import re
import statistics
import sys
import typing

import common
import datasets
from data import LAYOUT_CHOICES, _holdout, _tables, csv_prefix
from excluders import EXCLUDER_CHOICES

# Imported at first use: reading pixels needs TensorFlow, and names do not.
images = common.lazy_import('images')

SPLIT_DOC = """Hold identities of a training CSV back for validation.

    python make_csv.py split data/market1501_train.csv --val_pids 100 \\
        --excluder market1501

writes market1501_train_rest.csv (to train on), market1501_train_val_query.csv and
market1501_train_val_gallery.csv beside the CSV, and prints their counts. No PID is in
both the rest and the validation. As in Market-1501, a PID gives one query per camera,
at most half of its images; the gallery gets the others, so that every query has a match
there that the excluder does not ignore.
"""

TABLE_DOC = """Make the CSV files of a data set that comes as a table.

    python make_csv.py table ~/lions/metadata.csv --prefix lions \\
        --pid_column identity --fid_column path --split_column split

writes lions_train.csv, lions_test.csv and so on, one for each value of the column
`split`, into the folder data/ beside this script, and prints their counts; without
--split_column all rows go to lions_all.csv. The table is a CSV with a heading, its
fields separated by commas, semicolons or tabs. Rows stay in its order.
"""

COMMANDS = ('table', 'split')  # What else there is besides layouts.

DATA_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'data')


def build_parser():
    """Return the argument parser."""
    parser = common.new_parser(__doc__)
    # `table` and `split` are no choices here: main has taken them.
    parser.add_argument(
        'layout',
        choices=LAYOUT_CHOICES,
        help='How the data set is laid out on disk; each is a module in data/.',
    )
    parser.add_argument(
        'root',
        type=common.readable_directory,
        help='Directory of the data set, which is only read.',
    )
    add_camera_flag(parser)
    add_output_flags(parser, 'PREFIX_SPLIT.csv. Default: the layout.', 'data/')
    return parser


def build_table_parser():
    """Return the argument parser of `make_csv.py table`."""
    parser = common.new_parser(TABLE_DOC)
    parser.prog += ' table'
    parser.add_argument(
        'table', type=common.path, help='CSV with a heading, which is only read.'
    )
    for name, is_required, meaning in (
        ('pid', True, 'the identity of an image'),
        ('fid', True, 'its file, relative to an image root'),
        ('cid', False, 'its camera'),
        ('split', False, 'the part of the data set that it belongs to'),
    ):
        parser.add_argument(
            f'--{name}_column',
            required=is_required,
            metavar='NAME',
            help=f'The column that has {meaning}.',
        )
    add_camera_flag(parser)
    add_image_root_flags(parser)
    add_output_flags(parser, 'PREFIX_SPLIT.csv. Default: that of TABLE.', 'data/')
    return parser


def build_split_parser():
    """Return the argument parser of `make_csv.py split`."""
    parser = common.new_parser(SPLIT_DOC)
    parser.prog += ' split'
    parser.add_argument(
        'csv_file',
        type=common.path,
        help='CSV of the training set, a line `PID,FID` each; it stays as it is.',
    )
    parser.add_argument(
        '--val_pids',
        required=True,
        type=count_or_share,
        help='How many PIDs to hold back: a number, or with a point a share of all '
        '(0.1 of 751 are 75).',
    )
    parser.add_argument(
        '--excluder',
        required=True,
        choices=EXCLUDER_CHOICES,
        help='Which gallery images a query ignores, hence what no match is; it reads '
        'the cameras from the FIDs.',
    )
    parser.add_argument(
        '--seed',
        default=0,
        type=common.non_negative_int,
        help='Of the PIDs and queries drawn: the same seed, the same split.',
    )
    datasets.add_header_flag(parser)
    add_image_root_flags(parser)
    add_output_flags(parser, 'PREFIX_rest.csv. Default: that of CSV_FILE.')
    return parser


def add_camera_flag(parser):
    """Add the flag of cameras that are told by the FIDs to a parser."""
    parser.add_argument(
        '--cid_pattern',
        type=one_group_pattern,
        metavar='REGEX',
        help='Regular expression that finds the camera in an FID, as its one group, '
        "such as '_c([0-9]+)'. The CSVs then have a third column, PID,FID,CAMERA, "
        'which --excluder csv reads.',
    )


def add_image_root_flags(parser):
    """Add the flags of where images are, and may be, which are then looked for."""
    parser.add_argument(
        '--image_root',
        type=common.readable_directory,
        help='Directory that the FIDs are relative to. If it is given, images that are '
        'missing there, or lead out of it, are an error.',
    )
    datasets.add_outside_flag(parser)


def add_output_flags(parser, names, output_dir=None):
    """Add the flags of images that are checked and of where CSVs go to a parser.

    Args:
        parser: of a command.
        names: of the files, for the help.
        output_dir: name of the folder beside this script that they go to; None: they
            go beside the CSV that is read.
    """
    parser.add_argument(
        '--check_images',
        action='store_true',
        help='Decode every image once. If some cannot be read, all are listed and '
        'nothing is written.',
    )
    place = 'that of CSV_FILE' if output_dir is None else f'{output_dir} of this clone'
    parser.add_argument(
        '--output_dir',
        type=common.path,
        help=f'Directory the CSVs are written to; made if need be. Default: {place}.',
    )
    parser.add_argument(
        '--prefix', type=file_prefix, help=f'Start of the file names, {names}'
    )
    common.add_quiet(parser)


def count_or_share(text):
    """argparse type: an int of at least 1, or a float between 0 and 1."""
    if '.' not in text:
        return common.positive_int(text)
    value = common.positive_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(
            f'{text} given; expected a share below 1, or a number without a point'
        )
    return value


def file_prefix(text):
    """argparse type: the start of a file name."""
    if not text or os.path.basename(text) != text:
        raise argparse.ArgumentTypeError(
            f'{text!r} given, the start of a file name expected; see --output_dir'
        )
    return text


def one_group_pattern(text):
    """argparse type: a regular expression with one group."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no regular expression ({error})'
        ) from None
    if pattern.groups != 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} has {pattern.groups} groups, one was expected: '_c([0-9]+)'"
        )
    return pattern


class Output(typing.NamedTuple):
    """Where CSVs go.

    Attributes:
        directory, prefix: of the files PREFIX_SPLIT.csv.
        header: names of the columns, for a first line; None: there is none.
        quiet: whether nothing is printed.
    """

    directory: str
    prefix: str
    header: tuple | None
    quiet: bool


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['split']:
        main_of_split(argv[1:])
    elif argv[:1] == ['table']:
        main_of_table(argv[1:])
    else:
        main_of_layout(argv)


def main_of_layout(argv):
    """List the images of a data set that is laid out in one of the known ways."""
    parser = build_parser()
    near = common.suggest(argv[0], [*COMMANDS, *LAYOUT_CHOICES]) if argv else ''
    if near.endswith(tuple(f' {name}?' for name in COMMANDS)):
        parser.error(f'{argv[0]!r} given{near}')  # Of a layout, the parser says it.
    args = parser.parse_args(argv)
    logger = common.setup_logging()
    layout = importlib.import_module(f'data.{args.layout}')
    listed = layout.read(args.root)
    splits = {
        split: sort_rows(keep_existing(args.root, split, rows))
        for split, rows in listed.items()
    }
    gaps = [*describe_gaps(listed, splits, layout.COMPLETE)]
    if hasattr(layout, 'list_warnings'):
        gaps += layout.list_warnings(args.root, splits)
    for line in gaps:
        logger.warning(f'warning: {line}')
    prefix = args.prefix or csv_prefix(args.layout)
    output = Output(args.output_dir or DATA_DIR, prefix, None, args.quiet)
    splits = add_cameras(splits, args.cid_pattern)
    if args.check_images:
        check_images(splits, args.root, args.quiet)
    write_and_report(splits, output)


def main_of_table(argv):
    """Make the CSVs of a data set that comes as a table."""
    parser = build_table_parser()
    args = parser.parse_args(argv)
    if args.cid_column and args.cid_pattern:
        parser.error('--cid_column and --cid_pattern both tell cameras; give one')
    refuse_check_without_root(parser, args.check_images, args.image_root)
    logger = common.setup_logging()
    columns = _tables.Columns(
        args.pid_column, args.fid_column, args.cid_column, args.split_column
    )
    splits = _tables.read(args.table, columns)
    doubts = [*_tables.describe_unknown(splits), *_holdout.describe_shared(splits)]
    for line in doubts:
        logger.warning(f'warning: {line}')
    splits = add_cameras(splits, args.cid_pattern)
    prefix = args.prefix or stem(args.table)
    output = Output(args.output_dir or DATA_DIR, prefix, None, args.quiet)
    check_not_replaced(args.table, output, splits)
    fids = [row[1] for rows in splits.values() for row in rows]
    check_fids(args.table, fids, args.image_root, args.allow_outside_image_root)
    if args.check_images:
        check_images(splits, args.image_root, args.quiet)
    write_and_report(splits, output)


def main_of_split(argv):
    """Hold identities of a training CSV back for validation."""
    parser = build_split_parser()
    args = parser.parse_args(argv)
    refuse_check_without_root(parser, args.check_images, args.image_root)
    dataset = datasets.read(args.csv_file, args.csv_header, args.image_root)
    allows_outside = args.allow_outside_image_root
    check_fids(args.csv_file, dataset.fids, args.image_root, allows_outside)
    num_pids = len(set(dataset.pids))
    num_val_pids = args.val_pids
    if isinstance(num_val_pids, float):
        num_val_pids = round(num_val_pids * num_pids)
    parts = _holdout.split(dataset, args.excluder, num_val_pids, args.seed)
    splits = take_rows(dataset, parts)
    num_columns = 2 if dataset.cids is None else 3
    output = Output(
        args.output_dir or os.path.dirname(args.csv_file),
        args.prefix or stem(args.csv_file),
        ('pid', 'fid', 'camera')[:num_columns] if args.csv_header else None,
        args.quiet,
    )
    check_not_replaced(args.csv_file, output, splits)
    if args.check_images:
        check_images(splits, args.image_root, args.quiet)
    write_and_report(splits, output)
    if not args.quiet:
        print(f'{parts.num_eligible} of {num_pids} PIDs could have been held back')


def check_fids(csv_file, fids, image_root, allows_outside):
    """Raise InputError if FIDs lead out of an image root, or images are missing there.

    Args:
        csv_file: for the message.
        fids: [N] of str.
        image_root: directory they are relative to, or None: nothing is looked for.
        allows_outside: whether they may lead out of it.
    """
    if image_root is not None:
        datasets.check_inside(csv_file, fids, image_root, allows_outside)
        datasets.check_images_exist(csv_file, fids, image_root)


def stem(filename):
    """Return a file's name without directory and suffix."""
    return os.path.splitext(os.path.basename(filename))[0]


def refuse_check_without_root(parser, checks_images, image_root):
    """Leave with an error if nobody said where the images to be checked are."""
    if checks_images and image_root is None:
        parser.error('--check_images needs --image_root, where the images are')


def take_rows(dataset, parts):
    """Return {split: rows} of a datasets.Dataset and a _holdout.Split of it."""
    columns = [column for column in dataset if column is not None]
    return {
        name: [tuple(column[i] for column in columns) for i in rows]
        for name, rows in (
            ('rest', parts.rest),
            ('val_query', parts.query),
            ('val_gallery', parts.gallery),
        )
    }


def add_cameras(splits, pattern):
    """Return {split: rows} with the cameras that the FIDs tell, if they are asked for.

    Args:
        splits: {split: [(pid, fid), ...]}.
        pattern: compiled, of one group; None: rows stay as they are.

    Raises:
        InputError: it finds no camera in some FIDs; names the first.
    """
    if pattern is None:
        return splits
    fids = [row[1] for rows in splits.values() for row in rows]
    matches = {fid: pattern.search(fid) for fid in fids}
    # Of a group that took no part, or is empty, there is no camera either.
    strangers = [fid for fid, match in matches.items() if not (match and match[1])]
    if strangers:
        raise common.InputError(
            f'no camera in the names of {len(strangers)} of {len(fids)} images (first: '
            f'{strangers[0]}); --cid_pattern {pattern.pattern} does not find it there'
        )
    return {
        split: [(pid, fid, matches[fid][1]) for pid, fid in rows]
        for split, rows in splits.items()
    }


def check_images(splits, image_root, quiet):
    """Decode every image once, and say how large they are.

    Raises:
        InputError: some cannot be read; all are listed.
    """
    logger = common.setup_logging()
    fids = dict.fromkeys(row[1] for rows in splits.values() for row in rows)
    common.start_tensorflow()
    sizes = images.check_all(datasets.join_paths(image_root, fids), logger, quiet)
    if not quiet:
        heights, widths = (
            f'{min(side)} to {max(side)}, median {statistics.median_low(side)}'
            for side in zip(*sizes, strict=True)
        )
        print(f'{len(sizes)} images can be read: height {heights}; width {widths}')


def write_and_report(splits, output):
    """Write the CSVs, and print their counts unless quiet."""
    filenames = write_csvs(splits, output.directory, output.prefix, output.header)
    if not output.quiet:
        report(splits, filenames)


def check_not_replaced(csv_file, output, splits):
    """Raise ValueError if one of the CSVs to write is the one that was read."""
    for split in splits:
        filename = os.path.join(output.directory, f'{output.prefix}_{split}.csv')
        if os.path.realpath(filename) == os.path.realpath(csv_file):
            raise common.InputError(
                f'{filename} is what is read and would be replaced; choose another '
                '--prefix or --output_dir'
            )


def report(splits, filenames):
    """Print how many images, PIDs and, if they are told, cameras every CSV lists."""
    for name, rows in splits.items():
        num_pids = len({row[0] for row in rows})
        cids = {row[2] for row in rows if len(row) == 3}
        cameras = f', {len(cids)} cameras' if cids else ''
        print(f'{filenames[name]}: {len(rows)} images, {num_pids} PIDs{cameras}')


def keep_existing(root, split, rows):
    """Return the rows whose image exists.

    Args:
        root: directory the FIDs are relative to.
        split: name of the split, for the message.
        rows: [(pid, fid), ...].

    Raises:
        FileNotFoundError: not a single one exists.
    """
    existing = [row for row in rows if os.path.isfile(os.path.join(root, row[1]))]
    if not existing:
        raise common.MissingFileError(
            f'none of the {len(rows)} {split} images exists under {root}'
            + (f' (first: {rows[0][1]})' if rows else '')
        )
    return existing


def sort_rows(rows):
    """Return the rows in the order of their CSV lines' bytes, like `LC_ALL=C sort`.

    Raises:
        ValueError: a name is not UTF-8, which a CSV could not hold.
    """
    try:
        return sorted(rows, key=lambda row: ','.join(row).encode('utf-8'))
    except UnicodeEncodeError as error:
        raise common.InputError(
            f'the name {error.object!r} is not UTF-8; rename it'
        ) from None


def describe_gaps(listed, splits, complete):
    """Yield a line for each way in which the data set is not the published one.

    Args:
        listed: {split: rows}, as the layout read them.
        splits: {split: rows} whose images exist.
        complete: {split: number of images} of the complete data set.
    """
    for split, rows in listed.items():
        missing = sorted(set(rows).difference(splits[split]))
        if missing:
            yield (
                f'{len(missing)} of {len(rows)} listed {split} images are missing '
                f'(first: {missing[0][1]}); the CSV leaves them out'
            )
    for split, expected in complete.items():
        found = len(splits.get(split, ()))
        if found != expected:
            yield (f'{split} has {found} images, the complete data set has {expected}')


def write_csvs(splits, output_dir, prefix, header=None):
    """Write one CSV per split, all or none, and return {split: file name}.

    Args:
        splits: {split: rows}.
        output_dir, prefix: of the files.
        header: names of the columns, for a first line; None: there is none.
    """
    filenames = {
        split: os.path.join(output_dir, f'{prefix}_{split}.csv') for split in splits
    }
    with contextlib.ExitStack() as stack:
        for split, rows in splits.items():
            temporary = stack.enter_context(common.complete_file(filenames[split]))
            with open(temporary, 'w', encoding='utf-8', newline='') as file:
                writer = csv.writer(file, lineterminator='\n')
                writer.writerows([*([header] if header else []), *rows])
    return filenames


if __name__ == '__main__':
    common.run(main)
