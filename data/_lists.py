"""What layouts share when a data set comes with lists: text and MATLAB files."""

import os
import zlib

import numpy as np
import scipy.io

import common
from data import _folders

# What SciPy raises on files that are cut off, damaged, of version 7.3, or not MATLAB's.
UNREADABLE = (
    ValueError,
    OSError,
    NotImplementedError,
    zlib.error,
    scipy.io.matlab.MatReadError,
)


def read_table(root, filename, header):
    """Read a text file of fields separated by white space.

    Args:
        root: directory of the data set.
        filename: the list's path under root.
        header: what the columns hold, such as `path pid`. A first line that says
            just this is skipped.

    Returns:
        Non-empty list of lists of str, one per line; blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: a line has another number of fields, or there are no lines.
    """
    _folders.require(root, [filename])
    with open(os.path.join(root, filename), encoding='utf-8') as file:
        lines = [line.split() for line in file]
    columns = header.split()
    for number, fields in enumerate(lines, start=1):
        if fields and len(fields) != len(columns):
            raise common.InputError(
                f'{filename} line {number} has {len(fields)} field(s); expected '
                f'{len(columns)}: {header}'
            )
    table = [fields for fields in lines if fields and fields != columns]
    if not table:
        raise common.InputError(f'{filename} is empty; expected lines of: {header}')
    return table


def load_matlab(root, filename, names):
    """Read variables from a MATLAB file.

    Args:
        root: directory of the data set.
        filename: the file's path under root.
        names: the variables wanted.

    Returns:
        A list of arrays, one per name, without axes of length 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no MATLAB file that SciPy reads, or lacks a variable.
    """
    _folders.require(root, [filename])
    try:
        content = scipy.io.loadmat(os.path.join(root, filename), squeeze_me=True)
    except UNREADABLE as error:
        raise common.InputError(
            f'{filename} is not readable as MATLAB: {error}'
        ) from error
    missing = [name for name in names if name not in content]
    if missing:
        raise common.InputError(
            f'{filename} lacks {", ".join(missing)}; expected {", ".join(names)}'
        )
    return [np.atleast_1d(content[name]) for name in names]
