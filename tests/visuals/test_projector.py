import cv2
import numpy as np
import pytest
from google.protobuf import text_format
from tensorboard.plugins.projector import projector_config_pb2

from visuals import projector


def test_tensorboard_reads_what_is_written(tmp_path):
    embs = np.arange(10, dtype=np.float64).reshape(5, 2)
    columns = {'pid': list('aabbb'), 'fid': [f'{i}\t.jpg' for i in range(5)]}
    images = [np.full((128, 64, 3), (40 * i, 0, 0), np.uint8) for i in range(5)]
    projector.write(tmp_path / 'new', 'the "set"', embs, columns, iter(images))
    text = (tmp_path / 'new' / 'projector_config.pbtxt').read_text(encoding='utf-8')
    config = text_format.Parse(text, projector_config_pb2.ProjectorConfig())
    (one,) = config.embeddings
    assert one.tensor_name == 'the "set"'
    tensors = np.fromfile(tmp_path / 'new' / one.tensor_path, '<f4')
    np.testing.assert_array_equal(tensors.reshape(one.tensor_shape), embs)
    lines = (tmp_path / 'new' / one.metadata_path).read_text().splitlines()
    assert lines[:2] == ['pid\tfid', 'a\t0 .jpg']  # A tab would be a column.
    assert len(lines) == 1 + 5
    sheet = cv2.imread(str(tmp_path / 'new' / one.sprite.image_path))
    width, height = one.sprite.single_image_dim
    assert sheet.shape == (2 * height, 3 * width, 3)
    # Image 4 is the middle one of the second row; OpenCV's order is BGR.
    centre = sheet[height * 3 // 2, width * 3 // 2]
    np.testing.assert_allclose(centre, [0, 0, 160], atol=3)  # JPEG's loss.


@pytest.mark.parametrize(
    'num_images, expected', [(1, 64), (128**2, 64), (128**2 + 1, 63), (512**2, 16)]
)
def test_tiles_shrink_so_that_the_sheet_fits_a_browser(num_images, expected):
    assert projector.choose_tile_size(num_images) == expected


def test_too_many_images_are_refused():
    with pytest.raises(ValueError, match='at most 262144; choose some'):
        projector.choose_tile_size(512**2 + 1)
