"""Log lines, TensorBoard's values, detailed logs, progress bar and running speed."""

import contextlib
import io
import json
import math
import random
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

import batches
import tiny_run
from event_files import read_events
from run_files import read_array
from training import journal
from training.step import Outcome


def make_outcome(embs, **changes):
    """Return what a training step returns, for embeddings [B, D] on a line."""
    embs = np.float32(embs)
    values = {
        'losses': [0.25, 0.5, 1.75, 1.5],
        'embs': embs,
        'lengths': np.linalg.norm(embs, axis=1),
        'dists': np.abs(embs[:, :1] - embs[:, :1].T),
        'top1': 0.75,
        'precision_at_k': 0.5,
    }
    tensors = {name: tf.constant(v) for name, v in (values | changes).items()}
    return Outcome(**dict.fromkeys(Outcome._fields) | tensors)


def make_iteration(step, rows, embs, **changes):
    """Return a journal.Iteration of rows of the data set with such embeddings."""
    return journal.Iteration(
        step,
        batches.Batch(rows, images=None),
        pids=np.arange(len(rows)) // 2,
        learning_rate=0.1,
        outcome=make_outcome(embs, **changes),
        secs_input=0.125,
    )


def write_journal(directory, iterations, *reporters):
    """Write a Journal of reporters; return its events, {(tag, step): array}."""
    steps = range(iterations[0].step - 1, iterations[-1].step)
    with journal.Journal(None, str(directory), steps, reporters, quiet=True) as written:
        for iteration in iterations:
            written.write(iteration)
    return read_events(directory)


def test_log_line_has_number_losses_precision_eta_and_speed():
    iteration = make_iteration(12, np.arange(4), np.ones((4, 1)))
    line = journal.format_iteration(
        iteration._replace(secs_per_iter=0.5), k=3, last_step=12 + 7322
    )
    assert line == (
        'iter:    12, loss: 0.250|1.000|1.750, p@3: 50.00%, ETA: 1:01:01 (0.50s/it)'
    )


def test_log_line_of_a_long_run_fits_a_terminal():
    iteration = make_iteration(12345, np.arange(4), np.ones((4, 1)))
    outcome = iteration.outcome._replace(
        losses=tf.constant([10.0] * 4), precision_at_k=tf.constant(1.0)
    )
    slow = iteration._replace(outcome=outcome, secs_per_iter=36.0)
    line = journal.format_iteration(slow, k=3, last_step=25000)
    # 12655 iterations of 36 s: 126 hours and 33 minutes.
    assert line.endswith('p@3: 100.00%, ETA: 126:33:00 (36.00s/it)')
    assert len(line) < 80 + 5


def test_first_line_does_not_guess_from_the_building_of_the_graph():
    first = make_iteration(1, np.arange(4), np.ones((4, 1)))._replace(secs=31.25)
    line = journal.format_iteration(first, k=3, last_step=100)
    assert line.endswith(', ETA: ? (31.25s/it)')


# --- TensorBoard ------------------------------------------------------------------


def test_scalars_are_the_figures_of_the_iteration(tmp_path, monkeypatch):
    clock = iter([10.0, 17.0])
    monkeypatch.setattr(journal.time, 'perf_counter', lambda: next(clock))
    # Active is a loss above 1e-5: three of these.
    losses = [0.0, 0.9e-5, 1.1e-5, 0.05, 3.9]
    iteration = make_iteration(
        7, np.arange(5), np.ones((5, 1)), losses=losses, loss_scale=512.0
    )
    events = write_journal(tmp_path, [iteration], journal.Scalars(k=2))
    values = {tag: float(value) for (tag, _), value in events.items()}
    assert {step for _, step in events} == {7}
    assert values == pytest.approx(
        {
            'loss': np.mean(losses),
            'batch_top1': 0.75,
            'batch_prec_at_2': 0.5,
            'active_count': 3,
            'learning_rate': 0.1,
            'secs_per_iter': 7,
            'secs_input': 0.125,
            'loss_scale': 512,
        },
        rel=2**-22,  # float32: the mean of five is rounded five times.
    )


