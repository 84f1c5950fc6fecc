import base64

import cv2
import numpy as np
import pytest

from visuals import thumbnails


@pytest.mark.parametrize(
    'shape, expected',
    [((400, 200), (100, 50)), ((50, 1000), (5, 100)), ((100, 7), (100, 7))],
)
def test_images_shrink_to_a_size_but_never_grow(shape, expected):
    image = np.zeros((*shape, 3), np.uint8)
    assert thumbnails.shrink(image, 100).shape == (*expected, 3)


def test_a_data_uri_is_the_image_as_jpeg():
    image = np.full((8, 4, 3), (200, 100, 50), np.uint8)  # RGB.
    header, _, content = thumbnails.encode_data_uri(image).partition(',')
    assert header == 'data:image/jpeg;base64'
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), 1)
    np.testing.assert_allclose(decoded[..., ::-1], image, atol=3)


def test_a_sheet_is_filled_row_by_row_with_centred_tiles():
    tall = np.zeros((4, 2, 3), np.uint8)
    images = [tall + 10 * place for place in range(5)]
    sheet = thumbnails.tile(iter(images), 5, tile_size=4)
    assert sheet.shape == (2 * 4, 3 * 4, 3)  # ceil(sqrt(5)) = 3 columns.
    assert sheet[0, :, 0].tolist() == [
        255,
        0,
        0,
        255,
        255,
        10,
        10,
        255,
        255,
        20,
        20,
        255,
    ]
    assert sheet[7, :, 0].tolist() == [255, 30, 30, 255, 255, 40, 40, 255] + [255] * 4


def test_the_largest_sheet_has_no_more_columns_than_fit():
    assert [thumbnails.count_columns(n) for n in (1, 2, 4, 5, 19732)] == [
        1,
        2,
        2,
        3,
        141,
    ]
