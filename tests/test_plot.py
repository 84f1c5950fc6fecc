"""plot.py: numbers by hand, and a picture of events drawn here."""

import cv2
import numpy as np
import pytest
import tensorflow as tf

import plot

SCALARS = ('loss', 'batch_top1', 'batch_prec_at_3', 'active_count', 'learning_rate')
HISTOGRAMS = ('embedding_pos_dists', 'embedding_neg_dists', 'embedding_lengths')


def write_run(directory, steps, value=0.5):
    """Write events of `steps` to a new file in a directory."""
    # TensorFlow names event files by the second: a suffix keeps two runs apart.
    writer = tf.summary.create_file_writer(str(directory), filename_suffix=str(steps))
    with writer.as_default():
        for step in steps:
            for tag in SCALARS:
                tf.summary.scalar(tag, value, step=step)
            for tag in HISTOGRAMS:
                tf.summary.histogram(tag, np.arange(5.0) + value, step=step)
    writer.close()


def test_smooth_averages_around_each_iteration():
    values = np.zeros(100)
    values[50] = 11  # A tenth of 100 iterations is 10: five on either side and itself.
    smooth = plot.smooth(values)
    np.testing.assert_allclose(smooth[44:57], [0] + [1] * 11 + [0], atol=1e-12)
    np.testing.assert_array_equal(plot.smooth(np.array([1.0, 3.0])), [1, 3])


def test_quantiles_of_a_histogram_lie_inside_its_buckets():
    # 5 values in 0..1 and 5 in 1..3: the median is 1, one tenth lies below 0.2.
    histogram = np.array([[0, 1, 5], [1, 3, 5]], float)
    quantiles = plot.histogram_quantiles(histogram)
    np.testing.assert_allclose(quantiles, [0.2, 1.0, 2.6])


def test_resumed_run_replaces_what_it_did_again(tmp_path):
    write_run(tmp_path, range(1, 5), value=1.0)
    write_run(tmp_path, range(3, 7), value=2.0)
    steps, values = plot.read_events(str(tmp_path))['loss']
    np.testing.assert_array_equal(steps, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(values, [1, 1, 2, 2, 2, 2])


def test_picture_of_two_runs(tmp_path, capsys):
    for name in ('one', 'two'):
        write_run(tmp_path / name, range(1, 30))
    picture = tmp_path / 'runs.png'
    plot.main(
        [str(tmp_path / 'one'), str(tmp_path / 'two'), '--filename', str(picture)]
    )
    assert capsys.readouterr().out == f'{picture}: 2 run(s)\n'
    image = cv2.imread(str(picture))
    assert image.shape == (700, 1300, 3)
    assert (image == 255).mean() < 0.99  # Something is drawn.


def test_runs_of_one_name_are_told_apart_by_their_paths():
    assert plot.name_runs(['a/exp/', 'b/other']) == ['exp', 'other']
    assert plot.name_runs(['a/exp', 'b/exp']) == ['a/exp', 'b/exp']


def test_directory_without_events_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'no TensorBoard events in {tmp_path}'):
        plot.read_events(str(tmp_path))
