"""What a run tells: log, arrays, TensorBoard."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import (
    event_accumulator,
    plugin_event_accumulator,
)

import tiny_run
from run_files import (
    log_of,
    read_array,
)

pytestmark = pytest.mark.usefixtures('one_block_net')


def test_log_has_a_line_per_iteration(finished):
    lines = [line for line in log_of(finished).splitlines() if 'iter:' in line]
    assert len(lines) == 4
    losses = read_array(finished, 'losses')
    for number, line in enumerate(lines, start=1):
        found = re.search(
            r'INFO iter: +(\d+), loss: ([\d.]+)\|([\d.]+)\|([\d.]+), '
            r'p@1: \d+\.\d\d%, ETA: (\?|\d+:\d\d:\d\d) \(\d+\.\d\ds/it\)$',
            line,
        )
        assert int(found[1]) == number
        assert (found[5] == '?') == (number == 1)  # Nobody knows yet.
        row = losses[number - 1]
        np.testing.assert_allclose(
            [float(found[i]) for i in (2, 3, 4)],
            [row.min(), row.mean(), row.max()],
            atol=5.1e-4,  # Three decimals.
        )


def test_log_ends_with_the_checkpoint(finished):
    last = log_of(finished).splitlines()[-1]
    assert last.endswith(f'finished after 4 iterations: {finished}/checkpoint-4')


def test_detailed_logs_are_arrays_with_headers(finished):
    headers = {
        name: json.loads((finished / f'{name}.json').read_text())
        for name in ('embeddings', 'losses', 'fids')
    }
    # Four iterations of 2 x 2 images, 8 dimensions; '0_0.png' has seven characters.
    assert headers == {
        'embeddings': {'dtype': '<f4', 'shape': [4, 4, 8]},
        'losses': {'dtype': '<f4', 'shape': [4, 4]},
        'fids': {'dtype': '|S7', 'shape': [4, 4]},
    }
    for row in read_array(finished, 'fids'):
        pids = [fid.decode().partition('_')[0] for fid in row]
        assert pids[0] == pids[1] != pids[2] == pids[3]
    assert np.all(np.any(read_array(finished, 'embeddings'), axis=2))


def test_logged_loss_is_that_of_the_logged_embeddings(finished):
    embs = read_array(finished, 'embeddings')[0].astype(np.float64)
    dists = np.sqrt(((embs[:, None] - embs[None]) ** 2).sum(axis=2))
    # Images 0 and 1 show one person, 2 and 3 another.
    expected = [
        np.log1p(np.exp(dists[i, i ^ 1] - dists[i, [2, 3] if i < 2 else [0, 1]].min()))
        for i in range(4)
    ]
    np.testing.assert_allclose(read_array(finished, 'losses')[0], expected, 1e-4)


def read_events(root):
    """Return {(tag, step): value} of an event file; histograms have no value."""
    (event_file,) = root.glob('events.out.tfevents.*')
    events = {}
    for record in tf.data.TFRecordDataset(str(event_file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            is_scalar = value.HasField('simple_value')
            plugin = value.metadata.plugin_data.plugin_name
            number = value.simple_value if is_scalar else plugin
            events[value.tag, event.step] = number
    return events


def test_tensorboard_gets_scalars_and_histograms(finished):
    events = read_events(finished)
    tags = {step: {tag for tag, s in events if s == step} for step in range(1, 5)}
    scalars = {
        *('loss', 'batch_top1', 'batch_prec_at_1', 'active_count'),
        *('learning_rate', 'secs_per_iter', 'secs_input'),
    }
    histograms = {
        *('loss_distribution', 'embedding_lengths', 'embedding_dists'),
        *('embedding_pos_dists', 'embedding_neg_dists'),
    }
    assert tags[3] == scalars
    assert tags[1] == tags[2] == tags[4] == scalars | histograms
    means = read_array(finished, 'losses').mean(axis=1)
    for step in range(1, 5):
        np.testing.assert_allclose(events['loss', step], means[step - 1], 1e-6)
        assert events['active_count', step] == 4  # A soft loss is never 0.
        assert 0 <= events['batch_top1', step] <= 1
        assert 0 < events['secs_input', step] < events['secs_per_iter', step]
    # Constant for two iterations, then halfway to a thousandth.
    rates = [events['learning_rate', step] for step in range(1, 5)]
    np.testing.assert_allclose(rates, 3e-4 * np.array([1, 1, 1, 0.001**0.5]), 1e-6)


def test_scalars_are_found_by_readers_of_tensorflow_1_and_2(finished):
    expected = read_array(finished, 'losses').mean(axis=1)
    old = event_accumulator.EventAccumulator(str(finished)).Reload()
    scalars = old.Scalars('loss')
    assert [event.step for event in scalars] == [1, 2, 3, 4]
    np.testing.assert_allclose([event.value for event in scalars], expected, 1e-6)
    new = plugin_event_accumulator.EventAccumulator(str(finished)).Reload()
    tensors = [event.tensor_proto for event in new.Tensors('loss')]
    np.testing.assert_allclose([*map(tf.make_ndarray, tensors)], expected, 1e-6)


def test_lengths_are_those_before_the_head_normalises(data, tmp_path):
    tiny_run.start(data, tmp_path, '--head_name', 'direct_normalize')
    accumulator = plugin_event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    first = accumulator.Tensors('embedding_lengths')[0].tensor_proto
    edges = tf.make_ndarray(first)  # [buckets, 3]: left, right, count.
    counts = edges[:, 2]
    assert counts.sum() == 4
    middles = edges[counts > 0, :2].mean(axis=1)
    assert np.abs(middles - 1).max() > 0.01  # All are 1 behind the head.


def test_log_says_how_and_where_from_the_run_learns(finished):
    log = log_of(finished)
    for row in (
        r'loss +batch_hard, margin soft',
        r'metric +euclidean',
        r'optimizer +adam',
        r'learning rate +0\.0003, from iteration 2 down to 3e-07 at 4',
        r'seed +1',
    ):
        assert re.search(rf'INFO   {row}\n', log)
    assert 'Starting training from iteration 0.' in log


def test_precision_is_at_k_minus_1(data, tmp_path):
    tiny_run.start(data, tmp_path, '--batch_k', '3', '--histogram_frequency', '0')
    tags = {tag for tag, _ in read_events(tmp_path)}
    assert 'batch_prec_at_2' in tags
    assert 'embedding_dists' not in tags
    assert ', p@2: ' in log_of(tmp_path)
