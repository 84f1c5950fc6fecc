"""Bad input: one clear line, exit code 1 or 2, and never a traceback.

The table of bad_inputs.py has most; here are those that take more than a row to tell.
"""

import errno
import importlib
import itertools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import bad_inputs
import common
import embed
import evaluate
import images
import tiny_run
from training import journal

# The command of a row, where the row is called otherwise.
COMMANDS = {
    'resume': 'train',
    'curves': 'visualize',
    'projector': 'visualize',
    'split': 'make_csv',
}

pytestmark = pytest.mark.usefixtures('one_block_net')


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
    """Return a directory with what sound calls of all commands read.

    That is a data set, `exp`, a run of one iteration on it, its embeddings, their
    scores, and an image list; weights.npz is no network's.
    """
    directory = tmp_path_factory.mktemp('clean')
    tiny_run.write_dataset(directory)
    tiny_run.start(directory, directory / 'exp', '--train_iterations', '1')
    bad_inputs.embeddings(emb=bad_inputs.POINTS)(directory)
    scores = ['--filename', str(directory / 'scores.json'), '--quiet']
    evaluate.main([*sound_flags('evaluate', directory), *scores])
    embed.main([*sound_flags('embed', directory), f'--filename={directory}/gallery.h5'])
    (directory / 'list.txt').write_text('0_0.png\n')
    np.savez(directory / 'weights.npz', a=1)
    return directory


@pytest.fixture
def data(clean, tmp_path):
    """Return a copy of that directory, to be spoilt; its run refers to the copy."""
    directory = tmp_path / 'data'
    shutil.copytree(clean, directory)
    change_args = bad_inputs.store(
        image_root=str(directory), train_set=str(directory / 'train.csv')
    )
    change_args(directory)
    return directory


def sound_flags(name, directory):
    """Return the flags of a call that works, by the name of a row's command."""
    sides = [
        f'--{side}_{kind}={directory}/train.{ending}'
        for side in ('query', 'gallery')
        for kind, ending in (('dataset', 'csv'), ('embeddings', 'h5'))
    ]
    images = f'--image_root={directory}'
    return {
        'train': [*tiny_run.flags(directory, directory / 'new'), '--quiet'],
        'resume': [f'--experiment_root={directory}/exp', '--resume', '--quiet'],
        'embed': [
            *(f'--experiment_root={directory}/exp', f'--dataset={directory}/train.csv'),
            *('--batch_size=4', '--quiet'),
        ],
        'export': [
            *(f'--experiment_root={directory}/exp', '--format=onnx'),
            *('--num_check_images=2', '--quiet'),
        ],
        'evaluate': ['--excluder=diagonal', *sides],
        'visualize': [
            *('--excluder=diagonal', *sides, images, '--quiet'),
            f'--filename={directory}/ranking.html',
        ],
        'curves': [f'--output_dir={directory}/pictures', '--quiet'],
        'projector': [
            *(f'--dataset={directory}/train.csv', images, '--quiet'),
            *(f'--embeddings={directory}/train.h5', f'--output_dir={directory}/p'),
        ],
        'plot': [f'--filename={directory}/training.png', '--quiet'],
        'make_csv': [f'--output_dir={directory}/lists', '--quiet'],
        'split': [
            *('--val_pids=1', '--excluder=diagonal', '--quiet'),
            f'--output_dir={directory}/lists',
        ],
        'trinet_embed': ['--quiet'],
        'search': [
            f'--gallery={directory}/gallery.h5',
            f'--experiment_root={directory}/exp',
        ],
    }[name]


# What is no flag, if a row says nothing else.
POSITIONAL = {
    'curves': ['{d}/scores.json'],
    'plot': ['{d}/exp'],
    'split': ['{d}/train.csv'],
    'trinet_embed': ['{d}/list.txt', '{d}/weights.npz'],
    'search': ['{d}/0_0.png'],
}


def command_line(row, directory):
    """Return the words of a row's command line, the command itself first."""
    command = f'{COMMANDS.get(row.command, row.command)}.py'
    words = row.flags.format(d=directory).split()
    if row.is_bare:
        return [command, *words]
    mode = [row.command] * (row.command in ('curves', 'projector', 'split'))
    # What is no flag comes first; the last of a flag wins.
    given = list(itertools.takewhile(lambda word: not word.startswith('--'), words))
    places = given or [
        word.format(d=directory) for word in POSITIONAL.get(row.command, [])
    ]
    sound = sound_flags(row.command, directory)
    return [command, *mode, *places, *sound, *words[len(given) :]]


