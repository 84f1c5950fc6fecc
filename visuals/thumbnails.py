"""Small pictures of a data set's images, for what visualize.py draws."""

import base64
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
    content = np.fromfile(filename, np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if image is None:
        raise common.InputError(f'{filename} is not an image that OpenCV can decode')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def shrink(image, max_size):
    """Return an image [H, W, 3] scaled down so that no side exceeds `max_size`."""
    scale = max_size / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def encode_jpeg(image):
    """Return the bytes of an RGB image [H, W, 3] as a JPEG file."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    is_encoded, content = cv2.imencode(
        '.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert is_encoded
    return content.tobytes()


def encode_data_uri(image):
    """Return an RGB image [H, W, 3] as the address that a page can hold in itself."""
    return 'data:image/jpeg;base64,' + base64.b64encode(encode_jpeg(image)).decode()


def tile(images, num_images, tile_size):
    """Return images as one sheet of square tiles, row by row, each centred on white.

    Args:
        images: iterable of RGB images [H, W, 3] of any size.
        num_images: how many there are; ceil(sqrt) of it is the tiles in a row.
        tile_size: side of a tile in pixels.

    Returns:
        uint8 [rows * tile_size, columns * tile_size, 3].
    """
    columns = count_columns(num_images)
    rows = -(-num_images // columns)
    sheet = np.full((rows * tile_size, columns * tile_size, 3), 255, np.uint8)
    for place, image in enumerate(images):
        image = shrink(image, tile_size)
        height, width = image.shape[:2]
        top = place // columns * tile_size + (tile_size - height) // 2
        left = place % columns * tile_size + (tile_size - width) // 2
        sheet[top : top + height, left : left + width] = image
    return sheet


def count_columns(num_images):
    """Return the tiles in a row of a sheet that is as square as can be."""
    return int(np.ceil(np.sqrt(num_images)))