def test_loss_scale_is_told_only_where_there_is_one(tmp_path):
    iteration = make_iteration(1, np.arange(4), np.ones((4, 1)))
    events = write_journal(tmp_path, [iteration], journal.Scalars(k=2))
    assert ('loss', 1) in events
    assert ('loss_scale', 1) not in events


def assert_histogram(histogram, values):
    """Compare a histogram [buckets, 3] with the numbers that it should be of."""
    values = np.sort(np.ravel(values).astype(np.float64))
    left, right, counts = histogram.T
    assert (left[0], right[-1]) == pytest.approx((values[0], values[-1]), rel=2**-20)
    assert counts.sum() == len(values)
    # However the buckets are laid, a value is in the one that holds it: so the number
    # of values up to a right end, give or take those that are rounding away from it.
    slack = 2**-20 * np.abs(values).max()
    cumulated = np.cumsum(counts)
    assert np.all(cumulated >= np.searchsorted(values, right - slack))
    assert np.all(cumulated <= np.searchsorted(values, right + slack, 'right'))


@pytest.fixture(scope='module')
def run_of_three(tmp_path_factory, one_block_net):
    """Return the root of a run of two iterations of 3 PIDs with 3 images each."""
    directory = tmp_path_factory.mktemp('data')
    tiny_run.write_dataset(directory)
    tiny_run.start(
        *(directory, directory / 'exp', '--batch_p', '3', '--batch_k', '3'),
        *('--margin', '0.01', '--histogram_frequency', '1', '--detailed_logs'),
    )
    return directory / 'exp'


def test_tensorboard_shows_what_the_logged_embeddings_say(run_of_three):
    events = read_events(run_of_three)
    pids = np.arange(9) // 3
    is_same = pids[:, None] == pids
    np.fill_diagonal(is_same, False)  # An image is no pair with itself.
    differs = []
    for step in (1, 2):
        embs = read_array(run_of_three, 'embeddings')[step - 1].astype(np.float64)
        losses = read_array(run_of_three, 'losses')[step - 1]
        dists = np.sqrt(((embs[:, None] - embs) ** 2).sum(axis=2))
        order = np.argsort(dists + np.diag([np.inf] * 9), axis=1)[:, :2]
        nearest_are_same = np.take_along_axis(is_same, order, axis=1)
        top1, precision = nearest_are_same[:, 0].mean(), nearest_are_same.mean()
        differs.append(top1 != precision)
        assert float(events['batch_top1', step]) == pytest.approx(top1)
        assert float(events['batch_prec_at_2', step]) == pytest.approx(precision)
        assert float(events['active_count', step]) == np.sum(losses > 1e-5)
        assert float(events['loss', step]) == pytest.approx(losses.mean(), rel=2**-20)
        assert_histogram(events['loss_distribution', step], losses)
        lengths = np.linalg.norm(embs, axis=1)
        assert_histogram(events['embedding_lengths', step], lengths)
        # On the diagonal is the root of what keeps its gradient finite.
        smallest = events['embedding_dists', step][0, 0]
        assert 0 <= smallest < 1e-4 * dists.max()
        own = np.diag([smallest] * 9)
        assert_histogram(events['embedding_dists', step], dists + own)
        pairs = ~is_same & ~np.eye(9, dtype=bool)
        assert_histogram(events['embedding_pos_dists', step], dists[is_same])
        assert_histogram(events['embedding_neg_dists', step], dists[pairs])
    assert any(differs)  # Else one could stand for the other.


def test_histograms_come_when_they_are_due(tmp_path):
    iterations = [
        make_iteration(step, np.arange(4), [[0], [1], [5], [7]]) for step in (1, 2, 3)
    ]
    events = write_journal(tmp_path / 'off', iterations, journal.Histograms(0, 9))
    assert events == {}
    events = write_journal(tmp_path / 'on', iterations, journal.Histograms(2, 9))
    # Pairs on a line: 0 and 1, 5 and 7.
    assert_histogram(events['embedding_pos_dists', 2], [1, 1, 2, 2])
    assert_histogram(events['embedding_neg_dists', 2], 2 * [5, 7, 4, 6])