def assert_one_line(row, directory, command, code, errors):
    """Check what a command said on stderr, and its exit code, against a Row."""
    told = f'{shlex.join(command)}\nexit code {code}\n{errors}'
    assert 'Traceback' not in errors, told
    assert code == row.code, told
    *others, line = errors.splitlines()
    assert row.others or not others, told
    match = re.match(rf'{re.escape(command[0])}( \w+)?: error: ', line)
    assert match, told
    for words in row.words:
        # In this order, and whole: no part of a longer word.
        pattern = rf'(?<!\w){re.escape(words.format(d=directory))}(?!\w)'
        match = re.compile(pattern).search(line, match.end())
        assert match, f'{words!r} is missing in\n{told}'


def name_row(row):
    """Return what pytest calls a Row."""
    words = ' '.join((row.flags, *row.words)).replace('{d}/', '').replace('{d}', '.')
    return f'{row.command} {words}'[:70]


def mark_row(row):
    """Return a Row as a parameter, marked if it is known to fail."""
    return pytest.param(row, id=name_row(row))


@pytest.mark.parametrize('row', [mark_row(row) for row in bad_inputs.ROWS])
def test_bad_input_is_answered_by_one_line(monkeypatch, capfd, data, tmp_path, row):
    if row.spoil is not None:
        row.spoil(data)
    command = command_line(row, data)
    monkeypatch.setattr(sys, 'argv', command)
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        module = importlib.import_module(command[0].removesuffix('.py'))
        common.run(lambda: module.main(command[1:]))
    output, errors = capfd.readouterr()
    assert output == ''
    assert_one_line(row, data, command, stop.value.code, errors)


@pytest.mark.parametrize('name', ['curves', 'embed', 'evaluate', 'plot', 'resume'])
def test_call_that_the_rows_spoil_works(monkeypatch, data, name):
    """Or their lines might come from something else than what a row spoils."""
    row = bad_inputs.Row(name, '', ())
    command = command_line(row, data)
    monkeypatch.setattr(sys, 'argv', command)
    assert importlib.import_module(command[0][:-3]).main(command[1:]) is None


# --- as a user sees it -----------------------------------------------------------


@pytest.mark.parametrize(
    'row',
    [
        mark_row(row)
        for row in (
            # TensorFlow's Python warns of it, with a handler that pytest replaces.
            bad_inputs.file(
                *('embed', '', bad_inputs.put('exp/checkpoint', 'x\n')),
                bad_inputs.UNREADABLE,
            ),
            bad_inputs.file(
                *('train', '', bad_inputs.put('train.csv', '0,0_0.png\n0;0_1.png\n')),
                '{d}/train.csv: line 2 has 1 field(s); expected two fields, PID,FID',
            ),
            bad_inputs.flag(
                'embed', '--flip_augment', '2 variants of every image need an'
            ),
        )
    ],
)
def test_bad_input_to_a_process_is_answered_by_one_line(data, row):
    if row.spoil is not None:
        row.spoil(data)
    command = command_line(row, data)
    process = subprocess.run(
        [sys.executable, str(tiny_run.ROOT / command[0]), *command[1:]],
        capture_output=True,
        text=True,
    )
    assert process.stdout == ''
    assert_one_line(row, data, command, process.returncode, process.stderr)
    assert not (data / 'new').exists()


# --- images ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'content, reason',
    [
        (b'', 'the file is empty'),
        (bad_inputs.JPEG_HEADER, 'jpeg::Uncompress failed. Invalid JPEG'),
        (None, 'the file does not exist'),
    ],
)
def test_image_that_becomes_unreadable_is_named(monkeypatch, data, content, reason):
    def spoil():
        (data / '3_2.png').unlink()
        if content is not None:
            (data / '3_2.png').write_bytes(content)

    write = journal.Journal.write

    def write_and_spoil(self, iteration):
        write(self, iteration)
        if iteration.step == 20:
            spoil()

    flags = ['--batch_p', '4', '--batch_k', '3', '--train_iterations', '99']
    monkeypatch.setattr(journal.Journal, 'write', write_and_spoil)
    with pytest.raises(ValueError, match=r'3_2\.png is not a readable') as error:
        tiny_run.start(data, data / 'new', *flags)
    assert f'{data}/3_2.png is not a readable image ({reason}' in str(error.value)
    log = (data / 'new' / 'train.log').read_text()
    assert 'iter:    20,' in log


def test_looking_for_the_unreadable_image_says_nothing_itself(capfd, data):
    """Or libjpeg would say twice what it thinks of the image."""
    (data / '3_2.jpg').write_bytes(bad_inputs.JPEG_HEADER)
    name, reason = images.find_unreadable([str(data / '3_2.jpg')])
    assert name == f'{data}/3_2.jpg'
    assert reason.startswith('jpeg::Uncompress failed.')
    assert capfd.readouterr().err == ''


