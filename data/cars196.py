"""Cars196: 196 models of cars; the first 98 for training, the others for the test.

    cars_annos.mat, car_ims/000001.jpg                   the data set in one piece
    devkit/cars_train_annos.mat, cars_train/00001.jpg    or as a classification task,
    devkit/cars_test_annos_withlabels.mat, cars_test/    both parts of it together

The class, 1 to 196, is the PID. The split by class is that of metric learning (8054
and 8131 images), not the classification task's, which has every class in both parts.
Retrieval is judged with the test images as both query and gallery; let
excluders/diagonal.py keep an image from finding itself. The labelled test list is
found beside devkit/, too, where it is offered as a separate download.

Source: Krause et al. 2013, "3D Object Representations for Fine-Grained
Categorization"; split: Song et al. 2016, arXiv:1511.06452. The counts are the
published ones; no copy was at hand to count.
"""

import common
from data import _folders, _lists

COMPLETE = {'train': 8054, 'test': 8131}

NUM_TRAIN_CLASSES = 98

ALL_ANNOS = 'cars_annos.mat'
TRAIN_ANNOS = 'devkit/cars_train_annos.mat'
TEST_ANNOS = 'cars_test_annos_withlabels.mat'


def read(root):
    """Return the rows of both halves of the classes; see data/__init__.py."""
    if _folders.find_first(root, [ALL_ANNOS, TRAIN_ANNOS]) == ALL_ANNOS:
        labelled = read_annotations(root, ALL_ANNOS, 'relative_im_path')
    else:
        test_annos = _folders.find_first(root, [f'devkit/{TEST_ANNOS}', TEST_ANNOS])
        labelled = read_annotations(root, TRAIN_ANNOS, 'fname', 'cars_train/')
        labelled += read_annotations(root, test_annos, 'fname', 'cars_test/')
    splits = {'train': [], 'test': []}
    for class_id, fid in labelled:
        split = 'train' if class_id <= NUM_TRAIN_CLASSES else 'test'
        splits[split].append((str(class_id), fid))
    return splits


def read_annotations(root, filename, path_field, folder=''):
    """Return the (class, fid) of one list, class being an int from 1.

    Args:
        root: directory of the data set.
        filename: the MATLAB file's path under root.
        path_field: field of its struct array `annotations` that holds the path.
        folder: what that path is relative to, with a slash at the end.
    """
    (annotations,) = _lists.load_matlab(root, filename, ['annotations'])
    missing = {path_field, 'class'}.difference(annotations.dtype.names or ())
    if missing:
        raise common.InputError(
            f'annotations in {filename} lack {", ".join(sorted(missing))}; expected '
            f'{path_field} and class'
        )
    return [(int(row['class']), f'{folder}{row[path_field]}') for row in annotations]
