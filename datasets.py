"""Data set CSVs: which image shows whom, and where it lies. The one reader of all.

    PID,FID              0002,bounding_box_train/0002_c1s1_000451_03.jpg
    PID,FID,CAMERA       7,lobby/cat.jpg,2

Python's own csv module: loading pandas would take a third of the time that all of
Market-1501 is ranked in.
"""

import argparse
import csv
import functools
import itertools
import os
import re
import shlex
import sys
import typing
from collections.abc import Callable, Iterable, Sequence

import numpy as np

import common
import data
from excluders import EXCLUDER_CHOICES

# What columns of identities and of image files are called by others: a first line that
# has one of both is a heading.
PID_NAME = re.compile('pid|id|identity|(person|individual|vehicle|class)(_id)?|label')
FID_NAME = re.compile('fid|path|photo|(file|image|img)_?(name|path)?')

# Characters read at once, in whole lines.
BLOCK_SIZE = 2**16

# What `make_csv.py split` appends to the name of the CSV that it splits.
HOLDOUT_PARTS = ('rest', 'val_query', 'val_gallery')


class Dataset(typing.NamedTuple):
    """The images of a CSV, in its order.

    Attributes:
        pids: object array [N] of str.
        fids: object array [N] of str, files relative to the image root.
        cids: object array [N] of str, cameras; None: the CSV has no such column.
    """

    pids: np.ndarray
    fids: np.ndarray
    cids: np.ndarray | None = None

    def select(self, rows: slice | Sequence[int] | np.ndarray) -> 'Dataset':
        """Return the Dataset of some rows, a slice or indices."""
        cids = None if self.cids is None else self.cids[rows]
        return Dataset(self.pids[rows], self.fids[rows], cids)


def add_header_flag(group: argparse._ActionsContainer) -> None:
    """Add --csv_header, which every command that reads data set CSVs has."""
    group.add_argument(
        '--csv_header',
        action='store_true',
        help='The first line of every CSV names the columns. With the names pid, fid '
        'and camera, columns may come in any order; other columns are ignored.',
    )


def read(
    csv_file: str, has_header: bool = False, image_root: str | None = None
) -> Dataset:
    """Read a data set's CSV: PID,FID or PID,FID,CAMERA in every row.

    Every field is kept as text: identity `0002`, `NA` and `#7` stay what they are.

    Args:
        csv_file: path, UTF-8.
        has_header: whether the first line names the columns. If it names both `pid`
            and `fid`, it decides which is which, and a column `camera` is the camera;
            all others are ignored. Otherwise it is skipped.
        image_root: directory of the images where it is known, for the message that
            tells how to make the file.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is a directory or a pipe.
        InputError: a row has another number of fields, or an empty one, or is not
            UTF-8; the message names the line. Or the first line is a heading and
            has_header says otherwise.
    """
    check_is_file(csv_file, image_root)
    dataset = read_quickly(csv_file, has_header)
    return read_carefully(csv_file, has_header) if dataset is None else dataset


def read_quickly(csv_file: str, has_header: bool) -> Dataset | None:
    """Return what read_carefully returns, in a quarter of its time, or None.

    None stands for what has to be looked at again: quotes, lines of different lengths,
    and all faults.
    """
    with open(csv_file, encoding='utf-8-sig', newline='') as file:
        try:
            line = file.readline()
            first = line.rstrip('\r\n').split(',')
            columns = choose_columns(first) if has_header else None
            if '"' in line or (columns is None and len(first) not in (2, 3)):
                return None
            blocks = iter(functools.partial(file.readlines, BLOCK_SIZE), [])
            if not has_header:
                blocks = itertools.chain([[line]], blocks)
            table = split_lines(blocks, len(first), columns or range(len(first)))
        except UnicodeDecodeError:
            return None
    if table is None:
        return None
    check_heading(first, has_header, csv_file)
    return Dataset(*map(to_object_array, table))


