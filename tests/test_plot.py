"""plot.py: numbers by hand, and a picture of events drawn here."""

import cv2
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg

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


def make_events(steps):
    """Return what read_events does of a run, each curve at a height of its own."""
    steps = np.array(steps)
    events = {}
    for height, tag in enumerate([*SCALARS, *HISTOGRAMS], start=1):
        values = np.full(len(steps), float(height))
        if tag in HISTOGRAMS:
            bucket = [height - 1.0, height + 1.0, 4.0]
            values = np.array([[bucket]] * len(steps))
        events[tag] = plot.Curve(steps, values)
    return events


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
    # Files are read in the order of their names, whatever the clock said.
    for name, steps, value in (
        ('2.resumed', range(3, 7), 2.0),
        ('1.killed', range(1, 5), 1.0),
    ):
        write_run(tmp_path / name, steps, value)
        (events,) = (tmp_path / name).iterdir()
        events.rename(tmp_path / f'events.out.tfevents.{name}')
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
    assert image.shape[1] == 1300
    assert 700 < image.shape[0] < 800  # Below the curves, the legend.
    assert (image == 255).mean() < 0.99  # Something is drawn.


def find_lines(axes):
    """Return the curves of a panel, without the thin lines below them."""
    return [line for line in axes.get_lines() if line.get_alpha() is None]


def test_each_curve_has_its_panel_and_each_run_its_colour():
    events = make_events(range(1, 30))
    figure = plot.plot_runs({'one': events, 'two': events})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['one', 'two']
    one, two = (line.get_color() for line in legend.get_lines())
    assert one != two
    looks = [
        [(line.get_color(), line.get_linestyle()) for line in find_lines(axes)]
        for axes in figure.axes
    ]
    single = [(one, '-'), (two, '-')]
    double = [(one, '-'), (one, '--'), (two, '-'), (two, '--')]
    assert looks == [single, double, single, single, double, single]
    for axes in figure.axes:
        for line in find_lines(axes):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 30))


def test_the_second_of_a_panel_is_dashed_as_its_title_says():
    events = make_events(range(1, 30))
    panels = {axes.get_title(): axes for axes in plot.plot_runs({'one': events}).axes}
    for title, tags in {
        'in the batch: top-1 (dashed: precision)': ('batch_top1', 'batch_prec_at_3'),
        'distances: same PID (dashed: others)': HISTOGRAMS[:2],
    }.items():
        solid, dashed = (1.0 + [*SCALARS, *HISTOGRAMS].index(tag) for tag in tags)
        drawn = {x.get_linestyle(): x.get_ydata()[0] for x in find_lines(panels[title])}
        assert drawn == {'-': solid, '--': dashed}


@pytest.mark.parametrize('num_runs, length', [(1, 3), (4, 150), (13, 20)])
def test_the_legend_covers_no_curve_and_is_not_cut_off(num_runs, length):
    events = make_events(range(1, 5))
    runs = {f'{i:_>{length}}$': events for i in range(num_runs)}
    figure = plot.plot_runs(runs)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (legend,) = figure.legends
    box = legend.get_window_extent(renderer)
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert 0 <= box.y0 < box.y1 <= figure.bbox.height
    for axes in figure.axes:
        panel = axes.get_tightbbox(renderer)
        assert not box.overlaps(panel)
        assert panel.height > 250  # Room for the curves is left.
    names = [''.join(text.get_text().split()) for text in legend.get_texts()]
    assert names == [name.replace('$', r'\$') for name in runs]
    colours = {line.get_color() for line in legend.get_lines()}
    assert len(colours) == num_runs


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
    (line,) = panels['validation: mAP (dashed: top-1)'].get_lines()
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


def test_events_of_tensorflow_1_are_read(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        for step, values in ((1, [1.0, 2.0, 3.0]), (2, [2.0] * 4)):
            for proto in (
                tf.raw_ops.ScalarSummary(tags='loss', values=0.5 * step),
                tf.raw_ops.HistogramSummary(tag='embedding_lengths', values=values),
            ):
                tf.summary.experimental.write_raw_pb(proto, step)
    writer.close()
    events = plot.read_events(str(tmp_path))
    assert events['loss'].steps.tolist() == [1, 2]
    assert events['loss'].values.tolist() == [0.5, 1.0]
    histograms = events['embedding_lengths'].values
    assert histograms[:, :, 2].sum(axis=1).tolist() == [3, 4]
    # Buckets grow by a tenth: so near is the median.
    medians = [plot.histogram_quantiles(h)[1] for h in histograms]
    np.testing.assert_allclose(medians, [2, 2], rtol=0.1)
    plot.main([str(tmp_path), '--quiet', f'--filename={tmp_path}/old.png'])
    assert (tmp_path / 'old.png').exists()


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
