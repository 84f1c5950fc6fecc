"""A run that goes on: its state, and whose flags count."""

import json
import os
import shutil

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import checkpoints
import common
import tiny_run
import train
from run_files import (
    assert_same_state,
    change_args,
    list_names,
    log_of,
    parse,
    read_args,
    read_array,
    refuse,
)
from training import flags, resuming

pytestmark = pytest.mark.usefixtures('one_block_net')


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
        (
            'learning_rate',
            float('nan'),
            'argument --learning_rate: nan given, a number',
        ),
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


def damage(filename):
    """Flip the bits of a byte in the middle of a file."""
    content = bytearray(filename.read_bytes())
    content[len(content) // 2] ^= 255
    filename.write_bytes(content)


def test_damaged_newest_checkpoint_names_the_way_out(finished, tmp_path):
    root = shutil.copytree(finished, tmp_path / 'exp')
    for step in (3, 4):
        damage(root / f'checkpoint-{step}.data-00000-of-00001')
    message = 'checkpoint-4 is damaged: .*; the newest whole one is checkpoint-2'
    with pytest.raises(common.InputError, match=message):
        tiny_run.resume(root)
    with pytest.raises(common.InputError, match='checkpoint-3 is damaged'):
        tiny_run.resume(root, '--checkpoint', 'checkpoint-3')
    tiny_run.resume(root, '--checkpoint', 'checkpoint-2')
    for step in (3, 4):
        assert_same_state(
            tiny_run.read_checkpoint(root, step),
            tiny_run.read_checkpoint(finished, step),
        )


def test_run_goes_on_from_the_checkpoint_that_it_is_given(finished, tmp_path):
    root = shutil.copytree(finished, tmp_path / 'exp')
    tiny_run.resume(root, '--checkpoint', 'checkpoint-1', '--keep_checkpoints', '2')
    assert 'resuming ' + str(root / 'checkpoint-1') in log_of(root)
    index = (root / 'checkpoint').read_text()
    assert index == (
        'model_checkpoint_path: "checkpoint-4"\n'
        'all_model_checkpoint_paths: "checkpoint-3"\n'
        'all_model_checkpoint_paths: "checkpoint-4"\n'
    )


def test_interrupted_way_back_goes_on_from_there(finished, tmp_path, monkeypatch):
    root = shutil.copytree(finished, tmp_path / 'exp')
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, 'open_journal', interrupt)
        tiny_run.resume(root, '--checkpoint', 'checkpoint-1')
    assert checkpoints.latest(str(root)) == str(root / 'checkpoint-1')


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--resume', '--checkpoint', 'best'], 'such as checkpoint-3000 expected'),
        (['--checkpoint', 'checkpoint-1'], 'is where --resume goes on'),
    ],
)
def test_checkpoint_to_go_on_from_is_one_of_the_run(capsys, experiment, argv, message):
    assert message in refuse(capsys, ['--experiment_root', str(experiment), *argv])


def test_stored_values_are_checked_before_the_command_lines(experiment):
    change_args(experiment, decay_start_iteration=-1)
    args, notes = parse(['--experiment_root', str(experiment), '--resume'])
    assert (args.decay_start_iteration, notes) == (-1, [])


def test_experiment_root_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(FileNotFoundError, match='no args.json .* --experiment_root'):
        tiny_run.resume(tmp_path / 'nothing')
    assert not (tmp_path / 'nothing').exists()


def test_run_goes_on_without_its_args(finished, experiment, capsys):
    stored = (experiment / 'args.json').read_bytes()
    (experiment / 'args.json').unlink()
    tiny_run.resume(experiment)
    assert 'no args.json in' in capsys.readouterr().err
    assert_same_state(
        tiny_run.read_checkpoint(experiment, 4), tiny_run.read_checkpoint(finished, 4)
    )
    expected = {'experiment_root': str(experiment), 'resume': True}
    assert read_args(experiment) == json.loads(stored) | expected


def test_run_goes_on_without_the_checkpoint_that_it_started_from(
    data, finished, tmp_path
):
    root = tmp_path / 'exp'
    source = tmp_path / 'start'
    for path in finished.glob('checkpoint-4.*'):
        shutil.copy(path, path.name.replace('checkpoint-4', str(source)))
    tiny_run.start(data, root, '--initial_checkpoint', str(source))
    for path in tmp_path.glob('start.*'):
        path.unlink()
    tiny_run.resume(root, '--train_iterations', '3')
    assert 'finished after 3 iterations' in log_of(root)


