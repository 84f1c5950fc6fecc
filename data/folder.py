"""Any data set with one sub-folder per identity.

    cat/1.jpg, dog/a.png, ...                 one split, named all
    train/cat/1.jpg, test/dog/a.png, ...      one split per folder

The sub-folder's name is the PID. Images may lie deeper in it (`cat/monday/1.jpg`).
If every folder under the root is named train, val, query, gallery or test, they are
splits; otherwise each is an identity. Sub-folders without images are no identities,
and hidden ones are left alone.

Source: ours; the layout of torchvision's ImageFolder, among others.
"""

import os

import common
from data import _folders

COMPLETE = {}

SPLIT_NAMES = {'train', 'val', 'query', 'gallery', 'test'}


def read(root):
    """Return the rows of each split; see data/__init__.py.

    Raises:
        ValueError: no images at all, or some outside of any identity's folder.
    """
    names = list_folders(root)
    if names and SPLIT_NAMES.issuperset(names):
        refuse_loose_images(root)
        return {name: read_identities(root, name) for name in names}
    return {'all': read_identities(root, '.')}


def list_folders(directory):
    """Return the sorted names of the visible folders in `directory`."""
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if e.is_dir() and e.name[0] != '.')


def refuse_loose_images(directory):
    """Raise ValueError if images lie directly in `directory`: whose would they be?"""
    loose = sorted(name for name in os.listdir(directory) if _folders.is_image(name))
    if loose:
        raise common.InputError(
            f'{directory} holds {len(loose)} image(s) that belong to no identity '
            f'(first: {loose[0]}); expected one sub-folder per identity'
        )


def read_identities(root, folder):
    """Return the (pid, fid) of all images in the identities' folders of one split."""
    directory = os.path.normpath(os.path.join(root, folder))
    refuse_loose_images(directory)
    rows = [
        (pid, os.path.relpath(filename, root).replace(os.sep, '/'))
        for pid in list_folders(directory)
        for filename in walk_images(os.path.join(directory, pid))
    ]
    if not rows:
        raise common.InputError(
            f'{directory} holds no images; expected one sub-folder per identity'
        )
    return rows


def walk_images(directory):
    """Yield the paths of all images at any depth, except in hidden folders."""
    for where, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if name[0] != '.']
        for name in names:
            if _folders.is_image(name):
                yield os.path.join(where, name)
