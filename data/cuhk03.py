"""CUHK03 under the new protocol (CUHK03-NP): 1467 pedestrians, six cameras.

The boxes exist twice, drawn by hand (labeled) and found by a detector (detected).
Each has a train, a query and a test split, named detected_train and so on. Three
forms are read, whichever is there:

    cuhk03_new_protocol_config_detected.mat, cuhk03_detected/1_001_1_01.png
    cuhk03_new_protocol_config_detected.mat, images_detected/1_001_1_01.png
    detected/bounding_box_train/0003_c1_21.png, detected/query/, .../bounding_box_test/

The first two are the protocol's files beside the images taken out of cuhk-03.mat
(named camera pair, person, camera of the pair, image), in the folder of the protocol's
own save_img.m or of Torchreid. The third is the authors' download in Market-1501's
layout. The PID is the protocol's label, 1 to 1467, or the file name's in the third
form: mind that the two need not be the same number.

Source: Zhong et al. 2017, "Re-ranking Person Re-identification with k-reciprocal
Encoding", arXiv:1701.08398; config files and scripts in
https://github.com/zhunzhong07/person-re-ranking, whose indices were counted. The file
names of the third form are from memory.
"""

import os

import common
from data import _folders, _lists

COMPLETE = {
    'detected_train': 7365,
    'detected_query': 1400,
    'detected_test': 5332,
    'labeled_train': 7368,
    'labeled_query': 1400,
    'labeled_test': 5328,
}

INDEX_NAMES = {'train': 'train_idx', 'query': 'query_idx', 'test': 'gallery_idx'}


def read(root):
    """Return the rows of detected and labeled boxes; see data/__init__.py."""
    splits = {}
    for boxes in ('detected', 'labeled'):
        config = f'cuhk03_new_protocol_config_{boxes}.mat'
        if os.path.exists(os.path.join(root, config)):
            splits |= read_protocol(root, boxes, config)
        elif os.path.isdir(os.path.join(root, boxes)):
            splits |= read_folders(root, boxes)
    if not splits:
        raise common.MissingFileError(
            f'{root} lacks cuhk03_new_protocol_config_detected.mat (or _labeled.mat); '
            'expected that file beside the images, or a folder detected or labeled'
        )
    return splits


def read_protocol(root, boxes, config):
    """Return {split: rows} of one kind of boxes from the protocol's config file."""
    folder = _folders.find_first(root, [f'cuhk03_{boxes}', f'images_{boxes}'])
    labels, names, *indices = _lists.load_matlab(
        root, config, ['labels', 'filelist', *INDEX_NAMES.values()]
    )
    rows = [
        (str(pid), f'{folder}/{name}') for pid, name in zip(labels, names, strict=True)
    ]
    return {
        # MATLAB counts from 1.
        f'{boxes}_{split}': [rows[i - 1] for i in index.astype(int)]
        for split, index in zip(INDEX_NAMES, indices, strict=True)
    }


def read_folders(root, boxes):
    """Return {split: rows} of one kind of boxes in Market-1501's layout."""
    folders = {
        f'{boxes}_{split}': f'{boxes}/{folder}'
        for split, folder in _folders.MARKET_FOLDERS.items()
    }
    return _folders.read_named_images(
        root, folders, pattern=r'(\d+)_c\d+_', example='0003_c1_21.png'
    )
