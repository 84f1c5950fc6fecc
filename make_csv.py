#!/usr/bin/env python3
"""Write the CSV files of a downloaded data set: one `PID,FID` row per image.

    python make_csv.py market1501 ~/Market-1501-v15.09.15

writes market1501_train.csv, market1501_query.csv and market1501_test.csv into the
folder data/ beside this script, and prints how many images and PIDs each lists. Rows
are sorted by byte value; paths are relative to the data set, which train.py and
embed.py are told by --image_root.

A data set that is not complete is no error, but is reported with its counts; a folder
or list that is missing is one, and then no file is touched. What each layout expects
is told in docs/datasets.md; `folder` takes one sub-folder per identity.

    python make_csv.py split data/market1501_train.csv --val_pids 100 \\
        --excluder market1501

holds identities of a training CSV back for validation; see `make_csv.py split --help`.
"""

import argparse
import contextlib
import csv
import importlib
import os
import sys

import common
import datasets
from data import LAYOUT_CHOICES, _holdout
from excluders import EXCLUDER_CHOICES

SPLIT_DOC = """Hold identities of a training CSV back for validation.

    python make_csv.py split data/market1501_train.csv --val_pids 100 \\
        --excluder market1501

writes market1501_train_rest.csv (to train on), market1501_train_val_query.csv and
market1501_train_val_gallery.csv into the folder data/, and prints their counts. No PID
is in both the rest and the validation. As in Market-1501, a PID gives one query per
camera, at most half of its images; the gallery gets the others, so that every query has
a match there that the excluder does not ignore.
"""

DATA_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'data')


def build_parser():
    """Return the argument parser."""
    parser = common.new_parser(__doc__)
    # `split` is no choice here: main has taken it to build_split_parser.
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
    add_output_flags(parser, 'PREFIX_SPLIT.csv. Default: the layout.')
    return parser


def build_split_parser():
    """Return the argument parser of `make_csv.py split`."""
    parser = common.new_parser(SPLIT_DOC)
    parser.prog += ' split'
    parser.add_argument(
        'csv_file',
        type=common.readable_file,
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
    add_output_flags(parser, 'PREFIX_rest.csv. Default: that of CSV_FILE.')
    return parser


def add_output_flags(parser, names):
    """Add the flags of where CSVs go to a parser."""
    parser.add_argument(
        '--output_dir',
        type=common.path,
        default=DATA_DIR,
        help='Directory the CSVs are written to; made if need be.',
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


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['split']:
        args = build_split_parser().parse_args(argv[1:])
        prefix = args.prefix or os.path.splitext(os.path.basename(args.csv_file))[0]
        split(
            args.csv_file,
            args.csv_header,
            args.val_pids,
            args.excluder,
            args.seed,
            args.output_dir,
            prefix,
            args.quiet,
        )
    else:
        parser = build_parser()
        near = common.suggest(argv[0], ['split', *LAYOUT_CHOICES]) if argv else ''
        if near.endswith(' split?'):  # Of a layout, the parser says it.
            parser.error(f'{argv[0]!r} given{near}')
        args = parser.parse_args(argv)
        prefix = args.prefix or args.layout
        list_layout(args.layout, args.root, args.output_dir, prefix, args.quiet)


def list_layout(layout_name, root, output_dir, prefix, quiet):
    """Write the CSVs of a layout and, unless quiet, print their counts."""
    logger = common.setup_logging()
    layout = importlib.import_module(f'data.{layout_name}')
    listed = layout.read(root)
    splits = {
        split: sort_rows(keep_existing(root, split, rows))
        for split, rows in listed.items()
    }
    for line in describe_gaps(listed, splits, layout.COMPLETE):
        logger.warning('warning: %s', line)
    filenames = write_csvs(splits, output_dir, prefix)
    if not quiet:
        report(splits, filenames)


def split(csv_file, has_header, val_pids, excluder, seed, output_dir, prefix, quiet):
    """Write the CSVs of a training set split by identity; print their counts.

    Args:
        csv_file: of the training set.
        has_header: whether its first line names the columns; so do the new ones then.
        val_pids: see count_or_share.
        excluder: a module of excluders/.
        seed: non-negative int.
        output_dir, prefix: of the files.
        quiet: whether nothing is printed.
    """
    dataset = datasets.read(csv_file, has_header)
    num_pids = len(set(dataset.pids))
    num_val_pids = val_pids
    if isinstance(val_pids, float):
        num_val_pids = round(val_pids * num_pids)
    parts = _holdout.split(dataset, excluder, num_val_pids, seed)
    columns = [column for column in dataset if column is not None]
    rows = {
        name: [tuple(column[i] for column in columns) for i in part]
        for name, part in (
            ('rest', parts.rest),
            ('val_query', parts.query),
            ('val_gallery', parts.gallery),
        )
    }
    check_not_replaced(csv_file, output_dir, prefix, rows)
    header = ('pid', 'fid', 'camera')[: len(columns)] if has_header else None
    filenames = write_csvs(rows, output_dir, prefix, header)
    if not quiet:
        report(rows, filenames)
        print(f'{parts.num_eligible} of {num_pids} PIDs could have been held back')


def check_not_replaced(csv_file, output_dir, prefix, splits):
    """Raise ValueError if one of the CSVs to write is the one that was read."""
    for split_name in splits:
        filename = os.path.join(output_dir, f'{prefix}_{split_name}.csv')
        if os.path.realpath(filename) == os.path.realpath(csv_file):
            raise common.InputError(
                f'{filename} is the CSV to split and would be replaced; choose another '
                '--prefix or --output_dir'
            )


def report(splits, filenames):
    """Print how many images and PIDs every CSV lists."""
    for name, rows in splits.items():
        num_pids = len({row[0] for row in rows})
        print(f'{filenames[name]}: {len(rows)} images, {num_pids} PIDs')


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