def split_lines(
    blocks: Iterable[list[str]], width: int, columns: Sequence[int]
) -> list[list[str]] | None:
    """Return some columns of a CSV's lines, lists [N] of str; None unless all is well.

    Args:
        blocks: lists of lines.
        width: fields that each line must have.
        columns: the numbers of those wanted; no field in them may be empty.
    """
    table: list[list[str]] = [[] for _ in columns]
    for lines in blocks:
        text = ''.join(lines).replace('\r\n', '\n').removesuffix('\n')
        # What is longer may have a field that Python's csv refuses.
        if '"' in text or '\r' in text or len(text) > csv.field_size_limit():
            return None
        # The end of a line becomes a field of its own: are they where they belong?
        fields = text.replace('\n', ',\n,').split(',')
        if fields[width :: width + 1] != ['\n'] * (len(lines) - 1):
            return None
        if len(fields) != (width + 1) * len(lines) - 1:
            return None
        for column, number in zip(table, columns, strict=True):
            wanted = fields[number :: width + 1]
            if '' in wanted:
                return None
            column += wanted
    return table if table[0] else None


def read_carefully(csv_file: str, has_header: bool) -> Dataset:
    """Return the Dataset of a CSV, or raise the InputError that names what is wrong."""
    rows, lines = read_rows(csv_file)
    columns: Sequence[int] | None = None
    if rows:
        check_heading(rows[0], has_header, csv_file)
    if has_header and rows:
        columns = choose_columns(rows.pop(0))
        lines.pop(0)
    check_fields(rows, lines, columns, csv_file)
    if columns is None:
        columns = range(len(rows[0]))
    return Dataset(*(to_object_array([row[i] for row in rows]) for i in columns))


def check_is_file(csv_file: str, image_root: str | None = None) -> None:
    """Raise FileError, which says what to do, unless a data set's CSV is a file.

    Args:
        csv_file: path, as it was given.
        image_root: directory of the images, where it is known.
    """
    if not csv_file:
        raise common.FileError(
            "'' given as the CSV of a data set, a file name was expected; is a shell "
            'variable not set?'
        )
    if os.path.isdir(csv_file):
        raise common.FileError(
            f'{csv_file} is a directory, the CSV of a data set was expected; '
            f'`python make_csv.py folder {shlex.quote(csv_file)}` makes one of a '
            'folder per identity'
        )
    if os.path.exists(csv_file) and not os.path.isfile(csv_file):
        raise common.FileError(
            f'{csv_file} is a pipe or a device, the CSV of a data set was expected; '
            'write it to a file, which can be read again'
        )
    if not os.path.exists(csv_file):
        raise common.MissingFileError(
            f'{csv_file} does not exist; {how_to_make(csv_file, image_root)}'
        )


def how_to_make(csv_file: str, image_root: str | None = None) -> str:
    """Return what to do about a CSV that is missing, as the end of a message.

    Args:
        csv_file: path; its name tells a data set that make_csv.py knows, or a part.
        image_root: directory of the images, where it is known.
    """
    directory, name = os.path.split(csv_file)
    stem = name.removesuffix('.csv')
    layout = data.find_layout(stem)
    if layout is not None:
        root = f'DIRECTORY_OF_{layout}' if image_root is None else image_root
        words = ['python', 'make_csv.py', layout, root]
        if os.path.realpath(directory) != os.path.realpath(data.__path__[0]):
            words += ['--output_dir', directory or '.']
        return f'make it with: {shlex.join(words)}'
    for part in HOLDOUT_PARTS:
        parent = stem.removesuffix(f'_{part}')
        if parent != stem:
            layout = data.find_layout(parent)
            known = layout is not None and layout in EXCLUDER_CHOICES
            source = shlex.quote(os.path.join(directory, f'{parent}.csv'))
            choices = f'100 --excluder {layout}' if known else '0.5 --excluder diagonal'
            return (
                f'make it with: python make_csv.py split {source} --val_pids {choices}'
            )
    return 'expected the CSV of a data set, see `python make_csv.py --help`'


