"""Parts of a data set, embedded alone and joined: the file that one call writes."""

import json
import shutil

import h5py
import numpy as np
import pytest

import common
import embed
import tiny_run
from embedding import shards
from embedding.shards import Shard


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return a directory with a run `root` and the 12 images of its `train.csv`."""
    directory = tmp_path_factory.mktemp('run')
    with tiny_run.trained(directory):
        return directory


@pytest.fixture(autouse=True)
def small_net(monkeypatch):
    tiny_run.shrink_net(monkeypatch)


def embed_set(run, filename, *flags):
    embed.main(
        [
            *('--experiment_root', str(run / 'root'), '--quiet'),
            *('--dataset', str(run / 'train.csv'), '--batch_size', '5'),
            *('--filename', str(filename), *flags),
        ]
    )


@pytest.fixture(scope='module')
def parts(run, tmp_path_factory):
    """Return a directory with parts of embs.h5, flipped: 5, 5 and 2 images."""
    directory = tmp_path_factory.mktemp('parts')
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_run.shrink_net(monkeypatch)
        for index in (1, 2, 3):
            embed_set(run, directory / 'embs.h5', '--shard', f'{index}/3', *FLIPPED)
    return directory


FLIPPED = ('--flip_augment', '--aggregator', 'mean')


def copy(parts, tmp_path):
    """Copy the parts; return the name of their whole."""
    shutil.copytree(parts, tmp_path / 'parts')
    return tmp_path / 'parts' / 'embs.h5'


def merge(run, filename, *flags):
    embed_set(run, filename, '--merge', *flags)


def test_parts_are_whole_batches_and_make_the_whole():
    rows = [shards.rows_of(Shard(i, 3), 43, 10) for i in (1, 2, 3)]
    assert rows == [range(10), range(10, 30), range(30, 43)]  # 1, 2 and 2 batches.
    for count in range(1, 6):
        whole = [
            row
            for i in range(count)
            for row in shards.rows_of(Shard(i + 1, count), 43, 10)
        ]
        assert whole == list(range(43))


def test_more_parts_than_batches_are_refused():
    with pytest.raises(
        ValueError, match='--shard 1/6: 43 images in batches of 10 make 5 part'
    ):
        shards.rows_of(Shard(1, 6), 43, 10)


@pytest.mark.parametrize('text', ['0/3', '4/3', '3', '-1/3', '1/0', 'a/b', '1/3/5'])
def test_shard_outside_one_to_n_is_refused(capsys, run, text):
    with pytest.raises(SystemExit):
        embed_set(run, 'x.h5', f'--shard={text}')
    assert f'{text} given, I/N expected, with I from 1 to N' in capsys.readouterr().err


def test_merge_and_shard_exclude_each_other(capsys, run):
    with pytest.raises(SystemExit):
        merge(run, 'x.h5', '--shard', '1/2')
    assert '--merge joins what --shard has computed' in capsys.readouterr().err


@pytest.mark.parametrize('flags', [(), FLIPPED])
def test_merged_file_is_that_of_one_call_byte_by_byte(run, parts, tmp_path, flags):
    merged = tmp_path / 'embs.h5'
    if flags:
        merged = copy(parts, tmp_path)
    else:
        for index in (2, 1):
            embed_set(run, merged, '--shard', f'{index}/2')
    merge(run, merged, *flags)
    content = merged.read_bytes()
    assert len(list(merged.parent.glob('embs.shard-*'))) == (3 if flags else 2)
    embed_set(run, merged, *flags)
    assert merged.read_bytes() == content


def test_missing_part_is_named(run, parts, tmp_path):
    filename = copy(parts, tmp_path)
    filename.with_name('embs.shard-2-of-3.h5').unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r'1 of 3 parts .*missing \(first: .*-2-of-3\.h5\).*--shard 2/3$',
    ):
        merge(run, filename, *FLIPPED)
    with pytest.raises(FileNotFoundError, match=r'no parts of .*other\.h5: .*--shard'):
        merge(run, tmp_path / 'other.h5', *FLIPPED)


def test_parts_of_two_divisions_are_refused(run, parts, tmp_path):
    filename = copy(parts, tmp_path)
    filename.with_name('embs.shard-1-of-2.h5').write_bytes(b'')
    with pytest.raises(ValueError, match=r'parts of 2 divisions \(into 2, 3\)'):
        merge(run, filename, *FLIPPED)


def test_part_under_the_name_of_another_is_refused(run, parts, tmp_path):
    filename = copy(parts, tmp_path)
    shutil.copy(
        parts / 'embs.shard-1-of-3.h5', filename.with_name('embs.shard-2-of-3.h5')
    )
    with pytest.raises(ValueError, match='2-of-3.h5 holds part 1/3, by its name 2/3'):
        merge(run, filename, *FLIPPED)


def test_other_flags_are_refused(run, parts, tmp_path):
    filename = copy(parts, tmp_path)
    with pytest.raises(
        ValueError,
        match='1-of-3.h5 was embedded with --aggregator mean, this command has norm',
    ):
        merge(run, filename, '--flip_augment', '--aggregator', 'normalized_mean')
    with pytest.raises(ValueError, match='--precision None, this command has bfloat16'):
        merge(run, filename, *FLIPPED, '--precision', 'bfloat16')
    with pytest.raises(ValueError, match='--batch_size 5, this command has 4'):
        merge(run, filename, *FLIPPED, '--batch_size', '4')


@pytest.mark.parametrize(
    'name, value', [('weights', 'abc'), ('precision', 'bfloat16'), ('training', {})]
)
def test_parts_of_other_networks_are_refused(run, parts, tmp_path, name, value):
    filename = copy(parts, tmp_path)
    with h5py.File(filename.with_name('embs.shard-3-of-3.h5'), 'a') as file:
        stored = json.loads(file.attrs['shard'])
        file.attrs['shard'] = json.dumps(stored | {name: value})
    with pytest.raises(ValueError, match=f'3-of-3.h5 and .* differ in {name}'):
        merge(run, filename, *FLIPPED)


def test_part_of_another_checkpoint_is_refused(run, parts, tmp_path):
    filename = copy(parts, tmp_path)
    flags = ('--shard', '2/3', *FLIPPED, '--checkpoint', 'checkpoint-0')
    embed_set(run, filename, *flags)
    with pytest.raises(ValueError, match='--checkpoint checkpoint-0, this command has'):
        merge(run, filename, *FLIPPED)
    with h5py.File(filename.with_name('embs.shard-2-of-3.h5'), 'a') as file:
        stored = json.loads(file.attrs['args'])
        file.attrs['args'] = json.dumps(stored | {'checkpoint': None})
    with pytest.raises(
        ValueError, match=r'differ in checkpoint \(checkpoint-0 and checkpoint-2\)'
    ):
        merge(run, filename, *FLIPPED)


def test_parts_of_another_data_set_are_refused(run, parts, tmp_path):
    filename = copy(parts, tmp_path)
    lines = (run / 'train.csv').read_text().splitlines()
    dataset = tmp_path / 'other.csv'
    dataset.write_text('\n'.join([*lines[:6], '7,other.png', *lines[7:]]))
    with pytest.raises(ValueError, match=r'1 of 5 rows .*first: row 7, other\.png'):
        merge(run, filename, *FLIPPED, '--dataset', str(dataset))
    dataset.write_text('\n'.join([*lines, '7,other.png']))
    with pytest.raises(
        ValueError, match=r'of shape \[2, 2, 8\], but part 3/3 of .*3, 8'
    ):
        merge(run, filename, *FLIPPED, '--dataset', str(dataset))


def test_damaged_part_is_named(run, parts, tmp_path):
    filename = copy(parts, tmp_path)
    part = filename.with_name('embs.shard-2-of-3.h5')
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match='2-of-3.h5 is not a complete file of embed.py --shard .*2/3$'
    ):
        merge(run, filename, *FLIPPED)
    assert not filename.exists()
    with h5py.File(part, 'w') as file:
        file['emb'] = np.zeros((5, 8))
    with pytest.raises(ValueError, match='is not a complete file of embed.py --shard'):
        merge(run, filename, *FLIPPED)


def replace(file, name, values):
    del file[name]
    if values is not None:
        file[name] = values


PART_FAULTS = {
    'fid [5]': lambda file: replace(file, 'fid', np.arange(5)),
    'fid [3]': lambda file: replace(file, 'fid', ['a', 'b', 'c']),
    'no fid': lambda file: replace(file, 'fid', None),
    'emb_aug [5]': lambda file: replace(file, 'emb_aug', np.zeros(5)),
    'a group': lambda file: (
        replace(file, 'emb_aug', None),
        file.create_group('emb_aug'),
    ),
    'a list': lambda file: file.attrs.update(shard='[1]'),
    'a number': lambda file: file.attrs.update(args='1'),
}


@pytest.mark.parametrize('fault', PART_FAULTS)
def test_part_with_other_members_is_named(run, parts, tmp_path, fault):
    filename = copy(parts, tmp_path)
    with h5py.File(filename.with_name('embs.shard-2-of-3.h5'), 'a') as file:
        PART_FAULTS[fault](file)
    with pytest.raises(common.InputError, match=r'2-of-3\.h5 is not .* --shard 2/3$'):
        merge(run, filename, *FLIPPED)
