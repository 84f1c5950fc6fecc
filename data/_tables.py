"""Data sets that come as a table: a CSV with a heading, whatever its columns."""

import collections
import csv
import os
import re
import typing

import common
import datasets

# Tried in this order: the first that gives all columns asked for is taken.
DELIMITERS = (',', ';', '\t')

# What tables write where nobody knows who it is: hardly a single identity.
UNKNOWN = re.compile(r'unknown|unidentified|unlabell?ed|nan|none|null|n/?a|\?', re.I)


class Columns(typing.NamedTuple):
    """The names of a table's columns.

    Attributes:
        pid, fid: of identity and image file.
        cid: of the camera, or None.
        split: of the part of the data set that an image belongs to, or None.
    """

    pid: str
    fid: str
    cid: str | None = None
    split: str | None = None


def read(filename, columns):
    """Read a table: the rows of each split, in the table's order.

    Args:
        filename: CSV, UTF-8, with commas, semicolons or tabs, and a heading.
        columns: Columns.

    Returns:
        {split: [(pid, fid) or (pid, fid, cid), ...]}, in order of appearance; without
        a column of splits, the one is named all.

    Raises:
        InputError: a column or a field is missing, a split cannot be part of a file
            name, or an image has two PIDs.
    """
    delimiter = choose_delimiter(filename, columns)
    rows, lines = datasets.read_rows(filename, delimiter, 'fields as in its heading')
    heading = [name.strip() for name in rows.pop(0)]
    lines.pop(0)
    wanted = [heading.index(name) for name in columns if name is not None]
    datasets.check_fields(rows, lines, wanted, filename)
    splits: dict = {}
    for row, line in zip(rows, lines, strict=True):
        split = 'all'
        if columns.split is not None:
            split = row[heading.index(columns.split)]
            check_split(split, f'{filename}: line {line}')
        names = [name for name in columns[:3] if name is not None]
        fields = tuple(row[heading.index(name)] for name in names)
        splits.setdefault(split, []).append(fields)
    pids, fids = ([row[heading.index(c)] for row in rows] for c in columns[:2])
    datasets.check_labels(pids, fids, lambda row: f'line {lines[row]} of {filename}')
    return splits


def choose_delimiter(filename, columns):
    """Return what separates the fields of a table whose heading has all columns.

    Raises:
        InputError: there is no such heading; names what it has.
    """
    datasets.check_is_file(filename)
    with open(filename, encoding='utf-8-sig', errors='replace', newline='') as file:
        line = file.readline().rstrip('\r\n')
    headings = []
    for delimiter in DELIMITERS:
        names = next(csv.reader([line], delimiter=delimiter), [])
        headings.append([name.strip() for name in names])
        wanted = [name for name in columns if name is not None]
        if all(headings[-1].count(name) == 1 for name in wanted):
            return delimiter
    heading = max(headings, key=len)
    missing = [
        (flag, name)
        for flag, name in columns._asdict().items()
        if name is not None and heading.count(name) != 1
    ]
    flag, name = missing[0]
    problem, near = f'has no column {name!r}', common.suggest(name, heading)
    if name in heading:
        problem, near = f'has more than one column {name!r}', ''
    raise common.InputError(
        f'{filename} {problem} for --{flag}_column; its first line has '
        f'{", ".join(heading) or "nothing"}{near}'
    )


def check_split(split, place):
    """Raise InputError if the name of a split cannot be part of a file name."""
    if os.path.basename(split) != split or '\0' in split:
        raise common.InputError(
            f'{place}: {split!r} is the name of a split, but cannot be part of a file '
            'name; check --split_column'
        )


def describe_unknown(splits):
    """Return warnings of PIDs that seem to stand for nobody in particular, a list.

    Args:
        splits: {split: rows}, as read() returns them.
    """
    counts = collections.Counter(row[0] for rows in splits.values() for row in rows)
    return [
        f'{count} image(s) have the PID {pid!r}, one identity like any other; remove '
        'their lines if they show several'
        for pid, count in sorted(counts.items())
        if UNKNOWN.fullmatch(pid)
    ]
