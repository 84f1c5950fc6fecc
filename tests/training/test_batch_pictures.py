"""batch_pictures.py: places by hand; train.py writes them into the events."""

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

import tiny_run
from training import batch_pictures
from training.batch_pictures import CAPTION_HEIGHT, GAP


def test_hardest_pairs_are_found_and_the_worst_anchor_comes_first():
    points = np.float32([0, 1, 3, 7])  # On a line, so distances are differences.
    dists = np.abs(points[:, None] - points[None])
    pids = np.array(['a', 'a', 'b', 'b'], object)
    # Positive minus negative: 0 -> 1-3, 1 -> 1-2, 3 -> 4-2, 7 -> 4-6.
    expected = [(2, 3, 1), (1, 0, 2), (0, 1, 2), (3, 2, 1)]
    assert batch_pictures.find_hardest(pids, dists) == expected


def test_anchor_without_a_positive_or_negative_is_left_out():
    dists = np.float32([[0, 1], [1, 0]])
    images = np.zeros((2, 8, 8, 3), np.float32)
    for pids in (['a', 'a'], ['a', 'b']):
        assert batch_pictures.draw_hardest(images, pids, dists) is None


def test_batch_is_a_row_of_images_for_each_identity():
    # Six images of 40 x 64 pixels, each of one grey value.
    images = np.repeat(np.arange(6.0), 40 * 64 * 3).reshape(6, 40, 64, 3) * 40
    picture = batch_pictures.draw_batch(images, list('aaabbb'), batch_k=3)
    height, width = 40 + CAPTION_HEIGHT + GAP, 64 + GAP
    assert picture.shape == (2 * height, 3 * width, 3)
    for i in range(6):
        top, left = i // 3 * height, i % 3 * width
        assert (picture[top : top + 40, left : left + 64] == i * 40).all()
        assert (
            picture[top + 40 : top + 40 + CAPTION_HEIGHT, left : left + 64].min() < 99
        )


def test_small_images_are_enlarged_and_values_clipped():
    cell = batch_pictures.make_cell(np.full((4, 30, 3), 300.0), 'x')
    assert cell.shape == (3 * 4 + CAPTION_HEIGHT, 90, 3)
    assert (cell[:12] == 255).all()


def test_png_holds_the_picture_in_its_colours():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    content = np.frombuffer(batch_pictures.encode_png(picture), np.uint8)
    decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]  # BGR to RGB.
    np.testing.assert_array_equal(decoded, picture)


def test_long_captions_are_cut_and_foreign_letters_replaced():
    short = batch_pictures.shorten('0' * 100, 64)
    assert 5 < len(short) < 15
    batch_pictures.make_cell(np.zeros((4, 64, 3)), 'José')


@pytest.fixture(scope='module')
def events(tmp_path_factory):
    """Return the events of a run that draws every second of four iterations."""
    directory = tmp_path_factory.mktemp('data')
    tiny_run.write_dataset(directory)
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_run.shrink_net(monkeypatch)
        tiny_run.start(
            *(directory, directory / 'exp', '--train_iterations', '4'),
            *('--image_frequency', '2', '--batch_p', '3'),
        )
    events = event_accumulator.EventAccumulator(
        str(directory / 'exp'), size_guidance={event_accumulator.TENSORS: 0}
    )
    events.Reload()
    return events


@pytest.mark.parametrize('tag, rows, columns', [('batch', 3, 2), ('hardest', 6, 3)])
def test_run_writes_pictures_every_few_iterations(events, tag, rows, columns):
    written = events.Tensors(f'images/{tag}')
    assert events.SummaryMetadata(f'images/{tag}').plugin_data.plugin_name == 'images'
    assert [event.step for event in written] == [2, 4]
    width, height, png = written[0].tensor_proto.string_val
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert (int(height), int(width)) == picture.shape[:2]
    factor = 4  # 16 pixels wide: enlarged to 64.
    assert picture.shape == (
        rows * (factor * tiny_run.HEIGHT + CAPTION_HEIGHT + GAP),
        columns * (factor * tiny_run.WIDTH + GAP),
        3,
    )
