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


def test_each_curve_has_its_panel_and_each_run_its_colours(tmp_path):
    write_run(tmp_path, range(1, 30))
    events = plot.read_events(str(tmp_path))
    figure = plot.plot_runs({'one': events, 'two': events})
    legends = [axes.get_legend_handles_labels() for axes in figure.axes]
    assert [labels for _, labels in legends] == [
        ['one', 'two'],
        [f'{run} batch_{t}' for run in ('one', 'two') for t in ('top1', 'prec_at_3')],
        ['one', 'two'],
        ['one', 'two'],
        ['one pos', 'one neg', 'two pos', 'two neg'],
        ['one lengths', 'two lengths'],
    ]
    for lines, _ in legends:
        looks = {(line.get_color(), line.get_linestyle()) for line in lines}
        assert len(looks) == len(lines)
        for line in lines:
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 30))


def test_quiet_still_warns_of_what_is_missing(tmp_path, capsys):
    writer = tf.summary.create_file_writer(str(tmp_path / 'some'))
    with writer.as_default(step=1):
        tf.summary.scalar('loss', 0.5)
    writer.close()
    picture = tmp_path / 'some.png'
    plot.main([str(tmp_path / 'some'), '--quiet', f'--filename={picture}'])
    output = capsys.readouterr()
    assert output.out == ''
    assert output.err.startswith('some has no batch_top1, ')
    assert picture.exists()


def test_validation_has_a_panel_where_a_run_has_it(tmp_path):
    write_run(tmp_path / 'without', range(1, 5))
    write_run(tmp_path / 'with', range(1, 5))
    writer = tf.summary.create_file_writer(str(tmp_path / 'with'), filename_suffix='v')
    with writer.as_default():
        for step in (2, 4):
            tf.summary.scalar('val/mAP', 0.25 * step, step=step)
    writer.close()
    runs = {
        name: plot.read_events(str(tmp_path / name)) for name in ('without', 'with')
    }
    panels = {axes.get_title(): axes for axes in plot.plot_runs(runs).axes}
    (line,) = panels['validation'].get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[2, 0.5], [4, 1]])
    alone = plot.plot_runs({'without': runs['without']})
    assert len(alone.axes) == 6


def test_curve_that_a_run_lacks_is_left_out_and_named(tmp_path, capsys):
    writer = tf.summary.create_file_writer(str(tmp_path / 'some'))
    with writer.as_default(step=1):
        tf.summary.scalar('loss', 0.5)
        tf.summary.scalar('learning_rate', 3e-4)
        tf.summary.scalar('foreign', 3.0)
        tf.summary.image('images/batch', np.zeros([1, 4, 4, 3], np.uint8))
    writer.close()
    plot.main([str(tmp_path / 'some'), '--filename', str(tmp_path / 'some.png')])
    assert capsys.readouterr().err == (
        'some has no batch_top1, batch_prec_at_, active_count, embedding_pos_dists, '
        'embedding_neg_dists, embedding_lengths: left out '
        '(histograms come every --histogram_frequency iterations)\n'
    )
    assert (tmp_path / 'some.png').exists()
    assert 'images/batch' not in plot.read_events(str(tmp_path / 'some'))


def test_events_of_something_else_are_refused(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default(step=1):
        tf.summary.scalar('accuracy', 0.5)
    writer.close()
    with pytest.raises(ValueError, match=r'none of the curves.*\(first: accuracy\)'):
        plot.read_events(str(tmp_path))


def test_runs_of_one_name_are_told_apart_by_their_paths():
    assert plot.name_runs(['a/exp/', 'b/other']) == ['exp', 'other']
    assert plot.name_runs(['a/exp', 'b/exp']) == ['a/exp', 'b/exp']


def test_directory_without_events_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'no TensorBoard events in {tmp_path}'):
        plot.read_events(str(tmp_path))