def test_train_set_may_move_if_its_rows_are_the_same(data, experiment, tmp_path):
    moved = tmp_path / 'moved.csv'
    shutil.copy(data / 'train.csv', moved)
    tiny_run.resume(experiment, '--train_set', str(moved))
    assert read_args(experiment)['train_set'] == str(moved)
    assert f'--train_set {moved} in place of the stored {data}' in log_of(experiment)


@pytest.mark.parametrize('is_moved', [False, True])
def test_other_rows_are_not_trained_on(data, experiment, tmp_path, is_moved):
    copy = shutil.copytree(data, tmp_path / 'data')
    change_args(experiment, train_set=str(copy / 'train.csv'))
    rows = (copy / 'train.csv').read_text().splitlines()
    other = tmp_path / 'other.csv' if is_moved else copy / 'train.csv'
    other.write_text('\n'.join(rows[::-1]) + '\n')  # Batches depend on the order.
    before = (experiment / 'args.json').read_text()
    with pytest.raises(
        common.InputError,
        match=rf'{other}: other rows than those the run was trained on \(checksum '
        r'\d+, \d+ stored\); give --train_set the same rows, or start',
    ):
        tiny_run.resume(experiment, '--train_set', str(other))
    assert (experiment / 'args.json').read_text() == before


def test_run_without_a_checksum_is_warned_and_gets_one(experiment):
    stored = read_args(experiment)['train_set_checksum']
    change_args(experiment, train_set_checksum=None)
    tiny_run.resume(experiment)
    assert 'WARNING args.json has no checksum of the training set' in log_of(experiment)
    assert read_args(experiment)['train_set_checksum'] == stored


@pytest.mark.parametrize(
    'name, default',
    [
        ('margin', 'soft'),
        ('batch_p', '32'),
        ('batch_k', '4'),
        ('learning_rate', '0.0003'),
        ('crop_augment', 'False'),
        ('flip_augment', 'False'),
        ('pre_crop_height', '288'),
        ('loss', 'batch_hard'),
        ('metric', 'euclidean'),
        ('train_iterations', '25000'),
        ('decay_start_iteration', '15000'),
    ],
)
def test_default_in_place_of_what_is_not_stored_is_said(experiment, name, default):
    change_args(experiment, **{name: None})
    parsed = flags.parse_args(
        train.__doc__, ['--experiment_root', str(experiment), '--resume']
    )
    assert parsed.warnings == [
        f'args.json has no --{name}; the default {default} is taken. If the run had '
        'another value, stop, and give it'
    ]


def test_what_is_not_stored_may_be_given(experiment):
    change_args(experiment, margin=None, head_name=None)
    argv = ['--experiment_root', str(experiment), '--resume']
    given = ['--margin', '0.5', '--head_name', 'direct']
    parsed = flags.parse_args(train.__doc__, [*argv, *given])
    assert (parsed.args.margin, parsed.args.head_name) == (0.5, 'direct')
    assert parsed.warnings == [
        'args.json has no --head_name; direct is taken from the command line',
        'args.json has no --margin; 0.5 is taken from the command line',
    ]


@pytest.mark.parametrize(
    'name',
    ['model_name', 'head_name', 'embedding_dim', 'net_input_height', 'net_input_width'],
)
def test_nobody_guesses_what_the_net_is(experiment, name):
    change_args(experiment, **{name: None})
    with pytest.raises(common.InputError) as error:
        tiny_run.resume(experiment)
    assert str(error.value) == (
        f'{experiment}/args.json: --{name} is missing, which decides what the net is; '
        'give it on the command line, as it was; restore what train.py wrote'
    )


def test_raised_iterations_say_what_becomes_of_the_learning_rate(experiment):
    # 2 of 4 iterations are made, the decay began at 2: from 3e-4 * 0.001**(0 / 2) to
    # 3e-4 * 0.001**(0 / 8), which is the same.
    tiny_run.resume(experiment, '--train_iterations', '10')
    assert 'learning rate of iteration' not in log_of(experiment)


