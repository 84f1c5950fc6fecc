"""Any data set with one sub-folder per identity.

    cat/1.jpg, dog/a.png, ...                 one split, named all
    train/cat/1.jpg, test/dog/a.png, ...      one split per folder

The sub-folder's name is the PID. Images may lie deeper in it (`cat/monday/1.jpg`).
If every folder under the root that holds images is named train, val, query, gallery or
test, they are splits; otherwise each is an identity. Sub-folders without images are no
identities, and hidden files and folders are left alone, as are folders deeper in that
are links: all of this is counted and named, and so are folders that seem to be
something else than identities.

Source: ours; the layout of torchvision's ImageFolder, among others.
"""

import collections
import os
import typing

import common
import images
from data import _holdout

COMPLETE = {}

SPLIT_NAMES = {'train', 'val', 'query', 'gallery', 'test'}

# How parts of data sets are called elsewhere, as identities hardly are; lower case.
LIKE_SPLITS = SPLIT_NAMES | {
    *('training', 'valid', 'validation', 'dev', 'probe', 'testing'),
}

NUM_NAMED = 3  # Examples of what was left out.


class Found(typing.NamedTuple):
    """What lies in an identity's folder, at any depth; paths.

    Attributes:
        images: files that are read.
        others: files of other formats.
        hidden: files and folders whose names begin with a dot.
        links: links to folders, which may lead in a circle.
    """

    images: list
    others: list
    hidden: list
    links: list


def read(root):
    """Return the rows of each split; see data/__init__.py.

    Raises:
        ValueError: no images at all, or some outside of any identity's folder.
    """
    splits = list_splits(root)
    if splits is None:
        return {'all': read_identities(root, '.')}
    refuse_loose_images(root)
    return {name: read_identities(root, name) for name in splits}


def list_splits(root):
    """Return the names of the folders that are splits, or None: they are identities."""
    names = list_folders(root)
    splits = [name for name in names if name in SPLIT_NAMES]
    # A folder of notes, or what an archiver left, says nothing of the others.
    others = (name for name in names if name not in SPLIT_NAMES)
    if any(look_into(os.path.join(root, name)).images for name in others):
        return None
    return splits or None


def list_folders(directory):
    """Return the sorted names of the visible folders in `directory`."""
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if e.is_dir() and e.name[0] != '.')


def refuse_loose_images(directory):
    """Raise ValueError if images lie directly in `directory`: whose would they be?"""
    loose = sorted(name for name in os.listdir(directory) if images.is_image_name(name))
    if loose:
        raise common.InputError(
            f'{directory} holds {len(loose)} image(s) that belong to no identity '
            f'(first: {loose[0]}); expected one sub-folder per identity'
        )


def read_identities(root, folder):
    """Return the (pid, fid) of all images in the identities' folders of one split."""
    directory = os.path.normpath(os.path.join(root, folder))
    refuse_loose_images(directory)
    found = find_in_identities(directory)
    rows = [
        (pid, to_fid(root, filename))
        for pid, files in found.items()
        for filename in files.images
    ]
    if not rows:
        others = [name for files in found.values() for name in files.others]
        formats = f' ({count_formats(others)})' if others else ''
        raise common.InputError(
            f'{directory} holds no images that can be read{formats}; expected one '
            f'sub-folder per identity with files {", ".join(images.SUFFIXES)}'
        )
    return rows


def to_fid(root, filename):
    """Return a file's path relative to the root, with forward slashes."""
    return os.path.relpath(filename, root).replace(os.sep, '/')


def find_in_identities(directory):
    """Return {PID: Found} of one split."""
    return {
        pid: look_into(os.path.join(directory, pid)) for pid in list_folders(directory)
    }


def look_into(directory, is_deep=True):
    """Return the Found of a folder; unless is_deep, of what lies right in it alone."""
    found = Found([], [], [], [])
    for where, folders, names in os.walk(directory):
        for name in names:
            is_image = images.is_image_name(name)
            kind = found.images if is_image else found.others
            (found.hidden if name[0] == '.' else kind).append(os.path.join(where, name))
        for name in folders:
            path = os.path.join(where, name)
            if name[0] == '.':
                found.hidden.append(path)
            elif is_deep and os.path.islink(path):  # os.walk does not follow it.
                found.links.append(path)
        folders[:] = [name for name in folders if is_deep and name[0] != '.']
    return found


def list_warnings(root, splits):
    """Return what a user should know of how root was read; see data/__init__.py."""
    return [
        *describe_skipped(root),
        *describe_doubts(root, splits.get('all', ())),
        *_holdout.describe_shared(splits),
    ]


def describe_skipped(root):
    """Return what read() has left out, a line for each kind."""
    splits = list_splits(root)
    directories = (
        [root] if splits is None else [os.path.join(root, name) for name in splits]
    )
    found, empty = [], []
    for directory in directories:
        found.append(look_into(directory, is_deep=False))
        for pid, files in find_in_identities(directory).items():
            found.append(files)
            if not files.images:
                empty.append(os.path.join(directory, pid))
    if splits is not None:
        found.append(look_into(root, is_deep=False))
        for name in set(list_folders(root)).difference(splits):  # None has an image.
            found.append(look_into(os.path.join(root, name)))
            empty.append(os.path.join(root, name))
    others = [name for files in found for name in files.others]
    hidden = [name for files in found for name in files.hidden]
    links = [name for files in found for name in files.links]
    return [
        f'skipped {len(paths)} {what} (first: {name_first(root, paths)})'
        for what, paths in (
            (f'file(s) of other formats, {count_formats(others)}', others),
            ('folder(s) without an image, which are no identities', empty),
            ('hidden file(s) or folder(s)', hidden),
            ('link(s) to folders', links),
        )
        if paths
    ]


def describe_doubts(root, rows):
    """Return warnings of folders that seem to be something else than identities.

    Args:
        root: directory of the data set.
        rows: [(pid, fid), ...], each PID being the name of a folder in root.
    """
    pids = sorted({pid for pid, _ in rows})
    like_splits = [pid for pid in pids if pid.lower() in LIKE_SPLITS]
    if like_splits:
        stranger = next(pid for pid in pids if pid not in SPLIT_NAMES)
        names = ', '.join(sorted(SPLIT_NAMES))
        return [
            f'{", ".join(like_splits)}: taken for identities, as {stranger} is none of '
            f'{names}; if they are parts of the data set, rename it or move it away'
        ]
    folders = {os.path.dirname(fid) for _, fid in rows}
    if len(pids) == 1 and len(folders) > 1:
        return [
            f'one identity only, {pids[0]}, with images in {len(folders)} folders; if '
            f'these are the identities, give {os.path.join(root, pids[0])}'
        ]
    return []


def count_formats(filenames):
    """Return how many files have which suffix, as a text: '3 .heic, 1 .txt'."""
    suffixes = (os.path.splitext(name)[1].lower() for name in filenames)
    counts = collections.Counter(suffix or 'without suffix' for suffix in suffixes)
    return ', '.join(f'{count} {suffix}' for suffix, count in counts.most_common())


def name_first(root, paths):
    """Return the first paths below the root, sorted, as a text."""
    return ', '.join(to_fid(root, path) for path in sorted(paths)[:NUM_NAMED])
