"""An overview of the data set as one picture."""

import pathlib

import cv2
import numpy as np

import common
from drawn_people.scenes import CAMERAS, HEIGHT, WIDTH
from visuals import thumbnails

GAP = 4  # Pixels of white around each image, and once more between cameras.


def read_tracklets(directory, subset):
    """Return the images of a subset as {pid: {cid: [images]}}, sorted by name.

    PID and CID are strings, as they stand in the file names; images uint8 RGB.
    """
    tracklets = {}
    for filename in sorted(pathlib.Path(directory, subset).glob('*.jpg')):
        pid, camera = filename.name.split('_')[:2]
        image = cv2.imread(str(filename))[..., ::-1]
        tracklets.setdefault(pid, {}).setdefault(camera[1], []).append(image)
    return tracklets


def make(directory, num_rows=12, num_per_camera=3):
    """Return an overview of a data set, uint8 [H, W, 3], RGB.

    The first rows are training identities, the last two distractors and junk; four
    blocks side by side are the cameras, each with its first images.
    """
    train = read_tracklets(directory, 'bounding_box_train')
    gallery = read_tracklets(directory, 'bounding_box_test')
    rows = [train[pid] for pid in list(train)[:num_rows]]
    rows += [gallery[pid] for pid in ('0000', '-1') if pid in gallery]
    blocks = []
    for camera in CAMERAS:
        images = [row.get(str(camera.cid), [])[:num_per_camera] for row in rows]
        shape = len(rows), num_per_camera
        block = thumbnails.draw_grid(images, (HEIGHT, WIDTH), shape, GAP)
        blocks += [block, np.full((len(block), GAP, 3), 255, np.uint8)]
    return np.concatenate(blocks, axis=1)


def write(filename, directory):
    """Write the contact sheet of a data set as a PNG file."""
    content = thumbnails.encode(make(directory), '.png')
    with common.complete_file(filename) as temporary:
        pathlib.Path(temporary).write_bytes(content)