# --- the progress bar ---------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal that keeps what it shows."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    'stream, quiet, shows',
    [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)],
)
def test_bar_counts_iterations_on_a_terminal(
    tmp_path, monkeypatch, stream, quiet, shows
):
    monkeypatch.setattr(sys, 'stderr', stream())
    with journal.Journal(None, str(tmp_path), range(3, 9), [], quiet) as written:
        for step in (4, 5):
            written.write(make_iteration(step, np.arange(4), np.ones((4, 1))))
    shown = sys.stderr.getvalue()
    if shows:
        assert '3/9' in shown
        assert '5/9' in shown
    else:
        assert shown == ''


def read_in_order(directory):
    """Return what is in the event files of a directory, as TensorBoard orders them."""
    return [path.read_text() for path in sorted(directory.iterdir())]


def begin_events(directory, now, content):
    """Begin an event file as TensorFlow does; see that it is the last one."""
    name = f'events.out.tfevents.{now:010d}.host.{content}.0.v2'
    (directory / name).write_text(content)
    assert name == max(path.name for path in directory.iterdir())


def test_event_files_stay_in_order_whatever_the_clock_does(tmp_path, monkeypatch):
    rename = journal.os.rename
    rng = random.Random(1)
    for number in range(100):
        directory = tmp_path / str(number)
        directory.mkdir()
        for content in 'abcdefgh':
            with monkeypatch.context() as patch:
                left = [rng.randrange(3)]  # Renames until a kill.

                def rename_or_die(*names, left=left):
                    if not left[0]:
                        raise KeyboardInterrupt
                    left[0] -= 1
                    rename(*names)

                patch.setattr(journal.os, 'rename', rename_or_die)
                patch.setattr(journal.time, 'time', lambda: rng.uniform(1, 9))
                with contextlib.suppress(KeyboardInterrupt):
                    journal.put_before_now(str(directory))
            now = rng.uniform(1, 9)
            monkeypatch.setattr(journal.time, 'time', lambda now=now: now)
            journal.put_before_now(str(directory))
            begin_events(directory, int(now), content)
        assert read_in_order(directory) == list('abcdefgh')


# --- speed and arrays ----------------------------------------------------------------


def test_speed_leaves_out_the_first_iteration_and_averages_the_last(monkeypatch):
    # The first takes 30 s to build the graph, then 1 s each, at last one of 3 s.
    ends = iter([100.0, 130.0, 131.0, 132.0, 135.0])
    monkeypatch.setattr(journal.time, 'perf_counter', lambda: next(ends))
    speed = journal.Speed()
    assert speed.tick() == 30
    assert np.isnan(speed.secs_per_iter)
    assert [speed.tick(), speed.tick(), speed.tick()] == [1, 1, 3]
    assert speed.secs_per_iter == pytest.approx(5 / 3)


def test_speed_is_that_of_the_last_fifty_iterations(monkeypatch):
    secs = [30.0] * 9 + [2.0] * 25 + [4.0] * 25
    ends = iter(np.cumsum([100.0, *secs]))
    monkeypatch.setattr(journal.time, 'perf_counter', lambda: next(ends))
    speed = journal.Speed()
    speed.tick()
    speed.leave_out(0.0)  # Still the last fifty.
    for _ in secs[1:]:
        speed.tick()
    assert speed.secs_per_iter == pytest.approx(3)


def test_validation_is_told_and_is_no_time_of_an_iteration(tmp_path, monkeypatch):
    # The iterations take 110, 2 and 3 seconds, the validation before the last one 100.
    clock = iter([50.0, 160.0, 162.0, 265.0])
    monkeypatch.setattr(journal.time, 'perf_counter', lambda: next(clock))
    told = []
    logger = types.SimpleNamespace(info=told.append)
    steps = (1, 2, 3)
    iterations = [make_iteration(s, np.arange(4), np.ones((4, 1))) for s in steps]
    reported = []
    reporter = types.SimpleNamespace(report=reported.append)
    with journal.Journal(logger, str(tmp_path), range(3), [reporter], True) as written:
        for iteration in iterations[:2]:
            written.write(iteration)
        scores = types.SimpleNamespace(mAP=0.5, top1=0.25)
        written.write_validation(2, scores, {'step': 1, 'mAP': 0.625}, 100.0)
        written.write(iterations[2])
    assert told == [
        'validation after iteration 2: mAP 50.00%, top-1 25.00% '
        '(best mAP 62.50% after iteration 1), 100.0 s'
    ]
    assert [iteration.secs for iteration in reported] == [110, 2, 3]
    means = [iteration.secs_per_iter for iteration in reported]
    assert math.isnan(means[0])
    assert means[1:] == [2, 2.5]
    assert read_events(tmp_path) == {('val/mAP', 2): 0.5, ('val/top1', 2): 0.25}


