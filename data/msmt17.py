"""MSMT17: 4101 pedestrians, fifteen cameras, twelve time slots.

    list_train.txt, list_val.txt    train, images in train/
    list_query.txt                  query, images in test/
    list_gallery.txt                test, images in test/

A line is `0000/0000_000_01_0303morning_0015_0.jpg 0`: the image's path and its PID,
which becomes the CSV's PID as it stands. The third field of a file name is the camera.
Both training lists count as train, as is common (30248 + 2373 images). Training and
test PIDs are numbered from 0 each: the same number is not the same person.

MSMT17_V2, whose folders are mask_train_v2/ and mask_test_v2/, is read too.

Source: Wei et al. 2018, "Person Transfer GAN to Bridge Domain Gap for Person
Re-Identification", arXiv:1711.08565. The counts are the published ones; no copy was at
hand to count.
"""

from data import _folders, _lists

COMPLETE = {'train': 32621, 'query': 11659, 'test': 82161}

TRAIN_FOLDERS = ('train', 'mask_train_v2')
TEST_FOLDERS = ('test', 'mask_test_v2')


def read(root):
    """Return the rows of the four lists; see data/__init__.py."""
    train = _folders.find_first(root, TRAIN_FOLDERS)
    test = _folders.find_first(root, TEST_FOLDERS)
    return {
        'train': read_list(root, 'list_train.txt', train)
        + read_list(root, 'list_val.txt', train),
        'query': read_list(root, 'list_query.txt', test),
        'test': read_list(root, 'list_gallery.txt', test),
    }


def read_list(root, filename, folder):
    """Return the (pid, fid) of one list, whose paths are relative to `folder`."""
    table = _lists.read_table(root, filename, 'path pid')
    return [(pid, f'{folder}/{path}') for path, pid in table]
