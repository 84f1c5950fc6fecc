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

Code shared by layouts sits in modules starting with an underscore. Nothing here
imports TensorFlow. The CSVs that make_csv.py writes into this folder are ignored by
git.
"""

import pkgutil

LAYOUT_CHOICES = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != '_')
)
