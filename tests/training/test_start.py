"""The first start of a run, and what it computes."""

import argparse
import json
import os
import re

import numpy as np
import pytest

import checkpoints
import model
import nets._mobilenet
import tiny_run
import train
from run_files import (
    assert_same_state,
    list_names,
    log_of,
    read_array,
    refuse,
)

pytestmark = pytest.mark.usefixtures('one_block_net')


def test_args_json_holds_every_flag(finished):
    text = (finished / 'args.json').read_text(encoding='utf-8')
    stored = json.loads(text)
    actions = {action.dest for action in train.build_parser()._actions}
    expected = actions - {'help', argparse.SUPPRESS}  # The latter: version.
    assert set(stored) == expected | {'train_set_checksum'}
    assert text == json.dumps(stored, indent=2, sort_keys=True) + '\n'
    assert stored['seed'] == 1


def test_checkpoints_include_step_0_and_the_last(finished):
    indices = list_names(finished, 'checkpoint-*.index')
    assert indices == [f'checkpoint-{step}.index' for step in range(5)]
    assert tiny_run.read_checkpoint(finished, 4)['global_step'] == 4


def test_checkpoint_frequency_0_keeps_only_the_first_and_the_last(data, tmp_path):
    tiny_run.start(data, tmp_path / 'exp', '--checkpoint_frequency', '0')
    indices = list_names(tmp_path / 'exp', 'checkpoint-*.index')
    assert indices == ['checkpoint-0.index', 'checkpoint-2.index']


@pytest.mark.parametrize(
    'keep, steps', [('0', [0, 1, 2, 3]), ('2', [2, 3]), ('9', [0, 1, 2, 3])]
)
def test_newest_checkpoints_are_kept(data, tmp_path, keep, steps):
    more = ['--checkpoint_frequency', '1', '--keep_checkpoints', keep]
    tiny_run.start(data, tmp_path / 'exp', *more)
    tiny_run.resume(tmp_path / 'exp', '--train_iterations', '3')
    indices = list_names(tmp_path / 'exp', 'checkpoint-*.index')
    assert indices == [f'checkpoint-{step}.index' for step in steps]
    log = log_of(tmp_path / 'exp')
    planned = min(3, int(keep) or 3)  # Of the first two iterations: 0, 1 and 2.
    assert re.search(rf'checkpoints  {planned} of 0\.00 GB: 0\.00 GB', log)


def test_relative_experiment_root_is_made(monkeypatch, data, tmp_path):
    monkeypatch.chdir(tmp_path)
    tiny_run.start(data, 'new/exp', '--train_iterations', '1')
    assert (tmp_path / 'new' / 'exp' / 'checkpoint-1.index').is_file()


@pytest.mark.parametrize('existed', [False, True])
@pytest.mark.parametrize(
    'more, message',
    [
        (['--batch_p', '5'], 'has 4 PIDs, fewer than --batch_p 5; choose a smaller'),
        (['--initial_checkpoint', 'no.ckpt'], 'no.ckpt is not a checkpoint: no such'),
    ],
)
def test_failed_start_leaves_nothing_behind(data, tmp_path, existed, more, message):
    root = tmp_path / 'exp'
    if existed:
        root.mkdir()
    with pytest.raises((ValueError, OSError), match=message):
        tiny_run.start(data, root, *more)
    assert root.exists() == existed
    assert not list(tmp_path.glob('exp/*'))


@pytest.mark.parametrize('existed', [False, True])
def test_start_on_a_full_disk_leaves_nothing_behind(
    monkeypatch, data, tmp_path, existed
):
    def save(self, step):
        assert sorted(os.listdir(root)) == ['.lock', 'args.json']
        raise OSError('cannot write checkpoint-0')

    monkeypatch.setattr(checkpoints.TrainingState, 'save', save)
    root = tmp_path / 'exp'
    if existed:
        root.mkdir()
    with pytest.raises(OSError, match='cannot write checkpoint-0'):
        tiny_run.start(data, root)
    assert root.exists() == existed
    assert not list(tmp_path.glob('exp/*'))
    assert not (root / '.lock').exists()


def test_same_seed_same_run_and_another_seed_another(data, finished, tmp_path):
    more = [f'--{name}' for name in ('flip_augment', 'crop_augment', 'detailed_logs')]
    more += ['--pre_crop_height', '36', '--pre_crop_width', '16']
    more += ['--train_iterations', '4', '--decay_start_iteration', '2']
    tiny_run.start(data, tmp_path / 'same', *more)
    tiny_run.start(data, tmp_path / 'other', *more, '--seed', '2')
    ours, same, other = (
        [tiny_run.read_checkpoint(root, step) for step in (0, 4)]
        for root in (finished, tmp_path / 'same', tmp_path / 'other')
    )
    assert_same_state(ours[0], same[0])
    assert_same_state(ours[1], same[1])
    for name in ('MobilenetV1/Conv2d_0/weights', 'emb/weights'):
        assert not np.array_equal(ours[0][name], other[0][name])
    drawn = read_array(finished, 'fids')
    assert np.array_equal(drawn, read_array(tmp_path / 'same', 'fids'))
    assert not np.array_equal(drawn, read_array(tmp_path / 'other', 'fids'))


def test_layers_of_one_shape_start_with_different_weights(monkeypatch):
    # Both pointwise convolutions after the first map 8 to 8 channels.
    monkeypatch.setattr(nets._mobilenet, 'SEPARABLE', ((8, 1),) * 3)
    network = model.build_model('mobilenet_v1_1_224', 'direct', 8)
    variables = {v.path: v.numpy() for v in network.variables}
    a, b = (variables[f'MobilenetV1/Conv2d_{i}_pointwise/weights'] for i in (2, 3))
    assert a.shape == b.shape
    assert not np.array_equal(a, b)


