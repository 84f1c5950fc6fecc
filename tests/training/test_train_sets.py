"""Several data sets in one run."""

import os
import shutil

import pytest

import common
import tiny_run
import train
from run_files import (
    assert_same_state,
    change_args,
    log_of,
    parse,
    read_args,
    read_array,
    refuse,
)

pytestmark = pytest.mark.usefixtures('one_block_net')


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
    (tmp_path / 'some.csv').write_text('0,0_0.png\n0,0_1.png\n')
    (tmp_path / 'more.csv').write_text('7,3_0.png\n')
    sets = [str(tmp_path / 'some.csv'), str(tmp_path / 'more.csv')]
    argv = tiny_run.flags(data, tmp_path / 'exp', '--train_set', *sets)
    args, _ = parse(argv)
    assert (args.train_set, args.image_root) == (sets, [str(data)])
    pids, _, paths = train.load_train_sets(sets, [str(data)])
    assert (pids[-1], paths[-1]) == ('2:7', str(data / '3_0.png'))


@pytest.mark.parametrize(
    'texts, message',
    [
        (
            ['0,0_0.png\n1,1_0.png\n0,0_0.png\n2,1_0.png\n'],
            '1 image(s) with two PIDs (first: {0}/1_0.png is 1 in row 2 of {1}/0.csv '
            'and 2 in row 4 of {1}/0.csv); remove the wrong rows',
        ),
        (
            # An identity of two data sets is two: its images would be pushed off
            # themselves.
            ['0,0_0.png\n1,1_0.png\n', '0,0_1.png\n1,1_0.png\n0,0_0.png\n'],
            '2 image(s) with two PIDs (first: {0}/1_0.png is 1:1 in row 2 of {1}/0.csv '
            'and 2:1 in row 2 of {1}/1.csv); remove the wrong rows',
        ),
    ],
)
def test_image_of_two_identities_is_refused(data, tmp_path, texts, message):
    sets = []
    for number, text in enumerate(texts):
        (tmp_path / f'{number}.csv').write_text(text)
        sets.append(str(tmp_path / f'{number}.csv'))
    with pytest.raises(common.InputError) as error:
        tiny_run.start(data, tmp_path / 'exp', '--train_set', *sets)
    assert str(error.value) == message.format(data, tmp_path)
    assert not (tmp_path / 'exp').exists()


@pytest.mark.parametrize('flag', ['--train_set', '--val_set', '--val_query'])
def test_empty_name_of_a_csv_is_not_the_working_directory(capsys, data, tmp_path, flag):
    line = refuse(capsys, tiny_run.flags(data, tmp_path / 'exp', flag, ''))
    assert f"argument {flag}: '' given, a path expected" in line
    assert not (tmp_path / 'exp').exists()


def test_missing_csv_of_a_known_data_set_names_the_command_with_its_root(
    data, tmp_path
):
    missing = tmp_path / 'market1501_train.csv'
    with pytest.raises(common.MissingFileError) as error:
        tiny_run.start(data, tmp_path / 'exp', '--train_set', str(missing))
    assert str(error.value) == (
        f'{missing} does not exist; make it with: python make_csv.py market1501 {data} '
        f'--output_dir {tmp_path}'
    )


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


def test_data_sets_may_not_change_when_resuming(capsys, data, two_sets):
    one = str(data / 'train.csv')
    argv = ['--experiment_root', str(two_sets), '--resume', '--train_set', one]
    assert '--image_root has 2 directories, --train_set 1 file(s)' in refuse(
        capsys, argv
    )
    with pytest.raises(
        common.InputError, match=f'^{one}: other rows than those the run'
    ):
        train.main([*argv, '--image_root', str(data)])


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


# --- --check_images --------------------------------------------------------------


@pytest.fixture
def spoilt(tmp_path):
    """Return a directory with train.csv and val.csv, both with a broken image."""
    directory = tmp_path / 'spoilt'
    directory.mkdir()
    tiny_run.write_dataset(directory)
    lines = (directory / 'train.csv').read_text().splitlines()
    (directory / 'val.csv').write_text('\n'.join(lines[6:]) + '\n')
    (directory / 'train.csv').write_text('\n'.join(lines[:6]) + '\n')
    (directory / '1_2.png').write_text('no image')
    (directory / '3_0.png').write_bytes(b'')
    return directory


def test_images_of_training_and_validation_are_checked(spoilt, tmp_path, capsys):
    flags = ['--val_set', str(spoilt / 'val.csv'), '--val_excluder', 'diagonal']
    with pytest.raises(common.InputError) as error:
        tiny_run.start(spoilt, tmp_path / 'exp', *flags, '--check_images')
    assert str(error.value) == (
        f'2 of 12 images cannot be read (first: {spoilt}/1_2.png, {spoilt}/3_0.png); '
        'replace them, or remove them and their lines in the CSV'
    )
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f'{spoilt}/1_2.png: Unknown image file format')
    assert second == f'{spoilt}/3_0.png: the file is empty'
    assert not (tmp_path / 'exp').exists()


def test_run_goes_on_if_all_images_are_sound(data, tmp_path, capsys):
    tiny_run.start(data, tmp_path / 'exp', '--check_images', '--dry_run')
    assert 'dry run: flags, data, network' in capsys.readouterr().err


def test_check_of_images_is_of_one_call(data, finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'exp')
    change_args(tmp_path / 'exp', check_images=True)
    argv = ['--experiment_root', str(tmp_path / 'exp'), '--resume']
    args, notes = parse(argv)
    assert (args.check_images, notes) == (False, [])
    args, notes = parse([*argv, '--check_images'])
    assert (args.check_images, notes) == (True, [])
