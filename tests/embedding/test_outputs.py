"""Formats of embed.py: each is read back as what HDF5 has, by others as well."""

import csv
import errno
import itertools
import json
import os

import h5py
import numpy as np
import pyarrow.parquet
import pytest

import array_files
import common
import embed
import embedding_files
import evaluate
import tiny_run
from embedding import outputs

FORMATS = ('npy', 'npz', 'csv', 'parquet')
EVERY_FORMAT = ('h5', *FORMATS)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return a directory with a run `root`; of its 12 images, two are no images."""
    directory = tmp_path_factory.mktemp('run')
    with tiny_run.trained(directory, '--train_iterations', '1'):
        tiny_run.spoil(directory, BAD)
        yield directory


BAD = {'1_0.png': b'', '2_1.png': b'no image'}
BAD_ROWS = [3, 7]


def embed_set(run, name, *flags, csv='good.csv'):
    embed.main(
        [
            *('--experiment_root', str(run / 'root'), '--dataset', str(run / csv)),
            *('--filename', name, '--batch_size', '4', '--quiet', *flags),
        ]
    )
    return run / 'root' / name


@pytest.fixture(scope='module')
def hdf5(run):
    """Return what the HDF5 file of the good images has, {name: array}."""
    with h5py.File(embed_set(run, 'expected.h5')) as file:
        arrays = {name: file[name][:] for name in ('emb', 'fid', 'pid')}
        return arrays | {'checkpoint': file.attrs['checkpoint']}


@pytest.mark.parametrize('suffix', FORMATS)
def test_every_format_is_read_as_hdf5_is(run, hdf5, suffix):
    filename = embed_set(run, f'embs.{suffix}')
    loaded = embedding_files.load(str(run / 'good.csv'), str(filename))
    assert loaded.embs.dtype == np.float32
    np.testing.assert_array_equal(loaded.embs, hdf5['emb'])
    opened = embedding_files.open_embeddings(str(filename))
    assert [fid.encode() for fid in opened.fids] == hdf5['fid'].tolist()
    # What belongs to another CSV is refused, by its FIDs.
    rows = (run / 'good.csv').read_text().splitlines(keepends=True)
    (run / 'turned.csv').write_text(''.join(rows[::-1]))
    with pytest.raises(common.InputError, match='are different images'):
        embedding_files.load(str(run / 'turned.csv'), str(filename))


def test_others_read_what_is_written(run, hdf5):
    npy = np.load(embed_set(run, 'embs.npy'))
    np.testing.assert_array_equal(npy, hdf5['emb'])
    names = (run / 'root' / 'embs.txt').read_bytes().splitlines()
    assert names == hdf5['fid'].tolist()
    with np.load(embed_set(run, 'embs.npz')) as npz:
        np.testing.assert_array_equal(npz['emb'], hdf5['emb'])
        assert npz['pid'].tolist() == [pid.decode() for pid in hdf5['pid']]
        assert str(npz['checkpoint']) == hdf5['checkpoint']
        assert json.loads(str(npz['args']))['filename'].endswith('embs.npz')
    with open(embed_set(run, 'embs.csv'), newline='') as file:
        heading, *rows = csv.reader(file)
    assert heading == ['fid', 'pid', *(f'emb_{i}' for i in range(1, 9))]
    assert [row[0].encode() for row in rows] == hdf5['fid'].tolist()
    assert [row[1].encode() for row in rows] == hdf5['pid'].tolist()
    np.testing.assert_array_equal(np.float32([row[2:] for row in rows]), hdf5['emb'])
    table = pyarrow.parquet.read_table(embed_set(run, 'embs.parquet'))
    np.testing.assert_array_equal(np.stack(table['emb'].to_pylist()), hdf5['emb'])
    assert table['pid'].to_pylist() == [pid.decode() for pid in hdf5['pid']]
    assert table.schema.metadata[b'checkpoint'].decode() == hdf5['checkpoint']


@pytest.mark.parametrize('suffix', FORMATS)
def test_variants_are_joined(run, suffix):
    flags = ('--flip_augment', '--aggregator', 'normalized_mean')
    expected = embedding_files.open_embeddings(str(embed_set(run, 'flip.h5', *flags)))
    found = embedding_files.open_embeddings(
        str(embed_set(run, f'flip.{suffix}', *flags))
    )
    np.testing.assert_array_equal(found.embs[:], expected.embs[:])


@pytest.mark.parametrize('suffix', FORMATS)
def test_parts_make_any_format(run, hdf5, suffix):
    for part in ('1/2', '2/2'):
        embed_set(run, f'parts.{suffix}', '--shard', part)
    filename = embed_set(run, f'parts.{suffix}', '--merge')
    found = embedding_files.open_embeddings(str(filename))
    np.testing.assert_array_equal(found.embs[:], hdf5['emb'])
    for part in (run / 'root').glob('parts.shard-*'):
        part.unlink()


def test_groups_have_equal_sizes():
    batches = [(range(3), np.arange(3)), (range(3, 4), np.arange(3, 4))]
    batches += [(range(4, 11), np.arange(4, 11))]
    groups = list(outputs.regroup(((r, e[:, None]) for r, e in batches), 4))
    assert [rows for rows, _ in groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    for rows, embs in groups:
        assert embs[:, 0].tolist() == rows


# --- images that cannot be read ---------------------------------------------------


@pytest.mark.parametrize('suffix', ['h5', 'npz', 'csv', 'parquet'])
def test_skipped_rows_keep_their_places(run, hdf5, suffix):
    skip = ('--on_bad_image', 'skip')
    filename = embed_set(run, f'some.{suffix}', *skip, csv='train.csv')
    opened = embedding_files.open_embeddings(str(filename))
    assert opened.skipped.tolist() == BAD_ROWS
    embs = np.asarray(opened.embs[:])
    assert np.flatnonzero(np.isnan(embs).all(axis=1)).tolist() == BAD_ROWS
    truth = np.insert(hdf5['emb'], [3, 6], np.nan, axis=0)
    np.testing.assert_allclose(embs, truth, atol=1e-5 * np.nanmax(np.abs(truth)))
    for streams in (False, True):
        loaded = embedding_files.load(
            str(run / 'train.csv'), str(filename), streams=streams
        )
        assert loaded.num_skipped == 2
        assert loaded.fids.tolist() == [fid.decode() for fid in hdf5['fid']]
        assert loaded.pids.tolist() == [pid.decode() for pid in hdf5['pid']]
        np.testing.assert_array_equal(loaded.embs[:], np.delete(embs, BAD_ROWS, 0))
        np.testing.assert_array_equal(
            loaded.embs[2:4], np.delete(embs, BAD_ROWS, 0)[2:4]
        )
        assert loaded.embs.shape == (10, 8)


def test_skipped_images_are_named_and_counted(run, capsys):
    embed_set(run, 'some.h5', '--on_bad_image', 'skip', csv='train.csv')
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith('1_0.png is skipped: the file is empty')
    assert lines[1].startswith('2_1.png is skipped: ')
    assert lines[2] == ('2 of 12 images skipped (first: 1_0.png); their rows are NaN')
    assert len(lines) == 3
    with h5py.File(run / 'root' / 'some.h5') as file:
        assert file['skipped'][:].tolist() == BAD_ROWS
        reasons = file['skipped_reason'].asstr()[:]
        assert reasons[0] == 'the file is empty'
        assert len(file['fid']) == 12


def test_scores_leave_skipped_rows_out(run, tmp_path, capsys):
    skip = ('--on_bad_image', 'skip')
    files = {
        'good.csv': embed_set(run, 'all.h5'),
        'train.csv': embed_set(run, 'some.h5', *skip, csv='train.csv'),
    }
    scores = []
    for name, embs in files.items():
        capsys.readouterr()
        evaluate.main(
            [
                *('--excluder', 'diagonal', '--filename', str(tmp_path / 's.json')),
                *('--query_dataset', str(run / name), '--query_embeddings', str(embs)),
                *('--gallery_dataset', str(run / name)),
                *('--gallery_embeddings', str(embs)),
            ]
        )
        scores.append(json.loads((tmp_path / 's.json').read_text()))
    assert scores[0]['mAP'] == pytest.approx(scores[1]['mAP'], rel=1e-6)
    assert scores[0]['CMC'] == pytest.approx(scores[1]['CMC'])
    told = capsys.readouterr().err
    assert '2 of 12 images of ' in told
    assert 'skipped' in told


def test_missing_images_are_skipped_too(run, capsys, tmp_path):
    (tmp_path / 'more.csv').write_text('1,gone.png\n0,0_0.png\n')
    skip = ('--on_bad_image', 'skip', '--image_root', str(run))
    embed_set(run, 'more.h5', *skip, csv=tmp_path / 'more.csv')
    assert 'gone.png is skipped: the file does not' in capsys.readouterr().err


def test_nothing_but_bad_images_is_an_error(run, tmp_path):
    (tmp_path / 'bad.csv').write_text('1,1_0.png\n2,2_1.png\n')
    skip = ('--on_bad_image', 'skip', '--image_root', str(run))
    with pytest.raises(
        common.InputError, match=r'none of the 2 images .*1_0.png: the f'
    ):
        embed_set(run, 'bad.h5', *skip, csv=tmp_path / 'bad.csv')
    assert not (run / 'root' / 'bad.h5').exists()


def test_npy_cannot_say_what_was_skipped(run, capsys):
    with pytest.raises(SystemExit):
        embed_set(run, 'some.npy', '--on_bad_image', 'skip')
    assert '.npy cannot; choose .h5, .npz, .csv or .parquet' in capsys.readouterr().err


def test_skipped_rows_of_parts_are_those_of_the_whole(run):
    skip = ('--on_bad_image', 'skip')
    whole = embed_set(run, 'w.h5', *skip, csv='train.csv').read_bytes()
    for part in ('1/2', '2/2'):
        embed_set(run, 'w.h5', *skip, '--shard', part, csv='train.csv')
    merged = embed_set(run, 'w.h5', *skip, '--merge', csv='train.csv')
    assert merged.read_bytes() == whole


def test_images_that_are_all_readable_make_the_same_file(run):
    files = []
    for flags in ((), ('--on_bad_image', 'skip')):
        with h5py.File(embed_set(run, 'same.h5', *flags)) as file:
            assert 'skipped' not in file
            files.append(file['emb'][:])
    np.testing.assert_array_equal(*files)


# --- tables that are none ---------------------------------------------------------


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'is no table of embeddings; expected the heading fid,pid,emb_1,emb_2'),
        ('fid,pid\na,1\n', 'is no table of embeddings'),
        ('pid,fid,emb_1\n1,a,2\n', 'is no table of embeddings'),
        ('fid,emb_1,emb_3\na,1,2\n', 'is no table of embeddings'),
        ('fid,emb_1,emb_2\na,1\n', 'line 2 has 2 fields, 3 were expected; write'),
        ('fid,emb_1,emb_2\na,1,2,3\n', 'line 2 has 4 fields, 3 were expected; write'),
        ('fid,emb_1,emb_2\na,1,x\n', 'is not a complete table of embeddings, as embed'),
    ],
)
def test_other_csv_is_refused(tmp_path, text, message):
    (tmp_path / 'x.csv').write_text(text)
    (tmp_path / 'set.csv').write_text('1,a\n')
    with pytest.raises(common.InputError, match=message):
        embedding_files.load(str(tmp_path / 'set.csv'), str(tmp_path / 'x.csv'))


def test_other_parquet_is_refused(tmp_path):
    filename = str(tmp_path / 'x.parquet')
    for column in (pyarrow.array([1.0]), pyarrow.array([[1.0, 2.0]])):
        pyarrow.parquet.write_table(pyarrow.table({'emb': column}), filename)
        with pytest.raises(
            common.InputError, match='expected columns fid and emb, lis'
        ):
            embedding_files.open_embeddings(filename)
    (tmp_path / 'x.parquet').write_bytes(b'PAR1rubbish')
    with pytest.raises(common.InputError, match='is not a complete table'):
        embedding_files.open_embeddings(filename)


def test_names_beside_an_array_must_be_as_many(tmp_path):
    np.save(tmp_path / 'x.npy', np.ones((3, 2), np.float32))
    (tmp_path / 'x.txt').write_text('a\nb\n')
    with pytest.raises(
        common.InputError, match=r'x.txt has 2 lines but .* 3 embedding'
    ):
        embedding_files.open_embeddings(str(tmp_path / 'x.npy'))


# --- two files, which cannot be replaced at once ------------------------------------


FIRST = {'a.png': [1, 2], 'b.png': [3, 4]}
SECOND = {'b.png': [5, 6], 'a.png': [7, 8]}  # As many, in another order.


def write_pair(directory, numbers):
    """Write x.npy with x.txt of {FID: embedding}."""
    embs = np.float32(list(numbers.values()))
    table = outputs.Table([(range(2), embs)], list(numbers), None, 2, {}, {})
    outputs.write_npy(str(directory / 'x.npy'), table)


def find_pairs(directory, *all_numbers):
    """Return those {FID: embedding} that the CSV of their FIDs finds in x.npy.

    What it finds must be its own: other numbers would be scored in silence.
    """
    found = []
    for numbers in all_numbers:
        (directory / 'set.csv').write_text(''.join(f'1,{fid}\n' for fid in numbers))
        names = str(directory / 'set.csv'), str(directory / 'x.npy')
        try:
            loaded = embedding_files.load(*names)
        except (common.InputError, FileNotFoundError):
            continue
        np.testing.assert_array_equal(loaded.embs, list(numbers.values()))
        found.append(numbers)
    return found


def watch(monkeypatch, look, fault=0):
    """Call `look` before each system call that could fail; let the n-th one fail."""
    calls = itertools.count(1)

    def watching(function):
        def call(*args):
            look()
            if next(calls) == fault:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return function(*args)

        return call

    for name in ('chmod', 'fsync', 'remove', 'replace'):
        monkeypatch.setattr(os, name, watching(getattr(os, name)))


def test_numbers_never_have_the_names_of_others(tmp_path, monkeypatch):
    left = []
    for fault in itertools.count(1):
        write_pair(tmp_path, FIRST)
        with monkeypatch.context() as patch:
            watch(patch, lambda: find_pairs(tmp_path, FIRST, SECOND), fault)
            try:
                write_pair(tmp_path, SECOND)
            except OSError:
                left.append(find_pairs(tmp_path, FIRST, SECOND))
            else:
                break
    assert find_pairs(tmp_path, FIRST, SECOND) == [SECOND]
    # The older pair is there until the new one is synced: two files and a removal.
    assert left[:3] == [[FIRST]] * 3
    assert left[3] == []
    assert left == sorted(left, key=[[FIRST], [], [SECOND]].index)
    assert not list(tmp_path.glob('.*'))


def test_numbers_of_the_same_names_are_replaced_at_once(tmp_path, monkeypatch):
    other = {fid: [9, 9] for fid in FIRST}
    write_pair(tmp_path, FIRST)

    def look():
        pairs = embedding_files.open_embeddings(str(tmp_path / 'x.npy'))
        assert pairs.fids == list(FIRST)

    with monkeypatch.context() as patch:
        watch(patch, look)
        write_pair(tmp_path, other)
    assert find_pairs(tmp_path, other) == [other]


def test_unreadable_image_leaves_the_older_pair(run, tmp_path):
    names = [tmp_path / 'x.npy', tmp_path / 'x.txt']
    embed_set(run, str(names[0]))
    older = [name.read_bytes() for name in names]
    with pytest.raises(common.InputError, match='1_0.png is not a readable image'):
        embed_set(run, str(names[0]), csv='train.csv')
    assert [name.read_bytes() for name in names] == older
    assert sorted(tmp_path.iterdir()) == names


def test_pair_that_is_replaced_while_it_is_read_is_refused(tmp_path, monkeypatch):
    write_pair(tmp_path, FIRST)
    load_numpy = array_files.load_numpy

    def be_slow(filename):
        arrays = load_numpy(filename)
        write_pair(tmp_path, SECOND)
        return arrays

    monkeypatch.setattr(array_files, 'load_numpy', be_slow)
    with pytest.raises(common.InputError, match='was replaced while it was read; rep'):
        embedding_files.open_embeddings(str(tmp_path / 'x.npy'))


def test_names_that_cannot_be_written_are_told_before_the_work(tmp_path):
    (tmp_path / 'x.txt').mkdir()
    never = (pytest.fail('work was done') for _ in range(1))
    table = outputs.Table(never, list(FIRST), None, 2, {}, {})
    with pytest.raises(common.FileError, match=r'x\.txt is a directory, a file name'):
        outputs.write_npy(str(tmp_path / 'x.npy'), table)


def test_name_with_a_line_break_does_not_go_into_a_list(tmp_path):
    table = outputs.Table([], ['a', 'b\nc'], None, 2, {}, {})
    with pytest.raises(common.InputError, match=r"1 FIDs have a line break .*'b\\nc'"):
        outputs.write_npy(str(tmp_path / 'x.npy'), table)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', ['npz', 'parquet'])
def test_flipped_bit_is_an_error_and_no_other_score(run, hdf5, suffix):
    filename = embed_set(run, f'flipped.{suffix}')
    content = bytearray(filename.read_bytes())
    # Somewhere in the numbers, which both formats store as they are.
    place = content.index(np.float32(hdf5['emb'][5, 2]).tobytes())
    content[place] ^= 1
    filename.write_bytes(content)
    with pytest.raises(common.InputError, match='CRC'):
        embedding_files.load(str(run / 'good.csv'), str(filename))


def test_number_beyond_float32_is_refused_with_its_row(tmp_path):
    (tmp_path / 'x.csv').write_text('fid,emb_1\na.png,1\nb.png,1e39\n')
    (tmp_path / 'set.csv').write_text('1,a.png\n2,b.png\n')
    names = str(tmp_path / 'set.csv'), str(tmp_path / 'x.csv')
    with pytest.raises(common.InputError, match=r'first: row 2, b.png'):
        embedding_files.load(*names)
