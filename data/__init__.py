"""Layouts of data sets on disk, one public module per choice of make_csv.py.

Each module names the source of its facts in its docstring and defines

    read(root) -> {split: [(pid, fid), ...]}
        `root` is the directory the user downloaded; `pid` is text, exactly as the
        data set writes it; `fid` is the image's path relative to `root`, with forward
        slashes. Splits are named train, query and test wherever the data set has
        them. Rows come in any order, and an image that a list of the data set names
        need not exist: make_csv.py sorts, checks and counts. Raises FileNotFoundError
        where a folder or list is missing, and ValueError where its content is not
        what was expected, naming both.

    COMPLETE: {split: number of images in the complete, published data set}; empty
        where there is no such number.

and may define

    list_warnings(root, splits) -> list of str, what a user should know of how read()
        took `root` as `splits`: what it left out, and what may be meant otherwise; one
        line for each kind, with its count and first examples.

Code shared by layouts sits in modules starting with an underscore. Nothing here
imports TensorFlow. The CSVs that make_csv.py writes into this folder are ignored by
git.
"""

import pkgutil
import re

LAYOUT_CHOICES = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != '_')
)

# What the names of a layout's CSVs begin with, where that is not its own: here those of
# the original code, which comes with its CSVs.
CSV_PREFIXES = {'duke': 'dukeMTMC'}

# What follows it before the split, as a regular expression, where anything does.
KINDS = {'cuhk03': '_[a-z0-9_]+', 'cuhk03_classic': '_[a-z0-9_]+'}


def csv_prefix(layout):
    """Return what the names of a layout's CSVs begin with."""
    return CSV_PREFIXES.get(layout, layout)


def find_layout(stem):
    """Return the layout that a CSV's name, such as market1501_train, is of, or None."""
    for layout in reversed(LAYOUT_CHOICES):  # cuhk03_classic before cuhk03.
        start = csv_prefix(layout) + KINDS.get(layout, '')
        if layout != 'folder' and re.fullmatch(f'{start}_(train|query|test)', stem):
            return layout
    return None
