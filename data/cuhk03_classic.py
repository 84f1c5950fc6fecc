"""CUHK03 under its first protocol: 20 splits of 1367 and 100 pedestrians.

The splits are in the file that the data set is published as; the images have been taken
out of it, into one of two folders, as data/cuhk03.py says:

    cuhk-03.mat or cuhk03_release/cuhk-03.mat
    cuhk03_detected/1_001_1_01.png or images_detected/1_001_1_01.png (labeled likewise)

A name is camera pair, person, camera of the pair, image: the PID is 1_001, for a person
exists in one pair only. Each of 20 splits, detected_01_train and so on, has 100 persons
to test with, and all others to train on. Queries are their images by the first camera
of the pair, the gallery has those by the second; it is scored with one random image of
a person at a time (evaluate.py --single_shot 100), and the scores of 20 nets are
averaged.

cuhk-03.mat is a MATLAB 7.3 file, hence HDF5, whose matrices are transposed: `detected`
and `labeled` are cells of 5 camera pairs, each a cell [persons, 10] of images, empty
where there is none, five of either camera; `testsets` is a cell of 20 matrices
[100, 2], of camera pair and person from 1.

Source: Li et al. 2014, "DeepReID: Deep Filter Pairing Neural Network for Person
Re-Identification", and the data set's README as quoted in
https://github.com/manideep2510/CUHK03_dataset. No copy was at hand to count.
"""

import contextlib
import os

import array_files
import common
from data import _folders

h5py = common.lazy_import('h5py')

# Differ from split to split; nobody has published them.
COMPLETE = {}

MATLAB_FILES = ['cuhk-03.mat', 'cuhk03_release/cuhk-03.mat']
IMAGES_PER_CAMERA = 5


def read(root):
    """Return the rows of 20 splits of either kind of boxes; see data/__init__.py."""
    name = _folders.find_first(root, MATLAB_FILES)
    folders = {}
    for boxes in ('detected', 'labeled'):
        with contextlib.suppress(FileNotFoundError):
            folders[boxes] = _folders.find_first(
                root, [f'cuhk03_{boxes}', f'images_{boxes}']
            )
    if not folders:
        raise common.MissingFileError(
            f'{root} lacks cuhk03_detected; expected the images of {name} in '
            'cuhk03_detected or images_detected, or in those of labeled'
        )
    try:
        with h5py.File(os.path.join(root, name)) as file:
            testsets = read_testsets(file)
            people = {boxes: read_people(file, boxes) for boxes in folders}
    except array_files.DAMAGES as error:
        raise common.InputError(
            f'{name} is not a complete file of CUHK03 ({error}); expected MATLAB 7.3 '
            'with the cells testsets, detected and labeled'
        ) from error
    return {
        f'{boxes}_{number:02}_{split}': rows
        for boxes, folder in folders.items()
        for number, testset in enumerate(testsets, start=1)
        for split, rows in choose_rows(people[boxes], testset, folder, name).items()
    }


def read_testsets(file):
    """Return the persons of each test set: list of sets of (pair, person)."""
    cells = array_files.find_hdf5(file, 'testsets')[:].ravel()
    matrices = [read_cell(file, cell) for cell in cells]
    return [set(zip(*matrix.astype(int).tolist(), strict=True)) for matrix in matrices]


def read_cell(file, reference):
    """Return the array of a cell, once it is known to be in this file."""
    cell = file[reference]
    array_files.check_hdf5(cell, file.filename)
    return cell[:]


def read_people(file, boxes):
    """Return {(pair, person): [numbers of its images, 1 to 10]}, in order."""
    people = {}
    pairs = array_files.find_hdf5(file, boxes)[:].ravel()
    for pair, reference in enumerate(pairs, start=1):
        for person, cells in enumerate(read_cell(file, reference).T, start=1):
            # An empty matrix is stored as its sizes, and so has one axis.
            people[pair, person] = [
                number
                for number, cell in enumerate(cells, start=1)
                if file[cell].ndim > 1
            ]
    return people


def choose_rows(people, testset, folder, name):
    """Return {split: rows} of one test set.

    Args:
        people: of read_people.
        testset: set of (pair, person).
        folder: of the images, relative to the root.
        name: of the MATLAB file, for the message.

    Raises:
        InputError: the test set has persons that there are not.
    """
    strangers = sorted(testset - people.keys())
    if strangers:
        pair, person = strangers[0]
        raise common.InputError(
            f'{name} tests with {len(strangers)} persons that it has not (first: pair '
            f'{pair}, person {person}); expected those of its camera pairs'
        )
    splits = {'train': [], 'query': [], 'test': []}
    for (pair, person), numbers in people.items():
        for number in numbers:
            camera = 1 if number <= IMAGES_PER_CAMERA else 2
            split = 'train'
            if (pair, person) in testset:
                split = 'query' if camera == 1 else 'test'
            pid = f'{pair}_{person:03}'
            splits[split].append((pid, f'{folder}/{pid}_{camera}_{number:02}.png'))
    return splits
