"""train.py's flags: what they mean and which are refused."""

import os

import pytest

import tiny_run
from run_files import (
    parse,
    refuse,
)
from training import flags

pytestmark = pytest.mark.usefixtures('one_block_net')


@pytest.mark.parametrize(
    'text, value', [('soft', 'soft'), ('none', 'none'), ('0.2', 0.2), ('1', 1.0)]
)
def test_margin_is_a_word_or_a_number(text, value):
    assert flags.margin(text) == value


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
        (
            ['--adam_beta1_at_decay', '1'],
            '1 given, a number from 0 to below 1 expected',
        ),
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
    assert (
        'is not empty; add --resume to continue it, or choose a new directory' in line
    )
    assert os.listdir(tmp_path) == ['notes.txt']


def test_file_in_place_of_the_experiment_root_is_refused(capsys, data, tmp_path):
    (tmp_path / 'exp').write_text('mine')
    line = refuse(capsys, tiny_run.flags(data, tmp_path / 'exp'))
    assert 'is a file; choose a new directory' in line