def test_pictures_show_the_images_that_are_there_and_their_pids(tmp_path, monkeypatch):
    drawn = []

    def draw_batch(images, pids, batch_k):
        drawn.append(('batch', images.tolist(), pids.tolist(), batch_k))
        return np.zeros((2, 3, 3), np.uint8)

    def draw_hardest(images, pids, dists):
        drawn.append(('hardest', images.tolist(), pids.tolist(), dists.tolist()))

    monkeypatch.setattr(journal.batch_pictures, 'draw_batch', draw_batch)
    monkeypatch.setattr(journal.batch_pictures, 'draw_hardest', draw_hardest)
    pictures = journal.Pictures(2, np.array(['a', 'b', 'c'], object), batch_k=2)
    rows = np.array([2, 0, 1, 1])
    iterations = [
        make_iteration(step, rows, [[0], [1], [5], [7]])._replace(
            batch=batches.Batch(rows, tf.constant([8, 9]))
        )
        for step in (1, 2, 3)
    ]
    events = write_journal(tmp_path, iterations, pictures)
    # Two of the four images are this process's.
    assert drawn == [
        ('batch', [8, 9], ['c', 'a'], 2),
        ('hardest', [8, 9], ['c', 'a'], [[0, 1], [1, 0]]),
    ]
    assert {*events} == {('images/batch', 2)}
    width, height, _ = events['images/batch', 2]
    assert (int(width), int(height)) == (3, 2)


def test_detailed_logs_hold_every_iteration_and_go_on_when_resumed(tmp_path):
    fids = np.array(['a.jpg', 'ü.jpg', 'c.jpg'], dtype=object)
    rows = np.array([0, 1, 2, 1])
    first = journal.DetailedLogs(str(tmp_path), 3, 4, 2, fids)
    first.report(make_iteration(1, rows, np.full((4, 2), 7)))
    first.close()
    resumed = journal.DetailedLogs(str(tmp_path), 5, 4, 2, fids)
    resumed.report(make_iteration(5, rows[::-1], np.full((4, 2), 9)))
    resumed.close()
    arrays = {}
    for name in ('embeddings', 'losses', 'fids'):
        header = json.loads((tmp_path / f'{name}.json').read_text())
        shape = tuple(header['shape'])
        arrays[name] = np.memmap(tmp_path / name, header['dtype'], 'r', shape=shape)
    assert arrays['embeddings'].shape == (5, 4, 2)
    np.testing.assert_array_equal(arrays['embeddings'][0], np.full((4, 2), 7))
    np.testing.assert_array_equal(arrays['embeddings'][1:4], 0)
    np.testing.assert_array_equal(arrays['embeddings'][4], np.full((4, 2), 9))
    np.testing.assert_array_equal(arrays['losses'][0], [0.25, 0.5, 1.75, 1.5])
    names = [name.decode('utf-8') for name in arrays['fids'][4]]
    assert names == ['ü.jpg', 'c.jpg', 'ü.jpg', 'a.jpg']


def test_detailed_logs_of_another_shape_are_not_overwritten(tmp_path):
    fids = np.array(['a.jpg'], dtype=object)
    journal.DetailedLogs(str(tmp_path), 3, 4, 2, fids).close()
    with pytest.raises(ValueError, match=r'embeddings holds rows <f4 \[4, 2\], this'):
        journal.DetailedLogs(str(tmp_path), 3, 8, 2, fids)
