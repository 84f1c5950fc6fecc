"""Small pictures: read, shrink, lay out in a grid, encode."""

import base64
import itertools
import os

import cv2
import numpy as np

import common

# Of a JPEG in 0..100: artefacts are hard to see, and files a third of quality 95.
JPEG_QUALITY = 85


def read_image(image_root, fid):
    """Return an image as uint8 RGB [H, W, 3].

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it cannot be decoded.
    """
    filename = os.path.join(image_root, fid)
    if not os.path.isfile(filename):
        raise common.MissingFileError(f'{filename} is missing; check --image_root')
    # Through a buffer: imread would add OpenCV's own complaint on stderr.
    image = decode(np.fromfile(filename, np.uint8))
    if image is None:
        raise common.InputError(f'{filename} is not an image that OpenCV can decode')
    return image


def decode(content, flags=cv2.IMREAD_COLOR):
    """Return what an image file holds as uint8 RGB [H, W, 3], or None: it is no image.

    Args:
        content: bytes, or uint8 [n].
        flags: of cv2.imdecode.
    """
    if not len(content):
        return None
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # Such as too many pixels.
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def shrink(image, max_size):
    """Return an image [H, W, 3] scaled down so that no side exceeds `max_size`."""
    scale = max_size / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def encode(image, suffix, *settings):
    """Return the bytes of an RGB image [H, W, 3] as a file.

    Args:
        image: uint8 [H, W, 3].
        suffix: that says which kind of file, such as '.png'.
        settings: pairs of OpenCV's constants and their values.
    """
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    is_encoded, content = cv2.imencode(suffix, bgr, settings)
    assert is_encoded
    return content.tobytes()


def encode_jpeg(image, quality=JPEG_QUALITY):
    """Return the bytes of an RGB image [H, W, 3] as a JPEG file."""
    return encode(image, '.jpg', cv2.IMWRITE_JPEG_QUALITY, quality)


def encode_data_uri(image):
    """Return an RGB image [H, W, 3] as the address that a page can hold in itself."""
    return 'data:image/jpeg;base64,' + base64.b64encode(encode_jpeg(image)).decode()


def draw_grid(rows, cell_size, shape, gap=0):
    """Return images as one sheet, each centred in its cell, white around them.

    Args:
        rows: iterable of iterables of uint8 [H, W, 3], none larger than a cell; a row
            may be shorter than the sheet is wide.
        cell_size: (height, width), pixels.
        shape: (rows, columns) of the sheet.
        gap: pixels of white right of and below each cell.

    Returns:
        uint8 [rows * (height + gap), columns * (width + gap), 3].
    """
    height, width = (side + gap for side in cell_size)
    sheet = np.full((shape[0] * height, shape[1] * width, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top = i * height + (cell_size[0] - image.shape[0]) // 2
            left = j * width + (cell_size[1] - image.shape[1]) // 2
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def tile(images, num_images, tile_size):
    """Return images as one sheet of square tiles, row by row, each centred on white.

    Args:
        images: iterable of RGB images [H, W, 3] of any size.
        num_images: how many there are; ceil(sqrt) of it is the tiles in a row.
        tile_size: side of a tile in pixels.

    Returns:
        uint8 [rows * tile_size, columns * tile_size, 3].
    """
    num_columns = count_columns(num_images)
    num_rows = -(-num_images // num_columns)
    small = (shrink(image, tile_size) for image in images)
    rows = (itertools.islice(small, num_columns) for _ in range(num_rows))
    return draw_grid(rows, (tile_size, tile_size), (num_rows, num_columns))


def count_columns(num_images):
    """Return the tiles in a row of a sheet that is as square as can be."""
    return int(np.ceil(np.sqrt(num_images)))