def check_heading(first: list, has_header: bool, csv_file: str) -> None:
    """Raise InputError if the first line is a heading, or none, against what was said.

    Args:
        first: its fields, list of str.
        has_header: whether it was said to name the columns.
        csv_file: for the message.
    """
    names = [name.strip().lower() for name in first]
    line = f'{csv_file}: the first line, {",".join(first)},'
    is_ours = choose_columns(first) is not None
    if not has_header:
        if is_ours:
            raise common.InputError(f'{line} looks like a heading; add --csv_header')
        if all(any(map(known.fullmatch, names)) for known in (PID_NAME, FID_NAME)):
            raise common.InputError(
                f'{line} looks like a heading; add --csv_header if the columns are '
                'PID,FID or PID,FID,CAMERA, else choose them with `python make_csv.py '
                'table`'
            )
        return
    if is_ours or len(names) < 2:
        return
    if FID_NAME.fullmatch(names[0]) and PID_NAME.fullmatch(names[1]):
        raise common.InputError(
            f'{line} looks like FID,PID, but the columns of a heading without pid and '
            'fid are taken as PID,FID; choose them with `python make_csv.py table`'
        )
    if re.search(r'\.(bmp|gif|jpe?g|png|webp)$', names[1]):
        raise common.InputError(
            f'{line} looks like an image, no heading; leave --csv_header out'
        )


def read_rows(
    csv_file: str, delimiter: str = ',', wanted: str = 'two fields, PID,FID'
) -> tuple[list, list]:
    """Return the rows of a CSV file, and the number of the line that each ends in.

    Args:
        csv_file: path.
        delimiter: between two fields.
        wanted: what is expected of a line, for the message.

    Raises:
        InputError: a line is not UTF-8, or no CSV.
    """
    rows, lines = [], []
    with open(csv_file, encoding='utf-8-sig', newline='') as file:
        # Strict: no quote is left open.
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                rows.append(row)
                lines.append(reader.line_num)
        except UnicodeDecodeError as error:
            number = find_line_that_is_not_utf8(csv_file)
            raise common.InputError(
                f'{csv_file}: line {number} is not UTF-8; save the file as UTF-8'
            ) from error
        except csv.Error as error:
            raise common.InputError(
                f'{csv_file}: line {reader.line_num} is no CSV ({error}); expected '
                f'{wanted}'
            ) from error
    return rows, lines


def find_line_that_is_not_utf8(csv_file: str) -> int:
    """Return the number of the first line of a file that is not UTF-8, from 1."""
    with open(csv_file, 'rb') as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode('utf-8')
            except UnicodeDecodeError:
                return number
    raise AssertionError(csv_file)


def choose_columns(header: list) -> list | None:
    """Return the columns of PID, FID and, if named, camera; None if not named so."""
    names = [name.strip().lower() for name in header]
    if 'pid' not in names or 'fid' not in names:
        return None
    return [names.index(name) for name in ('pid', 'fid', 'camera') if name in names]


def check_fields(
    rows: list, lines: list, columns: Sequence[int] | None, csv_file: str
) -> None:
    """Raise InputError naming the first row without the fields that are needed.

    Args:
        rows: list [N] of lists of str.
        lines: list [N] of int, their lines.
        columns: the columns needed; None: all, which are two or three.
        csv_file: for the message.
    """
    width = 3 if rows and columns is None and len(rows[0]) == 3 else 2
    wanted = 'three fields, PID,FID,CAMERA' if width == 3 else 'two fields, PID,FID'
    if not rows:
        raise common.InputError(
            f'{csv_file}: the file is empty; expected {wanted} in every line'
        )
    if columns is not None:
        wanted = 'those that the header names'
    for row, line in zip(rows, lines, strict=True):
        if columns is None:
            is_short, fields = len(row) != width, row
        else:
            is_short = len(row) <= max(columns)
            fields = [] if is_short else [row[i] for i in columns]
        if is_short:
            raise common.InputError(
                f'{csv_file}: line {line} has {len(row)} field(s); expected {wanted}'
            )
        if '' in fields:
            raise common.InputError(
                f'{csv_file}: line {line} has an empty field; expected {wanted}'
            )


def read_names(filename: str | None) -> list[str]:
    """Return the image names in a text file, list of str, without blank lines.

    Names that are not UTF-8 survive: os.fsencode gives their bytes back.

    Args:
        filename: of a file with a name a line; None: standard input.
    """
    source = sys.stdin.fileno() if filename is None else filename
    with open(source, 'rb', closefd=filename is not None) as file:
        lines = [line.rstrip(b'\r\n') for line in file]
    return [os.fsdecode(line) for line in lines if line.strip()]


