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
"""

import argparse
import contextlib
import csv
import importlib
import os

import common
from data import LAYOUT_CHOICES

DATA_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'data')


def build_parser():
    """Return the argument parser."""
    parser = common.new_parser(__doc__)
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
    parser.add_argument(
        '--output_dir',
        type=common.path,
        default=DATA_DIR,
        help='Directory the CSVs are written to; made if need be.',
    )
    parser.add_argument(
        '--prefix',
        type=file_prefix,
        help='Start of the file names, PREFIX_SPLIT.csv. Default: the layout.',
    )
    return parser


def file_prefix(text):
    """argparse type: the start of a file name."""
    if not text or os.path.basename(text) != text:
        raise argparse.ArgumentTypeError(
            f'{text!r} given, the start of a file name expected; see --output_dir'
        )
    return text


def main(argv=None):
    args = build_parser().parse_args(argv)
    logger = common.setup_logging()
    layout = importlib.import_module(f'data.{args.layout}')
    listed = layout.read(args.root)
    splits = {
        split: sort_rows(keep_existing(args.root, split, rows))
        for split, rows in listed.items()
    }
    for line in describe_gaps(listed, splits, layout.COMPLETE):
        logger.warning('warning: %s', line)
    filenames = write_csvs(splits, args.output_dir, args.prefix or args.layout)
    for split, rows in splits.items():
        num_pids = len({pid for pid, _ in rows})
        print(f'{filenames[split]}: {len(rows)} images, {num_pids} PIDs')


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
        raise FileNotFoundError(
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
        raise ValueError(f'the name {error.object!r} is not UTF-8; rename it') from None


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


def write_csvs(splits, output_dir, prefix):
    """Write one CSV per split, all or none, and return {split: file name}."""
    filenames = {
        split: os.path.join(output_dir, f'{prefix}_{split}.csv') for split in splits
    }
    with contextlib.ExitStack() as stack:
        for split, rows in splits.items():
            temporary = stack.enter_context(common.complete_file(filenames[split]))
            with open(temporary, 'w', encoding='utf-8', newline='') as file:
                csv.writer(file, lineterminator='\n').writerows(rows)
    return filenames


if __name__ == '__main__':
    common.run(main)