@pytest.mark.parametrize(
    'more, rate, decay',
    [
        # At 4 of 4 it would be 3e-4 * 0.001 ** (2 / 2), and is 0.001 ** (2 / 6) of it.
        ([], 3e-5, 2),
        (['--decay_start_iteration', '4'], 3e-4, 4),
        (['--decay_start_iteration', '-1'], 3e-4, -1),
    ],
)
def test_jump_of_the_learning_rate_is_said_and_the_decay_may_move(
    data, tmp_path, more, rate, decay
):
    root = tmp_path / 'exp'
    tiny_run.start(
        data, root, '--train_iterations', '4', '--decay_start_iteration', '2'
    )
    tiny_run.resume(root, '--train_iterations', '8', *more)
    log = log_of(root)
    assert (
        f'learning rate of iteration 5: {rate:.3g}, and 3e-07 before the schedule was '
        'changed; it rises, because the decay is stretched. --decay_start_iteration '
        'says where it begins instead, such as 4 for a decay of the full 0.0003'
    ) in log
    assert ('--decay_start_iteration moved from 2 to' in log) == (decay != 2)
    assert read_args(root)['decay_start_iteration'] == decay


def test_decay_does_not_move_alone(experiment):
    argv = ['--experiment_root', str(experiment), '--resume']
    args, notes = parse([*argv, '--decay_start_iteration', '3'])
    assert args.decay_start_iteration == 2
    assert notes == [
        '--decay_start_iteration 3 ignored: the stored 2 wins when resuming; it can '
        'only move with a larger --train_iterations'
    ]


def test_null_is_no_value_of_a_flag_that_has_one(experiment):
    stored = read_args(experiment) | {'batch_p': None}
    (experiment / 'args.json').write_text(json.dumps(stored))
    with pytest.raises(common.InputError, match='--batch_p is null, expected a text'):
        tiny_run.resume(experiment)


# --- any args.json ---------------------------------------------------------------

FLAGS = sorted(vars(train.build_parser().parse_args(['--experiment_root', 'x'])))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
# Values that flags have, so that not nearly all are refused.
LIKELY = st.sampled_from(
    [
        1,
        2,
        0,
        0.5,
        3e-4,
        'soft',
        'none',
        'adam',
        'direct',
        'euclidean',
        -1,
        'a b',
        '-x',
        '7',
    ]
)


def read_stored(directory, stored):
    """Return what resuming.read_stored makes of args.json with this content."""
    (directory / 'args.json').write_text(json.dumps(stored))
    parser = flags.add_flags(resuming.StoredParser('args.json'))
    return resuming.read_stored(parser, str(directory))


# Few at a time: one that is refused hides what the others do.
@hypothesis.given(
    st.dictionaries(st.sampled_from([*FLAGS, 'new']), LIKELY | JSON, max_size=2)
)
@hypothesis.settings(
    max_examples=600,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
)
def test_any_args_json_is_read_as_it_is_or_refused_in_one_line(tmp_path, stored):
    message = None
    try:
        read = read_stored(tmp_path, stored)
    except common.InputError as error:
        message = str(error)
    if message is not None:
        assert message.startswith('args.json: ')
        assert message.endswith('; restore what train.py wrote')
        return
    kept = {k: v for k, v in stored.items() if k not in resuming.OF_ONE_CALL}
    assert set(read) == set(kept)
    assert resuming.to_json(read) == resuming.to_json(
        # One path in a list means what it means alone.
        {
            k: [v] if k in resuming.SEVERAL and isinstance(v, str) else v
            for k, v in kept.items()
        }
    )


@hypothesis.given(
    batch_p=st.integers(1, 10**6),
    rate=st.floats(1e-30, 1e30),
    margin=st.floats(-1e9, 1e9) | st.sampled_from(['soft', 'none']),
    decay=st.integers(-1, 10**6),
    paths=st.lists(
        st.text(st.characters(codec='utf-8', exclude_characters='\0'), min_size=1).map(
            '/{}'.format
        ),
        min_size=1,
        max_size=3,
    ),
    flips=st.booleans(),
)
@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
)
def test_what_a_command_line_gave_comes_back_from_args_json(
    tmp_path, batch_p, rate, margin, decay, paths, flips
):
    words = [
        '--experiment_root=x',
        f'--batch_p={batch_p}',
        f'--learning_rate={rate}',
        f'--margin={margin}',
        f'--decay_start_iteration={decay}',
        '--train_set',
        *paths,
        *['--flip_augment'] * flips,
    ]
    given = vars(train.build_parser().parse_args(words))
    read = read_stored(tmp_path, resuming.to_json(given | {'image_root': ['/a']}))
    for name in ('batch_p', 'learning_rate', 'margin', 'decay_start_iteration'):
        assert read[name] == given[name]
    assert (read['train_set'], read['flip_augment']) == (paths, flips)