def to_object_array(texts: list) -> np.ndarray:
    """Return an object array [N] of texts, not of NumPy's fixed-width kind."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


def csv_lines(dataset: Dataset) -> list:
    """Return the lines `PID,FID` or `PID,FID,CAMERA` of a data set, list [N] of str."""
    columns = dataset if dataset.cids is not None else dataset[:2]
    return [','.join(row) for row in zip(*columns, strict=True)]


def check_labels(
    pids: np.ndarray, paths: Sequence[str], place: Callable[[int], str]
) -> None:
    """Raise InputError if an image has two PIDs: it would be pushed off itself.

    Args:
        pids: [N] of str.
        paths: [N] of str, the images.
        place: says where a row is, such as 'row 3 of x.csv'.
    """
    # By far the fastest way to see that all is well, and it needs less than a set. Two
    # texts of one hash are only looked at.
    hashes = np.sort(np.fromiter(map(hash, paths), np.int64, len(paths)))
    if (hashes[1:] != hashes[:-1]).all():
        return
    first_of: dict = {}
    doubted: dict = {}  # {path: its first rows of two PIDs}
    for row, path in enumerate(paths):
        first = first_of.setdefault(path, row)
        if pids[first] != pids[row]:
            doubted.setdefault(path, (first, row))
    if doubted:
        path, (first, row) = next(iter(doubted.items()))
        raise common.InputError(
            f'{len(doubted)} image(s) with two PIDs (first: {path} is {pids[first]} in '
            f'{place(first)} and {pids[row]} in {place(row)}); remove the wrong rows'
        )


# --- images ----------------------------------------------------------------------


def check_images_exist(
    csv_file: str,
    fids: np.ndarray,
    image_root: str,
    flag: str = '--image_root',
    first_row: int = 0,
    is_csv: bool = True,
) -> None:
    """Raise FileNotFoundError with count and first three paths of missing images.

    Args:
        csv_file: for the message.
        fids: [N] of str.
        image_root: directory they are relative to.
        flag: that named the directory.
        first_row: number of rows in the CSV before these.
        is_csv: whether it is one, and no list of names.
    """
    missing = find_missing(fids, image_root)
    is_first = not first_row and missing[:1] == [os.path.join(image_root, fids[0])]
    if is_csv and is_first and len(missing) == 1 < len(fids):
        raise common.MissingFileError(
            f'{missing[0]}, named in the first line of {csv_file}, does not exist, all '
            'others do; if that line is a heading, add --csv_header'
        )
    if missing:
        raise common.MissingFileError(
            f'{len(missing)} of {len(fids)} images in {csv_file} are missing '
            f'(first: {", ".join(missing[:3])}); check {flag}'
        )


def find_missing(fids: Sequence[str] | np.ndarray, image_root: str) -> list:
    """Return the paths of the FIDs that are no files, list of str.

    A directory is listed once and no file asked for, which is several times as fast;
    only what is in no list under exactly its name is looked up (`a/../b.jpg`, or
    other capitals where the file system does not care).

    Names are compared by Python's hashes: a set of a million takes twice the time and
    100 MB. That one of a million missing files goes unnoticed here has a chance of
    10^12 / 2^64, below 1 in 10 million; it is then named when it is to be read.
    """
    directories = {fid[: fid.rfind('/') + 1] for fid in fids}  # 'a/' of 'a/b.jpg'.
    there = np.concatenate(
        [hash_files(image_root, directory) for directory in directories]
        or [np.empty(0, np.int64)]
    )
    there.sort()
    hashes = np.fromiter(map(hash, fids), np.int64, len(fids))
    wanted = np.sort(hashes)  # In order: looked up out of order they take 20 times.
    first, last = (np.searchsorted(there, wanted, side) for side in ('left', 'right'))
    unknown = wanted[first == last]
    missing = []
    for row in np.flatnonzero(np.isin(hashes, unknown)).tolist():
        filename = os.path.join(image_root, fids[row])
        if not os.path.isfile(filename):
            missing.append(filename)
    return missing


def hash_files(image_root: str, directory: str) -> np.ndarray:
    """Return the hashes of the FIDs of a directory's files, int64; none if it has none.

    Args:
        image_root: that FIDs are relative to.
        directory: what they begin with, '' or with a slash at its end.
    """
    try:
        with os.scandir(os.path.join(image_root, directory)) as entries:
            hashes = [hash(directory + e.name) for e in entries if e.is_file()]
    except (OSError, ValueError):  # The latter of a name with a NUL.
        hashes = []
    return np.array(hashes, np.int64)


def add_outside_flag(group: argparse._ActionsContainer) -> None:
    """Add --allow_outside_image_root, of every command that reads images by FID."""
    group.add_argument(
        '--allow_outside_image_root',
        action='store_true',
        help='Read images that FIDs lead to outside the image root, by `..`, an '
        "absolute path or a symbolic link. Otherwise they are refused: a stranger's "
        'CSV could name any file.',
    )


def check_inside(
    csv_file: str, fids: Iterable[str], image_root: str, is_allowed: bool = False
) -> None:
    """Raise InputError if FIDs lead out of the image root, or links on their way do.

    Args:
        csv_file: for the message.
        fids: [N] of str.
        image_root: directory they are relative to; may itself be a link.
        is_allowed: whether nothing is refused.

    A directory is resolved and looked through for links once; names are compared.
    """
    if is_allowed:
        return
    root = os.path.join(os.path.realpath(image_root), '')

    @functools.cache
    def outside(directory: str) -> bool | set:
        """Say whether a directory is outside, or return its files that are links."""
        place = os.path.realpath(os.path.join(image_root, directory))
        return not os.path.join(place, '').startswith(root) or list_links(place)

    strangers = []
    for fid in fids:
        if '\0' in fid:
            raise common.InputError(
                f'{csv_file} names {fid!r}, which no file can be called; correct it'
            )
        directory, slash, name = fid.rpartition('/')
        found = outside(directory + slash)
        # `a/..` is a directory, whatever its name looks like.
        if found is True or (found and name in found) or name == '..':
            filename = os.path.realpath(os.path.join(image_root, fid))
            if found is True or not filename.startswith(root):
                strangers.append(fid)
    if strangers:
        raise common.InputError(
            f'{len(strangers)} image(s) in {csv_file} are outside the image root '
            f'{image_root} (first: {strangers[0]}); if you trust that file, add '
            '--allow_outside_image_root'
        )


def list_links(directory: str) -> set:
    """Return the names of the symbolic links in a directory, a set."""
    try:
        with os.scandir(directory) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:
        return set()


def join_paths(image_root: str, fids: Iterable[str]) -> list:
    """Return the image files of FIDs, list [N] of str."""
    prefix = os.path.join(image_root, '')
    return [fid if fid.startswith('/') else prefix + fid for fid in fids]


# --- rows ------------------------------------------------------------------------


def group_rows(pids: Iterable[str]) -> dict[str, np.ndarray]:
    """Return {PID: int64 array of its rows, ascending}, in order of appearance.

    Args:
        pids: [N] of str.
    """
    pids = list(pids)
    codes = number_pids(to_object_array(pids))
    return dict(zip(dict.fromkeys(pids), split_rows(codes), strict=True))


def number_pids(pids: np.ndarray) -> np.ndarray:
    """Return the number of each row's PID in order of appearance, int64 [N].

    Rows of a PID that stand together, as they mostly do, are looked up once.

    Args:
        pids: object array [N] of str.
    """
    is_first = np.ones(len(pids), bool)
    is_first[1:] = pids[1:] != pids[:-1]
    starts = np.flatnonzero(is_first)
    names = pids[starts].tolist()
    codes = {pid: code for code, pid in enumerate(dict.fromkeys(names))}
    numbers = np.fromiter(map(codes.__getitem__, names), np.int64, len(names))
    return np.repeat(numbers, np.diff(starts, append=len(pids)))


def split_rows(codes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each code from 0, a list of int64 arrays, ascending.

    Args:
        codes: int64 [N]; each up to the largest is there.
    """
    order = np.argsort(codes, kind='stable')  # [N]
    ends = np.cumsum(np.bincount(codes)).tolist()
    # Ten times as fast as np.split.
    return [order[i:j] for i, j in zip([0, *ends], ends, strict=False)]