def test_initial_checkpoint_gives_the_net_and_leaves_the_head_random(
    data, finished, tmp_path
):
    root = tmp_path / 'exp'
    source = finished / 'checkpoint-4'
    tiny_run.start(data, root, '--initial_checkpoint', str(source), '--seed', '2')
    old, new = (tiny_run.read_checkpoint(r, s) for r, s in ((finished, 4), (root, 0)))
    for name in new:
        if name.startswith('MobilenetV1/') and '/Adam' not in name:
            np.testing.assert_array_equal(new[name], old[name])
    assert not np.array_equal(new['emb/weights'], old['emb/weights'])
    assert new['global_step'] == 0
    assert '15 variables loaded, 2 left random (emb/biases, emb/weights), ' in (
        log_of(root)
    )


@pytest.mark.parametrize(
    'more',
    [
        ['--batch_k', '1'],
        ['--batch_k', '1', '--batch_p', '4', '--margin', '0.2'],
        ['--batch_p', '4'],  # All of them, one with fewer than K images.
        ['--batch_p', '1', '--batch_k', '3'],  # No negatives: softplus(-inf) = 0.
        ['--batch_p', '3', '--metric', 'cityblock', '--margin', 'none'],
        ['--metric', 'sqeuclidean', '--head_name', 'fc1024_normalize'],
        ['--loss', 'batch_all_nonzero', '--metric', 'cosine', '--margin', '0.3'],
        ['--loss', 'lifted', '--margin', '1.0', '--batch_k', '4'],
        ['--crop_augment', '--pre_crop_height', '32', '--pre_crop_width', '16'],
        ['--pad_crop', '4', '--color_jitter', '0.3', '--random_erasing', '0.5'],
    ],
)
def test_run_of_any_shape_finishes(data, tmp_path, more):
    tiny_run.start(data, tmp_path / 'exp', *more)
    assert 'finished after 2 iterations' in log_of(tmp_path / 'exp')


def test_drawn_pairs_are_the_same_after_an_interruption(data, tmp_path):
    # Each anchor has two positives and nine negatives to draw from.
    more = ('--loss', 'batch_sample', '--batch_p', '4', '--batch_k', '3')
    more = (*more, '--detailed_logs', '--learning_rate', '1e-6')
    tiny_run.start(data, tmp_path / 'whole', *more, '--train_iterations', '3')
    tiny_run.start(data, tmp_path / 'parts', *more, '--train_iterations', '1')
    tiny_run.resume(tmp_path / 'parts', '--train_iterations', '3', '--detailed_logs')
    whole, parts = (read_array(tmp_path / r, 'losses') for r in ('whole', 'parts'))
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize(
    'more, warning',
    [
        (['--batch_k', '1'], '--batch_k 1 leaves no positive pair: images are only'),
        (['--batch_p', '1'], '--batch_p 1 leaves no negative pair: a soft loss is 0'),
        (['--margin', '-0.5'], '--margin -0.5 is negative: pairs count as solved'),
        (
            ['--warmup_iterations', '8'],
            '--warmup_iterations 8 is longer than the run of --train_iterations 2: the '
            'learning rate ends at 7.5e-05 and never reaches 0.0003',
        ),
        ([], None),
    ],
)
def test_what_is_hardly_meant_is_warned_of(data, tmp_path, more, warning):
    parsed = train.flags.parse_args('', tiny_run.flags(data, tmp_path / 'exp', *more))
    assert len(parsed.warnings) == (warning is not None)
    assert all(text.startswith(warning) for text in parsed.warnings)


@pytest.mark.parametrize(
    'more, message',
    [
        (['--margin', 'nan'], "nan given, a finite number, 'soft' or 'none' expected"),
        (['--margin', 'inf'], "inf given, a finite number, 'soft' or 'none' expected"),
        (
            ['--val_every', '5'],
            '--val_every 5 needs a --val_set, which is scored so often',
        ),
        (
            ['--experiment_root', ''],
            "--experiment_root: '' given, a path expected (of a variable that is not "
            'set?); the current directory is .',
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(
    monkeypatch, data, tmp_path, capsys, more, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refuse(capsys, tiny_run.flags(data, tmp_path / 'exp', *more))
    assert list_names(tmp_path, '*') == []


def test_loss_and_logs_see_what_a_head_trains_on(data, tmp_path):
    root = tmp_path / 'exp'
    tiny_run.start(data, root, '--head_name', 'bnneck', '--detailed_logs')
    means = np.mean(read_array(root, 'embeddings'), axis=1)  # [T, D]
    state = tiny_run.read_checkpoint(root, 2)
    # Raw embeddings: their means are what the batch norm behind them has averaged.
    expected = 0.9 * 0.1 * means[0] + 0.1 * means[1]
    np.testing.assert_allclose(state['bnneck/moving_mean'], expected, atol=1e-6)
    np.testing.assert_array_equal(state['bnneck/gamma'], [1] * 8)


@pytest.mark.parametrize(
    'more, message',
    [
        (
            ['--loss', 'lifted'],
            "--loss lifted takes a number as margin, not 'soft'; give one, such as 1.0",
        ),
        (
            ['--loss', 'batch_all', '--batch_k', '1'],
            '--loss batch_all has no triplet in a batch of --batch_p 2 --batch_k 1; '
            'both must be at least 2',
        ),
        (['--loss', 'batch_sample', '--batch_p', '1'], 'both must be at least 2'),
    ],
)
def test_loss_that_could_not_be_computed_is_refused(
    data, tmp_path, capsys, more, message
):
    root = tmp_path / 'exp'
    assert message in refuse(capsys, tiny_run.flags(data, root, *more))
    assert not root.exists()
