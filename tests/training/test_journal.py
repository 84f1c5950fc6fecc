"""Log lines, detailed logs and the running speed."""

import json

import numpy as np
import pytest
import tensorflow as tf

import batches
from training import journal
from training.step import Outcome


def make_outcome(embs):
    """Return what a training step returns, for embeddings [B, D]."""
    embs = np.float32(embs)
    dists = np.abs(embs - embs.T) if embs.shape[1] == 1 else np.zeros(2 * [len(embs)])
    return Outcome(
        losses=tf.constant([0.25, 0.5, 1.75, 1.5]),
        embs=tf.constant(embs),
        lengths=tf.norm(embs, axis=1),
        dists=tf.constant(np.float32(dists)),
        top1=tf.constant(0.75),
        precision_at_k=tf.constant(0.5),
        loss_scale=None,
    )


def make_iteration(step, rows, embs):
    """Return a journal.Iteration of rows of the data set with such embeddings."""
    return journal.Iteration(
        step,
        batches.Batch(rows, images=None),
        pids=None,
        learning_rate=0.1,
        outcome=make_outcome(embs),
        secs_input=0.0,
    )


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


def test_speed_leaves_out_the_first_iteration_and_averages_the_last(monkeypatch):
    # The first takes 30 s to build the graph, then 1 s each, at last one of 3 s.
    ends = iter([100.0, 130.0, 131.0, 132.0, 135.0])
    monkeypatch.setattr(journal.time, 'perf_counter', lambda: next(ends))
    speed = journal.Speed()
    assert speed.tick() == 30
    assert np.isnan(speed.secs_per_iter)
    assert [speed.tick(), speed.tick(), speed.tick()] == [1, 1, 3]
    assert speed.secs_per_iter == pytest.approx(5 / 3)


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
