"""train.py in this process, with a net of one block: flags, resuming, logs, faults."""

import argparse
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import common
import model
import nets._mobilenet
import tiny_run
import train
from training import flags, journal, loop, optimizers

pytestmark = pytest.mark.usefixtures('one_block_net')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Return a directory with train.csv: four PIDs, the last with a single image."""
    directory = tmp_path_factory.mktemp('data')
    tiny_run.write_dataset(directory, num_images=(3, 3, 3, 1))
    return directory


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """Return the root of a run of four iterations with all that can be logged."""
    root = tmp_path_factory.mktemp('finished') / 'exp'
    tiny_run.start(
        data,
        root,
        *('--train_iterations', '4', '--decay_start_iteration', '2'),
        *('--flip_augment', '--crop_augment'),
        *('--pre_crop_height', str(tiny_run.HEIGHT + 4)),
        *('--pre_crop_width', str(tiny_run.WIDTH)),  # No margin to the sides.
        *('--checkpoint_frequency', '1', '--histogram_frequency', '2'),
        '--detailed_logs',
    )
    return root


@pytest.fixture
def experiment(data, finished, tmp_path):
    """Return the root of a run to be resumed: two of the four iterations are made."""
    root = tmp_path / 'exp'
    root.mkdir()
    for name in ('args.json', 'train.log', *list_names(finished, 'checkpoint-2.*')):
        shutil.copy(finished / name, root)
    (root / 'checkpoint').write_text('model_checkpoint_path: "checkpoint-2"\n')
    for name in ('embeddings', 'losses', 'fids'):
        header = json.loads((finished / f'{name}.json').read_text())
        rows = read_array(finished, name)[:2]
        (root / name).write_bytes(rows.tobytes())
        header['shape'][0] = 2
        (root / f'{name}.json').write_text(json.dumps(header))
    return root


def list_names(directory, pattern):
    """Return the sorted names of files in a directory."""
    return sorted(path.name for path in directory.glob(pattern))


def read_array(root, name):
    """Return an array of --detailed_logs as its documentation says."""
    header = json.loads((root / f'{name}.json').read_text())
    return np.memmap(root / name, header['dtype'], 'r', shape=tuple(header['shape']))


def read_args(root):
    return json.loads((root / 'args.json').read_text(encoding='utf-8'))


def change_args(root, **values):
    """Set values in args.json; None removes a key."""
    changed = read_args(root) | values
    kept = {name: value for name, value in changed.items() if value is not None}
    (root / 'args.json').write_text(json.dumps(kept))


def log_of(root):
    return (root / 'train.log').read_text(encoding='utf-8')


def assert_same_state(a, b):
    """Compare two checkpoints bit for bit: weights, moving averages, moments, step."""
    # save_counter is TensorFlow's own: how often a process has saved.
    names = set(a) - {'save_counter'}
    assert names == set(b) - {'save_counter'}
    assert any(name.endswith('/Adam_1') for name in names)
    for name in names:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def refuse(capsys, argv):
    """Return what train.py prints when it leaves because of its flags."""
    with pytest.raises(SystemExit) as stop:
        train.main(argv)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert not any('Traceback' in line for line in lines)
    return lines[-1]


# --- flags -----------------------------------------------------------------------


@pytest.mark.parametrize(
    'text, value', [('soft', 'soft'), ('none', 'none'), ('0.2', 0.2), ('1', 1.0)]
)
def test_margin_is_a_word_or_a_number(text, value):
    assert flags.margin(text) == value


def parse(argv):
    """Return (args, notes) of a command line."""
    return flags.parse_args(train.__doc__, argv)


def test_smallest_call_has_the_defaults_of_the_paper(data, tmp_path):
    args, notes = parse(
        [
            *('--experiment_root', str(tmp_path / 'exp')),
            *('--train_set', str(data / 'train.csv'), '--image_root', str(data)),
        ]
    )
    expected = {
        'model_name': 'resnet_v1_50',
        'head_name': 'fc1024',
        'embedding_dim': 128,
        'initial_checkpoint': None,
        'batch_p': 32,
        'batch_k': 4,
        'net_input_height': 256,
        'net_input_width': 128,
        'pre_crop_height': 288,
        'pre_crop_width': 144,
        'loading_threads': 8,
        'margin': 'soft',
        'metric': 'euclidean',
        'loss': 'batch_hard',
        'optimizer': 'adam',
        'learning_rate': 3e-4,
        'weight_decay': 0,
        'warmup_iterations': 0,
        'adam_beta1_at_decay': 0.9,
        'train_iterations': 25000,
        'decay_start_iteration': 15000,
        'checkpoint_frequency': 1000,
        'flip_augment': False,
        'crop_augment': False,
        'pad_crop': 0,
        'color_jitter': 0,
        'random_erasing': 0,
        'detailed_logs': False,
        'resume': False,
    }
    assert expected.items() <= vars(args).items()
    assert notes == []
    assert not (tmp_path / 'exp').exists()


def test_seed_is_drawn_when_absent(data, tmp_path):
    argv = tiny_run.flags(data, tmp_path / 'exp')
    at = argv.index('--seed')
    seeds = {parse(argv[:at] + argv[at + 2 :])[0].seed for _ in range(3)}
    assert len(seeds) > 1
    assert all(isinstance(seed, int) for seed in seeds)


@pytest.mark.parametrize(
    'more, message',
    [
        (['--batch_p', '0'], 'argument --batch_p: 0 given, at least 1 expected'),
        (['--margin', 'hard'], "'hard' given, a number, 'soft' or 'none' expected"),
        (['--metric', 'hamming'], "argument --metric: invalid choice: 'hamming'"),
        (['--model_name', 'vgg'], "argument --model_name: invalid choice: 'vgg'"),
        (['--learning_rate', '-1'], '-1 given, a number above 0 expected'),
        (
            ['--batch_p', '1', '--batch_k', '1'],
            '--batch_p 1 with --batch_k 1 leaves no pair; raise one of them',
        ),
        (
            ['--crop_augment', '--pre_crop_height', '31', '--pre_crop_width', '16'],
            'a net input of 32x16 pixels does not fit into the pre-crop size of 31x16; '
            'raise --pre_crop_height and --pre_crop_width',
        ),
        (['--optimizer', 'nadam'], "argument --optimizer: invalid choice: 'nadam'"),
        (['--weight_decay', '-1'], '-1 given, at least 0 expected'),
        (['--adam_beta1_at_decay', '1'], '1 given, a number from 0 to below 1 expect'),
        (
            ['--optimizer', 'adamw'],
            '--optimizer adamw without --weight_decay is adam; give it one, such as '
            "0.004, Keras' default, or choose adam",
        ),
        (
            ['--optimizer', 'sgd', '--adam_beta1_at_decay', '0.5'],
            '--adam_beta1_at_decay needs --optimizer adam or adamw, not sgd',
        ),
        (
            ['--adam_beta1_at_decay', '0.5', '--decay_start_iteration', '2'],
            '--adam_beta1_at_decay needs a decay; --decay_start_iteration 2 begins '
            'none within --train_iterations 2',
        ),
        (['--random_erasing', '50'], '50 given, a number from 0 to 1 expected'),
        (['--color_jitter', '-1'], '-1 given, a number from 0 to 1 expected'),
        (['--pad_crop', '-1'], 'argument --pad_crop: -1 given, at least 0 expected'),
        (
            ['--crop_augment', '--pad_crop', '4'],
            '--pad_crop 4 and --crop_augment both say where the net input is cut out; '
            'leave one of them out',
        ),
        (['--image_root', '/nowhere'], '--image_root /nowhere is not a directory'),
    ],
)
def test_bad_flag_is_refused_before_anything_is_written(
    capsys, data, tmp_path, more, message
):
    line = refuse(capsys, tiny_run.flags(data, tmp_path / 'exp', *more))
    assert message in line
    assert not (tmp_path / 'exp').exists()


@pytest.mark.parametrize('name', ['train_set', 'image_root'])
def test_new_run_needs_the_data_set(capsys, data, tmp_path, name):
    argv = tiny_run.flags(data, tmp_path / 'exp')
    at = argv.index(f'--{name}')
    line = refuse(capsys, argv[:at] + argv[at + 2 :])
    assert line.endswith(f'--{name} is required (see --help)')


def test_pre_crop_size_does_not_matter_without_crops(data, tmp_path):
    small = ['--pre_crop_height', '1', '--pre_crop_width', '1']
    args, _ = parse(tiny_run.flags(data, tmp_path / 'exp', *small))
    assert args.pre_crop_height == 1


def test_new_run_in_a_filled_directory_is_refused(capsys, data, tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    line = refuse(capsys, tiny_run.flags(data, tmp_path))
    assert 'is not empty; add --resume to continue it, or choose a new dir' in line
    assert os.listdir(tmp_path) == ['notes.txt']


def test_file_in_place_of_the_experiment_root_is_refused(capsys, data, tmp_path):
    (tmp_path / 'exp').write_text('mine')
    line = refuse(capsys, tiny_run.flags(data, tmp_path / 'exp'))
    assert 'is a file; choose a new directory' in line


# --- the first start -------------------------------------------------------------


def test_args_json_holds_every_flag(finished):
    text = (finished / 'args.json').read_text(encoding='utf-8')
    stored = json.loads(text)
    actions = {action.dest for action in train.build_parser()._actions}
    assert set(stored) == actions - {'help', argparse.SUPPRESS}  # The latter: version.
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
        assert os.listdir(root) == ['args.json']
        raise OSError('cannot write checkpoint-0')

    monkeypatch.setattr(checkpoints.TrainingState, 'save', save)
    root = tmp_path / 'exp'
    if existed:
        root.mkdir()
    with pytest.raises(OSError, match='cannot write checkpoint-0'):
        tiny_run.start(data, root)
    assert root.exists() == existed
    assert not list(tmp_path.glob('exp/*'))


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


# --- what it tells ---------------------------------------------------------------


def test_log_has_a_line_per_iteration(finished):
    lines = [line for line in log_of(finished).splitlines() if 'iter:' in line]
    assert len(lines) == 4
    losses = read_array(finished, 'losses')
    for number, line in enumerate(lines, start=1):
        found = re.search(
            r'INFO iter: +(\d+), loss min\|avg\|max: ([\d.]+)\|([\d.]+)\| *([\d.]+), '
            r'batch-p@1: \d+\.\d\d%, ETA: \d+:\d\d:\d\d \(\d+\.\d\ds/it\)$',
            line,
        )
        assert int(found[1]) == number
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
            plugin = value.metadata.plugin_data.plugin_name
            is_scalar = value.tensor.tensor_shape.dim == []
            number = tf.make_ndarray(value.tensor) if is_scalar else plugin
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
    assert tags[1] == tags[3] == scalars
    assert tags[2] == tags[4] == scalars | histograms
    means = read_array(finished, 'losses').mean(axis=1)
    for step in range(1, 5):
        np.testing.assert_allclose(events['loss', step], means[step - 1], 1e-6)
        assert events['active_count', step] == 4  # A soft loss is never 0.
        assert 0 <= events['batch_top1', step] <= 1
        assert 0 < events['secs_input', step] < events['secs_per_iter', step]
    # Constant for two iterations, then halfway to a thousandth.
    rates = [events['learning_rate', step] for step in range(1, 5)]
    np.testing.assert_allclose(rates, 3e-4 * np.array([1, 1, 1, 0.001**0.5]), 1e-6)


def test_precision_is_at_k_minus_1(data, tmp_path):
    tiny_run.start(data, tmp_path, '--batch_k', '3', '--histogram_frequency', '0')
    tags = {tag for tag, _ in read_events(tmp_path)}
    assert 'batch_prec_at_2' in tags
    assert 'embedding_dists' not in tags
    assert 'batch-p@2: ' in log_of(tmp_path)


# --- resuming --------------------------------------------------------------------


def test_resumed_run_equals_the_uninterrupted_one(experiment, finished):
    tiny_run.resume(experiment)
    assert_same_state(
        tiny_run.read_checkpoint(experiment, 4), tiny_run.read_checkpoint(finished, 4)
    )
    for name in ('embeddings', 'losses', 'fids'):
        np.testing.assert_array_equal(
            read_array(experiment, name), read_array(finished, name)
        )


def test_resumed_schedule_and_optimizer_equal_the_uninterrupted_ones(data, tmp_path):
    flags = [
        *('--train_iterations', '4', '--decay_start_iteration', '2'),
        *('--optimizer', 'adamw', '--weight_decay', '0.1'),
        *('--warmup_iterations', '3', '--adam_beta1_at_decay', '0.5'),
        *('--color_jitter', '0.2', '--random_erasing', '0.5', '--pad_crop', '2'),
        *('--checkpoint_frequency', '1'),
    ]
    whole, part = tmp_path / 'whole', tmp_path / 'part'
    tiny_run.start(data, whole, *flags)
    part.mkdir()
    for name in ('args.json', *list_names(whole, 'checkpoint-1.*')):
        shutil.copy(whole / name, part)
    (part / 'checkpoint').write_text('model_checkpoint_path: "checkpoint-1"\n')
    tiny_run.resume(part)
    assert_same_state(
        tiny_run.read_checkpoint(part, 4), tiny_run.read_checkpoint(whole, 4)
    )


def test_moved_experiment_resumes_where_it_is(monkeypatch, experiment, tmp_path):
    (experiment / 'checkpoint').write_text(
        'model_checkpoint_path: "/elsewhere/exp/checkpoint-2"\n'
    )
    change_args(experiment, experiment_root='/elsewhere/exp')
    experiment.rename(tmp_path / 'moved')
    monkeypatch.chdir(tmp_path)
    tiny_run.resume('moved')
    assert (tmp_path / 'moved' / 'checkpoint-4.index').is_file()
    assert sorted(os.listdir(tmp_path)) == ['moved']
    assert read_args(tmp_path / 'moved')['experiment_root'] == 'moved'


def test_resuming_a_finished_run_says_so_and_changes_nothing(finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'exp')
    before = list_names(tmp_path / 'exp', '*')
    assert tiny_run.resume(tmp_path / 'exp') is None
    assert list_names(tmp_path / 'exp', '*') == before
    assert log_of(tmp_path / 'exp').endswith(
        'INFO nothing to do: the run is finished after 4 iterations; raise '
        '--train_iterations to go on\n'
    )


def test_train_iterations_may_grow(experiment):
    tiny_run.resume(experiment, '--train_iterations', '5')
    assert '--train_iterations raised from 4 to 5' in log_of(experiment)
    assert 'finished after 5 iterations' in log_of(experiment)
    assert read_args(experiment)['train_iterations'] == 5
    assert read_array(experiment, 'losses').shape == (5, 4)


def test_train_iterations_may_not_shrink(experiment):
    args, notes = parse(
        ['--experiment_root', str(experiment), '--resume', '--train_iterations', '3'],
    )
    assert args.train_iterations == 4
    assert notes == [
        '--train_iterations 3 ignored: the stored 4 wins when resuming; it can only be '
        'raised',
    ]


def test_stored_value_wins_and_the_difference_is_named(experiment):
    args, notes = parse(
        [
            *('--experiment_root', str(experiment), '--resume'),
            *('--learning_rate', '1', '--margin', '0.5', '--batch_p', '2'),
        ],
    )
    assert (args.learning_rate, args.margin) == (3e-4, 'soft')
    assert notes == [
        '--learning_rate 1.0 ignored: the stored 0.0003 wins when resuming',
        '--margin 0.5 ignored: the stored soft wins when resuming',
    ]


def test_same_train_set_by_a_relative_path_is_no_difference(
    monkeypatch, data, experiment
):
    monkeypatch.chdir(data)
    argv = ['--experiment_root', str(experiment), '--resume']
    args, notes = parse([*argv, '--train_set', 'train.csv'])
    assert notes == []
    assert args.train_set == [str(data / 'train.csv')]


def test_flags_without_mathematics_may_change(data, experiment, tmp_path):
    copy = shutil.copytree(data, tmp_path / 'copy')
    args, notes = parse(
        [
            *('--experiment_root', str(experiment), '--resume'),
            *('--image_root', str(copy), '--loading_threads', '3'),
            *('--checkpoint_frequency', '7', '--histogram_frequency', '9'),
        ],
    )
    assert args.image_root == [str(copy)]
    assert (args.loading_threads, args.checkpoint_frequency) == (3, 7)
    assert args.histogram_frequency == 9
    assert args.detailed_logs  # Stored, and not on the command line.
    assert notes == []


def test_unknown_keys_are_named_and_kept(experiment):
    change_args(experiment, from_the_future=[1, 2], augment='x')
    tiny_run.resume(experiment, '--train_iterations', '4')
    assert (
        'args.json has keys that this version does not know, kept and ignored: '
        'augment, from_the_future' in log_of(experiment)
    )
    assert read_args(experiment)['from_the_future'] == [1, 2]


def test_args_json_of_the_original_is_enough(experiment):
    # Flags that the original does not have.
    change_args(experiment, seed=None, histogram_frequency=None)
    tiny_run.resume(experiment)
    assert isinstance(read_args(experiment)['seed'], int)
    assert 'finished after 4 iterations' in log_of(experiment)


def test_args_json_of_an_older_version_goes_on_as_it_would_have(experiment, finished):
    newer = (
        *('pad_crop', 'color_jitter', 'random_erasing', 'optimizer', 'weight_decay'),
        *('warmup_iterations', 'adam_beta1_at_decay'),
    )
    change_args(experiment, **dict.fromkeys(newer))
    tiny_run.resume(experiment)
    assert_same_state(
        tiny_run.read_checkpoint(experiment, 4), tiny_run.read_checkpoint(finished, 4)
    )
    assert set(newer) <= set(read_args(experiment))


@pytest.mark.parametrize(
    'name, value, message',
    [
        ('embedding_dim', '128', '--embedding_dim is "128", expected a number'),
        ('batch_k', 0, 'argument --batch_k: 0 given, at least 1 expected'),
        ('batch_p', [None], '--batch_p is [null], expected a text or a number'),
        ('batch_p', 4.0, "argument --batch_p: '4.0' given, a whole number expected"),
        ('margin', 'hard', "argument --margin: 'hard' given, a number, 'soft' or"),
        ('learning_rate', float('nan'), 'argument --learning_rate: nan given, a num'),
        ('flip_augment', 'yes', '--flip_augment is "yes", expected true or false'),
        ('flip_augment', 1, '--flip_augment is 1, expected true or false'),
        ('metric', 2, "argument --metric: invalid choice: '2'"),
        ('image_root', 2, '--image_root is 2, expected a text'),
        ('train_set', ['a.csv', 2], '--train_set is ["a.csv", 2], expected a text'),
        ('train_set', {'a': 'b'}, '--train_set is {"a": "b"}, expected a text or'),
    ],
)
def test_stored_value_that_no_flag_takes_is_refused(experiment, name, value, message):
    change_args(experiment, **{name: value})
    with pytest.raises(common.InputError) as error:
        tiny_run.resume(experiment)
    assert str(error.value).startswith(f'{experiment}/args.json: {message}')
    assert str(error.value).endswith('; restore what train.py wrote')


def test_stored_values_are_checked_before_the_command_lines(experiment):
    change_args(experiment, decay_start_iteration=-1)
    args, notes = parse(['--experiment_root', str(experiment), '--resume'])
    assert (args.decay_start_iteration, notes) == (-1, [])


def test_experiment_root_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(FileNotFoundError, match='no args.json .* --experiment_root'):
        tiny_run.resume(tmp_path / 'nothing')
    assert not (tmp_path / 'nothing').exists()


# --- several data sets -----------------------------------------------------------


@pytest.fixture(scope='module')
def two_sets(data, tmp_path_factory):
    """Return the root of a run on `data` and on two other PIDs of the same names."""
    other = tmp_path_factory.mktemp('other')
    tiny_run.write_dataset(other, num_images=(2, 2))
    root = tmp_path_factory.mktemp('two') / 'exp'
    tiny_run.start(
        data,
        root,
        *('--train_set', str(data / 'train.csv'), str(other / 'train.csv')),
        *('--image_root', str(data), str(other)),
        *('--batch_p', '6', '--detailed_logs', '--checkpoint_frequency', '1'),
    )
    return root


def test_identities_of_several_data_sets_are_kept_apart(two_sets):
    # Four PIDs and two: were '0' and '1' of both sets the same, P = 6 would not go.
    for row in read_array(two_sets, 'fids'):
        pids = [fid.decode().partition('_')[0] for fid in row[::2]]
        assert sorted(pids) == ['1:0', '1:1', '1:2', '1:3', '2:0', '2:1']
        assert [fid.decode().partition('_')[0] for fid in row[1::2]] == pids


def test_images_of_several_data_sets_come_from_their_own_roots(data, two_sets):
    stored = read_args(two_sets)
    pids, fids, paths = train.load_train_sets(stored['train_set'], stored['image_root'])
    other = stored['image_root'][1]
    assert stored['image_root'][0] == str(data) != other
    assert list(pids) == ['1:0'] * 3 + ['1:1'] * 3 + ['1:2'] * 3 + ['1:3'] + (
        ['2:0', '2:0', '2:1', '2:1']
    )
    assert (fids[0], paths[0]) == ('1:0_0.png', f'{data}/0_0.png')
    assert (fids[-1], paths[-1]) == ('2:1_1.png', f'{other}/1_1.png')


def test_one_image_root_does_for_several_data_sets(data, tmp_path):
    (tmp_path / 'more.csv').write_text('7,3_0.png\n')
    sets = [str(data / 'train.csv'), str(tmp_path / 'more.csv')]
    argv = tiny_run.flags(data, tmp_path / 'exp', '--train_set', *sets)
    args, _ = parse(argv)
    assert (args.train_set, args.image_root) == (sets, [str(data)])
    pids, _, paths = train.load_train_sets(sets, [str(data)])
    assert (pids[-1], paths[-1]) == ('2:7', str(data / '3_0.png'))


def test_a_single_data_set_is_stored_and_named_as_it_is(data, finished):
    stored = read_args(finished)
    assert stored['train_set'] == str(data / 'train.csv')
    assert stored['image_root'] == str(data)
    pids, fids, _ = train.load_train_sets([stored['train_set']], [str(data)])
    assert (pids[0], fids[0]) == ('0', '0_0.png')


def test_run_on_several_data_sets_resumes_and_its_roots_may_move(
    monkeypatch, data, two_sets, tmp_path
):
    copy = tmp_path / 'copy'
    shutil.copytree(two_sets, copy)
    for name in ('embeddings', 'losses', 'fids'):
        (copy / name).unlink()
    (copy / 'checkpoint').write_text('model_checkpoint_path: "checkpoint-1"\n')
    stored = read_args(two_sets)
    roots = [
        shutil.copytree(r, tmp_path / f'{i}')
        for i, r in enumerate(stored['image_root'])
    ]
    monkeypatch.chdir(tmp_path)
    # A stored list wins, and its own files by other names are no difference.
    sets = [os.path.relpath(path) for path in stored['train_set']]
    tiny_run.resume(copy, '--image_root', *map(str, roots), '--train_set', *sets)
    assert 'ignored' not in log_of(copy)
    assert read_args(copy)['image_root'] == [str(root) for root in roots]
    assert_same_state(
        tiny_run.read_checkpoint(copy, 2), tiny_run.read_checkpoint(two_sets, 2)
    )


def test_data_sets_may_not_change_when_resuming(data, two_sets):
    stored = read_args(two_sets)
    one = str(data / 'train.csv')
    argv = ['--experiment_root', str(two_sets), '--resume', '--train_set', one]
    args, notes = parse(argv)
    assert args.train_set == stored['train_set']
    wins = ' '.join(stored['train_set'])
    assert notes == [f'--train_set {one} ignored: the stored {wins} wins when resuming']


@pytest.mark.parametrize(
    'sets, roots, message',
    [
        (
            ('{0}/train.csv', 'b.csv'),
            ('{0}', '/', '/'),
            '--image_root has 3 directories, --train_set 2 file(s); give one directory '
            'for all, or one for each',
        ),
        (
            ('b.csv',),
            ('{0}', '/'),
            '--image_root has 2 directories, --train_set 1 file',
        ),
        (('b.csv', 'c.csv'), ('{0}', '/no'), '--image_root /no is not a directory'),
        (
            ('/b.csv', '/c.csv', '/b.csv'),
            ('{0}',),
            '--train_set has /b.csv twice, with the same --image_root: '
            'every identity of it would count as two; leave one of them out',
        ),
    ],
)
def test_data_sets_without_a_root_of_their_own_are_refused(
    capsys, data, tmp_path, sets, roots, message
):
    more = [
        '--train_set',
        *sets,
        '--image_root',
        *(root.format(data) for root in roots),
    ]
    line = refuse(capsys, tiny_run.flags(data, tmp_path / 'exp', *more))
    assert message in line
    assert not (tmp_path / 'exp').exists()


# --- stopping --------------------------------------------------------------------


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_iteration_and_writes_a_checkpoint(
    monkeypatch, data, finished, tmp_path, number
):
    write = journal.Journal.write

    def write_and_interrupt(self, iteration):
        write(self, iteration)
        if iteration.step == 1:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    monkeypatch.setattr(journal.Journal, 'write', write_and_interrupt)
    root = tmp_path / 'an experiment'
    tiny_run.start(data, root, '--checkpoint_frequency', '0')
    assert signal.getsignal(number) == before
    indices = list_names(root, 'checkpoint-*.index')
    assert indices == ['checkpoint-0.index', 'checkpoint-1.index']
    last = log_of(root).splitlines()[-1]
    assert 'stopped after iteration 1; continue with: python ' in last
    assert last.endswith(f"--experiment_root '{root}' --resume")


def test_quiet_run_tells_its_log_alone(data, tmp_path, capsys):
    tiny_run.start(data, tmp_path / 'exp', '--quiet')
    assert capsys.readouterr().err == ''
    log = log_of(tmp_path / 'exp')
    assert 'iter:     2, loss' in log
    assert 'finished after 2 iterations' in log


def test_second_ctrl_c_stops_at_once():
    # A shell lets its background jobs ignore SIGINT, and with them the tests in one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with loop.StopRequest() as stop:
            assert not stop.is_made
            signal.raise_signal(signal.SIGINT)
            assert stop.is_made
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# --- divergence ------------------------------------------------------------------


def test_infinite_loss_stops_the_run_and_names_the_iteration(data, tmp_path):
    # One PID only: every anchor's nearest negative is infinitely far.
    more = ['--batch_p', '1', '--margin', 'none']
    with pytest.raises(ValueError, match='the loss became -inf in iteration 1; the la'):
        tiny_run.start(data, tmp_path / 'exp', *more)
    assert list_names(tmp_path / 'exp', 'checkpoint-*.index') == ['checkpoint-0.index']


@pytest.mark.parametrize(
    'frequency, message, kept',
    [
        # The third update ruins the weights; the fourth loss shows it.
        ('0', 'the loss became nan in iteration 4; .*checkpoint-0. Start anew', [0]),
        ('1', 'no longer finite in iteration 3; .*checkpoint-2. Start an', [0, 1, 2]),
    ],
)
def test_diverged_weights_are_no_checkpoint(
    monkeypatch, data, tmp_path, frequency, message, kept
):
    monkeypatch.setattr(
        optimizers, 'learning_rate_at', lambda step, *_: np.nan if step == 2 else 3e-4
    )
    more = ['--train_iterations', '9', '--checkpoint_frequency', frequency]
    with pytest.raises(ValueError, match=message):
        tiny_run.start(data, tmp_path / 'exp', *more)
    indices = list_names(tmp_path / 'exp', 'checkpoint-*.index')
    assert indices == [f'checkpoint-{step}.index' for step in kept]
    latest = checkpoints.latest(str(tmp_path / 'exp'))
    assert latest == str(tmp_path / 'exp' / f'checkpoint-{kept[-1]}')
