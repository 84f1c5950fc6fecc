"""What embed.py can embed: a CSV data set, a folder, a list of files, or one image."""

import logging
import os
import pathlib
import typing
import zlib

import numpy as np

import common
import datasets
import images

STDIN = '-'

# How a text file of image names ends; any other file is a CSV.
LIST_SUFFIX = '.txt'

# How images end that nothing here decodes.
OTHER_SUFFIXES = ('.avif', '.dng', '.heic', '.heif', '.jp2', '.tif', '.tiff')


class Source(typing.NamedTuple):
    """The images to embed.

    Attributes:
        fids: object array [N] of str.
        pids: object array [N] of str, or None where nobody tells.
        image_root: directory that the FIDs are relative to; '' is the current one.
    """

    fids: np.ndarray
    pids: np.ndarray | None
    image_root: str

    def select(self, rows):
        """Return the Source of some rows, a slice."""
        pids = None if self.pids is None else self.pids[rows]
        return Source(self.fids[rows], pids, self.image_root)


def is_data_set(name):
    """Say whether --dataset is a CSV, whose images have PIDs and an image root."""
    return not (
        name == STDIN
        or os.path.isdir(name)
        or name.lower().endswith(LIST_SUFFIX)
        or images.is_image_name(os.path.basename(name))
    )


def default_name(name):
    """Return what --dataset is called in the name of the file of its embeddings."""
    return 'stdin' if name == STDIN else pathlib.Path(os.path.abspath(name)).stem


def read(name, has_header, image_root):
    """Return the Source that --dataset names.

    Args:
        name: of a CSV, a folder, a text file of image names, or an image; or STDIN for
            such names.
        has_header: whether the first line of a CSV names its columns.
        image_root: directory that FIDs are relative to; None: of a CSV it does not
            matter, of a folder it is the folder, otherwise the current directory.

    Raises:
        FileNotFoundError, ValueError: it is missing, wrong or empty.
    """
    if is_data_set(name):
        check_suffix(name)
        dataset = datasets.read(name, has_header, image_root)
        return Source(dataset.fids, dataset.pids, image_root or '')
    if os.path.isdir(name):
        if image_root is not None:
            raise common.InputError(
                f'--dataset {name} is a folder, and its images need no --image_root; '
                'leave it out'
            )
        return Source(datasets.to_object_array(list_images(name)), None, name)
    if images.is_image_name(os.path.basename(name)):
        return Source(datasets.to_object_array([name]), None, image_root or '')
    return Source(datasets.to_object_array(read_list(name)), None, image_root or '')


def check_suffix(name):
    """Raise InputError if what is taken for a CSV is an image of another kind."""
    if os.path.splitext(name)[1].lower() in OTHER_SUFFIXES:
        raise common.InputError(
            f'{name} is no image of a kind that is read '
            f'({", ".join(images.SUFFIXES)}); convert it'
        )


def checksum(source):
    """Return a number that differs where images of Sources differ."""
    fids = '\n'.join(source.fids)
    return zlib.crc32(fids.encode('utf-8', 'surrogateescape'))


def list_images(folder):
    """Return the images in a folder and below it, sorted, relative to it.

    What is hidden is left alone, and so are folders that are links.

    Raises:
        InputError: there are none.
    """
    found, others = [], []
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != '.']
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), folder)
            if images.is_image_name(name):
                found.append(path)
            elif name[0] != '.':
                others.append(path)
    if not found:
        raise common.InputError(
            f'{folder} has no images; expected files {", ".join(images.SUFFIXES)} in '
            'it or below it'
        )
    if others:
        logging.getLogger(common.LOGGER).warning(
            f'{len(others)} other files in {folder} are left alone (first: '
            f'{common.one_line(min(others))}); images end in '
            f'{", ".join(images.SUFFIXES)}'
        )
    return sorted(found)


def read_list(name):
    """Return the image names in a text file, or of stdin, one a line, list of str.

    Raises:
        FileNotFoundError, InputError: there is no such file, or no name in it.
    """
    found = datasets.read_names(None if name == STDIN else name)
    if not found:
        what = 'stdin' if name == STDIN else name
        raise common.InputError(f'{what} names no images; expected a file name a line')
    return found
