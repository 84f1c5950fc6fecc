"""MARS: pedestrians in 20478 tracklets (sequences of boxes) of six cameras.

    bbox_train/0001/0001C1T0001F001.jpg    train
    bbox_test/0002/0002C1T0001F001.jpg     query and test
    info/                                  train_name.txt, test_name.txt,
                                           tracks_train_info.mat,
                                           tracks_test_info.mat, query_IDX.mat

A name is PID, camera, tracklet and frame; a tracklet's frames share the name up to
the F. The folder info/ is that of https://github.com/liangzheng06/MARS-evaluation: in
MARS, the query is not a folder but 1980 of the 12180 test tracklets. Their frames are
our query split, all other test frames our test split. (The official gallery keeps the
query tracklets, which are each other's matches across cameras: give evaluate.py
--gallery_includes_queries.)

PIDs are as the names have them: 0000 is a distractor, 00-1 junk that the official
evaluation ignores (870 tracklets, 23380 images, all in the test split).

Source: Zheng et al. 2016, "MARS: A Video Benchmark for Large-Scale Person
Re-Identification"; info/*.mat and test_mars.m of the repository above, whose tracklets
were counted: 625 training and 634 test PIDs besides those two.
"""

import numpy as np

import common
from data import _folders, _lists

COMPLETE = {'train': 509914, 'query': 114493, 'test': 566596}


def read(root):
    """Return the frames of each split's tracklets; see data/__init__.py."""
    _folders.require(root, ['bbox_train', 'bbox_test', 'info'])
    (query_numbers,) = _lists.load_matlab(root, 'info/query_IDX.mat', ['query_IDX'])
    query_numbers = set(query_numbers.tolist())
    splits = {'train': [], 'query': [], 'test': []}
    for frames in read_tracklets(root, 'train'):
        splits['train'] += frames
    # MATLAB counts from 1.
    for number, frames in enumerate(read_tracklets(root, 'test'), start=1):
        splits['query' if number in query_numbers else 'test'] += frames
    return splits


def read_tracklets(root, part):
    """Return the frames of every tracklet, in the official order.

    Args:
        root: directory of the data set.
        part: 'train' or 'test'.

    Returns:
        [[(pid, fid), ...], ...], one list per tracklet.

    Raises:
        ValueError: the tracklets are not a table, or need more names than there are.
    """
    table = _lists.read_table(root, f'info/{part}_name.txt', 'name')
    frames = [(name[:4], f'bbox_{part}/{name[:4]}/{name}') for (name,) in table]
    filename = f'info/tracks_{part}_info.mat'
    (tracks,) = _lists.load_matlab(root, filename, [f'track_{part}_info'])
    tracks = np.atleast_2d(tracks)  # [T, 4]: first and last frame, PID, camera
    if tracks.shape[1] != 4:
        raise common.InputError(
            f'{filename} has shape {list(tracks.shape)}; expected [tracklets, 4]'
        )
    if tracks[:, 1].max() > len(frames):
        raise common.InputError(
            f'{filename} counts {tracks[:, 1].max()} frames, info/{part}_name.txt '
            f'names {len(frames)}; take both from the same release'
        )
    # MATLAB counts from 1 and includes the last.
    return [frames[first - 1 : last] for first, last in tracks[:, :2]]
