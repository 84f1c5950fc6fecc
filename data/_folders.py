"""What layouts share when they look at folders: images, and the names of images."""

import os
import re

import common
import images

# The folders of Market-1501, which many later data sets took over.
MARKET_FOLDERS = {
    'train': 'bounding_box_train',
    'query': 'query',
    'test': 'bounding_box_test',
}


def require(root, names):
    """Raise FileNotFoundError unless every one of `names` exists under `root`."""
    missing = [name for name in names if not os.path.exists(os.path.join(root, name))]
    if missing:
        raise common.MissingFileError(
            f'{root} lacks {", ".join(missing)}; expected {", ".join(names)} in it'
        )


def find_first(root, names):
    """Return the first of `names` that exists under `root`.

    For data sets that circulate in more than one form.

    Raises:
        FileNotFoundError: none of them exists.
    """
    for name in names:
        if os.path.exists(os.path.join(root, name)):
            return name
    raise common.MissingFileError(
        f'{root} lacks {names[0]}; expected {" or ".join(names)}'
    )


def read_named_images(root, folders, pattern, example):
    """Read a data set whose splits are folders and whose file names tell the PID.

    Args:
        root: directory of the data set.
        folders: {split: folder under root, with forward slashes}.
        pattern: regular expression that matches the start of every file name and
            whose first group is the PID.
        example: a file name that matches, for the error message.

    Returns:
        {split: [(pid, fid), ...]}, see data/__init__.py.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: a folder has no image, or some image's name does not match.
    """
    require(root, folders.values())
    return {
        split: read_named_folder(root, folder, pattern, example)
        for split, folder in folders.items()
    }


def read_named_folder(root, folder, pattern, example):
    """Return the (pid, fid) of every image in one folder; see read_named_images."""
    listed = os.listdir(os.path.join(root, folder))
    names = [name for name in listed if images.is_image_name(name)]
    if not names:
        raise common.InputError(
            f'{root} has no image in {folder}; expected files like {example} there'
        )
    matches = {name: re.match(pattern, name) for name in names}
    strangers = sorted(name for name, match in matches.items() if match is None)
    if strangers:
        raise common.InputError(
            f'no PID in the names of {len(strangers)} of {len(names)} images in '
            f'{folder} (first: {strangers[0]}); names look like {example}'
        )
    return [(match[1], f'{folder}/{name}') for name, match in matches.items()]
