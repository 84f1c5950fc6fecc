"""Bad input: one clear line, exit code 1 or 2, and never a traceback.

What one module refuses by itself is tested with it: CSV files in test_common.py, flags
and failed starts in test_train.py, checkpoints in test_checkpoints.py.
"""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

import common
import embed
import evaluate
import tiny_run
from training import journal

JPEG_HEADER = b'\xff\xd8\xff\xe0'


pytestmark = pytest.mark.usefixtures('one_block_net')


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
    """Return a directory with a data set and `exp`, a run of one iteration on it."""
    directory = tmp_path_factory.mktemp('clean')
    tiny_run.write_dataset(directory)
    tiny_run.start(directory, directory / 'exp', '--train_iterations', '1')
    return directory


@pytest.fixture
def data(clean, tmp_path):
    """Return a copy of that directory, to be spoilt; its run refers to the copy."""
    directory = tmp_path / 'data'
    shutil.copytree(clean, directory)
    change_args(
        directory / 'exp',
        image_root=str(directory),
        train_set=str(directory / 'train.csv'),
    )
    return directory


def change_args(root, **values):
    """Set values in args.json; None removes a key."""
    stored = json.loads((root / 'args.json').read_text()) | values
    kept = {name: value for name, value in stored.items() if value is not None}
    (root / 'args.json').write_text(json.dumps(kept))


def run_command(name, *flags, **kwargs):
    """Run a command as a user would; return the finished process."""
    return subprocess.run(
        [sys.executable, str(tiny_run.ROOT / name), *map(str, flags)],
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )


def embed_flags(data, *more):
    """Return the flags that embed the training set with the run of one iteration."""
    return [
        *('--experiment_root', str(data / 'exp'), '--quiet', '--batch_size', '4'),
        *('--dataset', str(data / 'train.csv'), *more),
    ]


# --- as a user sees it -----------------------------------------------------------


def test_train_reports_a_malformed_csv_in_one_line(data):
    (data / 'train.csv').write_text('0,0_0.png\n0;0_1.png\n')
    process = run_command('train.py', *tiny_run.flags(data, data / 'new'))
    assert process.returncode == 1
    assert process.stderr == (
        f'train.py: error: {data}/train.csv: line 2 has 1 field(s); expected two '
        'fields, PID,FID\n'
    )
    assert not (data / 'new').exists()


def test_train_reports_an_unreadable_image_in_one_line(data):
    (data / '2_1.png').write_bytes((data / '2_1.png').read_bytes()[:100])
    flags = ['--batch_p', '4', '--batch_k', '3']  # All images are in the first batch.
    process = run_command('train.py', *tiny_run.flags(data, data / 'new', *flags))
    assert process.returncode == 1
    *_, before, error = process.stderr.splitlines()
    assert 'still needed' in before  # The last line of the memory table.
    assert error == (
        f'train.py: error: {data}/2_1.png is not a readable image (Invalid PNG data, '
        'size 100); replace it, or remove its line from the CSV'
    )


def test_embed_reports_a_checkpoint_that_does_not_fit_in_one_line(data):
    # The run's net has one block, the one of the command thirteen.
    process = run_command('embed.py', *embed_flags(data))
    assert process.returncode == 1
    (error,) = process.stderr.splitlines()
    assert error.startswith(f'embed.py: error: {data}/exp/checkpoint-1 lacks ')
    assert error.endswith('belongs to this model_name and head_name in args.json')
    assert not list((data / 'exp').glob('*.h5'))


def test_embed_reports_a_bad_flag_with_exit_code_2(data):
    process = run_command('embed.py', *embed_flags(data, '--flip_augment'))
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith('embed.py: error: 2 variants of')


# --- images ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'content, reason, is_reached_late',
    [
        (b'', 'the file is empty', False),
        (b'', 'the file is empty', True),
        (b'no image', 'Unknown image file format', False),
        (JPEG_HEADER + bytes(20), 'jpeg::Uncompress failed. Invalid JPEG', True),
        (None, 'the file does not exist', True),
    ],
)
def test_unreadable_image_is_named_whenever_it_is_reached(
    monkeypatch, data, content, reason, is_reached_late
):
    """In the first iteration or in a late one, where the file was sound before."""

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
    if is_reached_late:
        monkeypatch.setattr(journal.Journal, 'write', write_and_spoil)
    else:
        spoil()
    with pytest.raises(ValueError, match=r'3_2\.png is not a readable') as error:
        tiny_run.start(data, data / 'new', *flags)
    assert f'{data}/3_2.png is not a readable image ({reason}' in str(error.value)
    log = (data / 'new' / 'train.log').read_text()
    assert ('iter:    20,' in log) == is_reached_late