def test_batch_that_cannot_fit_is_refused_before_an_image_is_read(monkeypatch, data):
    def read(*_):
        raise AssertionError

    monkeypatch.setattr('batches.TrainingBatches', read)
    monkeypatch.setattr(common, 'total_memory', lambda: 10**8)
    with pytest.raises(
        common.InputError,
        match=r'^a batch of 4 images of 32x16 pixels needs about 0\.1 GB, this machine '
        'has 0.1 GB of memory and swap; lower --batch_p or the net input, or choose',
    ):
        tiny_run.start(data, data / 'new')
    assert not (data / 'new').exists()


# --- where nothing can be written ------------------------------------------------


def test_full_disk_at_a_checkpoint_leaves_the_last_one(monkeypatch, data, small_files):
    write = journal.Journal.write

    def write_and_fill(self, iteration):
        write(self, iteration)
        if iteration.step == 2:
            small_files(8000)  # Bytes; a checkpoint has 27 thousand.

    monkeypatch.setattr(journal.Journal, 'write', write_and_fill)
    flags = ['--train_iterations', '9', '--checkpoint_frequency', '1']
    with pytest.raises(OSError, match='cannot write checkpoint-2 to .*unharmed'):
        tiny_run.start(data, data / 'new', *flags, '--histogram_frequency', '0')
    names = {path.name for path in (data / 'new').glob('checkpoint-*')}
    assert {name.partition('.')[0] for name in names} == {
        'checkpoint-0',
        'checkpoint-1',
    }
    index = (data / 'new' / 'checkpoint').read_text()
    assert index.startswith('model_checkpoint_path: "checkpoint-1"')


def test_full_disk_at_tensorboards_events_is_reported(monkeypatch, data):
    def report(*_):
        raise tf.errors.ResourceExhaustedError(
            None, None, '{{node X}} /new/events.v2; No space left on device\nFailed to'
        )

    # When TensorFlow notices depends on its buffers; so it is told.
    monkeypatch.setattr(journal.Scalars, 'report', report)
    with pytest.raises(OSError) as error:
        tiny_run.start(data, data / 'new')
    assert str(error.value) == (
        f"cannot write TensorBoard's events in {data}/new (/new/events.v2; No space "
        'left on device)'
    )


def test_full_disk_leaves_old_embeddings(data, small_files):
    old = data / 'exp' / 'train_embeddings.h5'
    old.write_text('old')
    small_files(1000)
    with pytest.raises(
        common.FileError,
        match=r'cannot write .*/train_embeddings\.h5: File too large; raise the limit',
    ):
        embed.main(sound_flags('embed', data))
    assert old.read_text() == 'old'
    assert not list((data / 'exp').glob('.*'))


def test_full_disk_leaves_old_scores(data, small_files):
    scores = data / 'scores.json'
    scores.write_text('old')
    small_files(10)
    with pytest.raises(common.FileError, match=r'scores\.json: File too large'):
        evaluate.main([*sound_flags('evaluate', data), '--filename', str(scores)])
    assert scores.read_text() == 'old'
    assert 'scores.json' in os.listdir(data)
    assert not list(pathlib.Path(data).glob('.*'))


WRITERS = {
    'split': 'lists/train_rest.csv',
    'visualize': 'ranking.html',
    'curves': 'pictures/cmc.png',
    'projector': 'p/sprite.jpg',
    'plot': 'training.png',
}


@pytest.mark.parametrize('name', WRITERS)
def test_full_disk_names_the_file_and_leaves_no_part_of_it(
    monkeypatch, data, small_files, name
):
    command = command_line(bad_inputs.Row(name, '', ()), data)
    monkeypatch.setattr(sys, 'argv', command)
    main = importlib.import_module(command[0][:-3]).main
    small_files(10)
    with pytest.raises(common.FileError) as error:
        main(command[1:])
    written = data / WRITERS[name]
    assert str(error.value).startswith(f'cannot write {written}: File too large; raise')
    assert not list(written.parent.glob('.*'))


@pytest.mark.parametrize('name', WRITERS)
def test_place_that_may_not_be_written_to_is_named(monkeypatch, data, name):
    def refuse(*_, dir, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), dir)

    command = command_line(bad_inputs.Row(name, '', ()), data)
    monkeypatch.setattr(sys, 'argv', command)
    main = importlib.import_module(command[0][:-3]).main
    monkeypatch.setattr('tempfile.mkstemp', refuse)
    with pytest.raises(common.FileError) as error:
        main(command[1:])
    assert str(error.value) == (
        f'cannot write {data / WRITERS[name]}: Permission denied; choose a place that '
        'you may write to'
    )