def test_missing_images_are_counted_before_anything_starts(data):
    for name in ('0_0.png', '1_1.png', '2_2.png', '3_0.png'):
        (data / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        tiny_run.start(data, data / 'new')
    assert str(error.value) == (
        f'4 of 12 images in {data}/train.csv are missing (first: {data}/0_0.png, '
        f'{data}/1_1.png, {data}/2_2.png); check --image_root'
    )
    with pytest.raises(FileNotFoundError, match='4 of 12 images .* --image_root'):
        embed.main(embed_flags(data))
    assert not (data / 'new').exists()


# --- the experiment root ---------------------------------------------------------


@pytest.mark.parametrize(
    'name, value', [('model_name', 'vgg'), ('head_name', 'fc7'), ('loss', 'magnet')]
)
def test_unknown_choice_in_args_json_cannot_be_resumed(data, name, value):
    change_args(data / 'exp', **{name: value})
    with pytest.raises(
        common.InputError,
        match=rf"exp/args\.json: argument --{name}: invalid choice: '{value}'",
    ):
        tiny_run.resume(data / 'exp')


@pytest.mark.parametrize('name, value', [('model_name', 'vgg'), ('head_name', 'fc7')])
def test_unknown_net_or_head_in_args_json_cannot_embed(data, name, value):
    change_args(data / 'exp', **{name: value})
    with pytest.raises(ValueError, match=f'--{name} {value} is unknown; expected one'):
        embed.main(embed_flags(data))


def test_args_json_without_image_root_asks_for_it(data):
    change_args(data / 'exp', image_root=None)
    with pytest.raises(
        ValueError, match=r'exp/args\.json has no image_root; give --image_root$'
    ):
        embed.main(embed_flags(data))
    change_args(data / 'exp', image_root=['/a', '/b'])
    with pytest.raises(
        ValueError,
        match=r'several image_root \(/a, /b\); say with --image_root which one the '
        'data set belongs to$',
    ):
        embed.main(embed_flags(data))
    embed.main(embed_flags(data, '--image_root', str(data)))
    assert (data / 'exp' / 'train_embeddings.h5').is_file()


@pytest.mark.parametrize(
    'command, message',
    [
        (tiny_run.resume, r'exp has no|no checkpoint in .*exp'),
        (lambda root: embed.main(embed_flags(root.parent)), 'no checkpoint in .*exp'),
    ],
)
def test_missing_checkpoint_is_reported(data, command, message):
    for path in (data / 'exp').glob('checkpoint*'):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=message):
        command(data / 'exp')


def test_mistyped_checkpoint_is_named(data):
    with pytest.raises(
        FileNotFoundError,
        match='exp has no checkpoint checkpoint-7; expected one of checkpoint-0',
    ):
        embed.main(embed_flags(data, '--checkpoint', 'checkpoint-7'))


def test_truncated_checkpoint_is_named(data):
    (file,) = (data / 'exp').glob('checkpoint-1.data*')
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match='exp/checkpoint-1 is damaged: .* cannot be read'
    ):
        embed.main(embed_flags(data))


def test_checkpoint_of_another_size_is_refused(data):
    change_args(data / 'exp', embedding_dim=16)
    with pytest.raises(
        ValueError, match=r'emb/\w+ of shape \(.*8,?\), the model expects \(.*16,?\)'
    ):
        embed.main(embed_flags(data))


def test_crops_larger_than_the_pre_crop_are_refused_before_tensorflow(data):
    change_args(data / 'exp', pre_crop_height=31, pre_crop_width=16)
    with pytest.raises(ValueError, match='center cannot cut 32x16 .* size 31x16'):
        embed.main(embed_flags(data, '--crop_augment', 'center'))


# --- where nothing can be written ------------------------------------------------


@pytest.fixture
def small_disk(capsys):
    """Return a function that limits the size of the files that can be written.

    To the program a file too large is what a full disk is: a write that fails.
    capsys keeps what is printed in memory; pytest's own capture is a file, too.
    """
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    common.setup_logging()  # Closes train.log, which may have a line left to write.


def test_experiment_root_below_a_file_is_refused(data):
    (data / 'file').touch()
    with pytest.raises(NotADirectoryError) as error:
        tiny_run.start(data, data / 'file' / 'exp')
    line = common.describe_error(error.value)
    assert line == f'{data}/file/exp: Not a directory'


def test_full_disk_at_a_checkpoint_leaves_the_last_one(monkeypatch, data, small_disk):
    write = journal.Journal.write

    def write_and_fill(self, iteration):
        write(self, iteration)
        if iteration.step == 2:
            small_disk(8000)  # Bytes; a checkpoint has 27 thousand.

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


def test_full_disk_leaves_old_embeddings(data, small_disk):
    old = data / 'exp' / 'train_embeddings.h5'
    old.write_text('old')
    small_disk(1000)
    with pytest.raises(OSError, match=r'too large: .*train_embeddings\.h5'):
        embed.main(embed_flags(data))
    assert old.read_text() == 'old'
    assert not list((data / 'exp').glob('.*'))


def test_output_directory_that_is_a_file_is_named(data):
    (data / 'file').touch()
    with pytest.raises(common.FileError, match='/file is a file, a directory was'):
        embed.main(embed_flags(data, '--filename', str(data / 'file' / 'x.h5')))


def test_full_disk_leaves_old_scores(data, small_disk):
    embed.main(embed_flags(data))
    sides = [
        flag
        for side in ('query', 'gallery')
        for flag in (
            *(f'--{side}_dataset', str(data / 'train.csv')),
            *(f'--{side}_embeddings', str(data / 'exp' / 'train_embeddings.h5')),
        )
    ]
    scores = data / 'scores.json'
    scores.write_text('old')
    small_disk(10)
    with pytest.raises(OSError):
        evaluate.main(['--excluder', 'diagonal', *sides, '--filename', str(scores)])
    assert scores.read_text() == 'old'
    assert 'scores.json' in os.listdir(data)
    assert not list(pathlib.Path(data).glob('.*'))
