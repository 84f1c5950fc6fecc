"""Galleries: files of every format, joined, checked against each other, reduced."""

import json

import numpy as np
import pytest

import common
import embedding_files
from embedding import outputs
from searching import gallery

DIM = 3


def write(filename, first, count, **changed):
    """Write a file of embeddings whose first numbers are first, first + 1, ..."""
    embs = np.arange(first, first + count, dtype=np.float32)[:, None] * np.ones(DIM)
    flags = {'flip_augment': False} | changed.pop('flags', {})
    attributes = {
        'args': json.dumps(flags),
        'checkpoint': 'exp/checkpoint-3',
        'versions': '{}',
        'weights': changed.pop('weights', 'w'),
        'image_root': 'images',
    }
    module = outputs if outputs.choose_writer(str(filename)) else embedding_files
    module.write(
        str(filename),
        iter([(range(count), embs.astype(np.float32)[None])]),
        [f'{first + i}.png' for i in range(count)],
        ['original'],
        DIM,
        None,
        attributes,
        [f'p{(first + i) // 2}' for i in range(count)],
        None,
    )
    return str(filename)


SUFFIXES = ('.h5', '.npz', '.parquet', '.csv')


@pytest.mark.parametrize('is_streamed', [False, True])
def test_files_of_all_formats_are_joined(tmp_path, monkeypatch, is_streamed):
    if is_streamed:
        monkeypatch.setattr(common, 'free_memory', lambda: 1)
    names = [
        write(tmp_path / f'{i}{suffix}', 4 * i, 4) for i, suffix in enumerate(SUFFIXES)
    ]
    images = gallery.load(names)
    assert isinstance(images.embs, gallery.Joined) == is_streamed
    assert images.embs.shape == (16, DIM)
    for rows in (slice(0, 16), slice(2, 9), slice(4, 8), slice(15, 99), slice(5, 5)):
        np.testing.assert_array_equal(images.embs[rows][:, 0], np.arange(16)[rows])
    assert images.fids.tolist() == [f'{i}.png' for i in range(16)]
    assert images.pids.tolist() == [f'p{i // 2}' for i in range(16)]
    # A .csv has room for the numbers alone.
    assert images.roots.tolist() == ['images'] * 12 + [None] * 4
    assert images.origin == ('w', 'exp/checkpoint-3', embedding_files.PLAIN)


@pytest.mark.parametrize('is_streamed', [False, True])
def test_individuals_are_left_out(tmp_path, monkeypatch, is_streamed):
    if is_streamed:
        monkeypatch.setattr(common, 'free_memory', lambda: 1)
    names = [write(tmp_path / f'{i}.h5', 4 * i, 4) for i in range(2)]
    images = gallery.load(names).without(['p1', 'p2'])
    assert images.fids.tolist() == ['0.png', '1.png', '6.png', '7.png']
    assert images.embs[:][:, 0].tolist() == [0, 1, 6, 7]
    assert images.pids.tolist() == ['p0', 'p0', 'p3', 'p3']
    with pytest.raises(common.InputError, match='--without p9: the gallery has no ima'):
        images.without(['p9'])
    with pytest.raises(common.InputError, match='leaves no image to search'):
        images.without(['p0', 'p3'])


def test_skipped_images_are_left_out(tmp_path):
    name = write(tmp_path / 'a.h5', 0, 4)
    with embedding_files.h5py.File(name, 'a') as file:
        file['emb'][1] = np.nan
        del file['emb'].attrs[embedding_files.CHECKSUM]
        file['skipped'] = np.array([1])
    images = gallery.load([name])
    assert images.fids.tolist() == ['0.png', '2.png', '3.png']
    assert images.embs[:][:, 0].tolist() == [0, 2, 3]


def test_csv_tells_what_the_file_does_not(tmp_path):
    np.save(tmp_path / 'a.npy', np.eye(3, dtype=np.float32))
    name = str(tmp_path / 'a.npy')
    with pytest.raises(common.InputError, match='does not name its images; give --gal'):
        gallery.load([name])
    (tmp_path / 'a.csv').write_text('7,x.png\n7,y.png\n8,z.png\n')
    images = gallery.load([name], [str(tmp_path / 'a.csv')])
    assert images.pids.tolist() == ['7', '7', '8']
    assert images.fids.tolist() == ['x.png', 'y.png', 'z.png']
    (tmp_path / 'b.csv').write_text('7,x.png\n')
    with pytest.raises(common.InputError, match='3 embeddings but .*b.csv has 1 rows'):
        gallery.load([name], [str(tmp_path / 'b.csv')])
    with pytest.raises(common.InputError, match='1 files of embeddings but 2 of'):
        gallery.load([name], ['a.csv', 'b.csv'])
    fids = write(tmp_path / 'a.h5', 0, 3)
    with pytest.raises(common.InputError, match='x.png'):
        gallery.load([fids], [str(tmp_path / 'a.csv')])


def test_names_may_be_all_there_is(tmp_path):
    np.save(tmp_path / 'a.npy', np.eye(2, dtype=np.float32))
    (tmp_path / 'a.txt').write_text('x.png\ny.png\n')
    images = gallery.load([str(tmp_path / 'a.npy')])
    assert images.pids.tolist() == [None, None]
    assert images.roots.tolist() == [None, None]


@pytest.mark.parametrize(
    'changed, message',
    [
        ({'weights': 'v'}, 'which has other weights; embed both with one checkpoint'),
        (
            {'flags': {'flip_augment': True, 'aggregator': 'mean'}},
            'b.h5 was embedded with --flip_augment --aggregator mean but .* with no ',
        ),
    ],
)
def test_files_of_different_embeddings_are_refused(tmp_path, changed, message):
    names = [write(tmp_path / 'a.h5', 0, 4), write(tmp_path / 'b.h5', 4, 4, **changed)]
    with pytest.raises(common.InputError, match=message):
        gallery.load(names)


def test_dimensions_must_agree(tmp_path):
    names = [write(tmp_path / 'a.h5', 0, 4), str(tmp_path / 'b.npz')]
    np.savez(names[1], emb=np.eye(4), fid=np.array(list('wxyz')))
    with pytest.raises(common.InputError, match=r'b.npz has 4 dimensions but .* has 3'):
        gallery.load(names)


def test_fingerprint_differs_where_anything_does(tmp_path):
    prints = [gallery.fingerprint(gallery.load([write(tmp_path / 'a.h5', 0, 4)]))]
    # The format changes nothing.
    other = gallery.load([write(tmp_path / 'a.npz', 0, 4)])
    assert gallery.fingerprint(other) == prints[0]
    prints.append(gallery.fingerprint(gallery.load([write(tmp_path / 'b.h5', 1, 4)])))
    pair = [str(tmp_path / 'a.h5'), str(tmp_path / 'b.h5')]
    prints += [gallery.fingerprint(gallery.load(names)) for names in (pair, pair[::-1])]
    (tmp_path / 'a.csv').write_text(''.join(f'q,{i}.png\n' for i in range(4)))
    csv_files = [str(tmp_path / 'a.csv')]
    prints.append(gallery.fingerprint(gallery.load(pair[:1], csv_files)))
    other = other._replace(embs=other.embs + np.float32([0, 0, 1]))  # The names stay.
    prints.append(gallery.fingerprint(other))
    assert len(set(prints)) == len(prints)


def test_damaged_flags_are_refused(tmp_path):
    name = write(tmp_path / 'a.h5', 0, 4)
    with embedding_files.h5py.File(name, 'a') as file:
        file.attrs['args'] = '[1]'
    with pytest.raises(common.InputError, match=r'a.h5 is not a file of embed.py: its'):
        gallery.load([name])


def test_fids_stay_in_the_root_of_their_file_or_in_that_of_the_flags(tmp_path):
    names = ['a.png', '../b/x.png', 'c.png', '../none.png']
    roots = [f'{tmp_path}/a', f'{tmp_path}/b', f'{tmp_path}/b', None]
    images = gallery.Gallery(
        *(np.zeros((4, DIM)), np.full(4, None)),
        *(np.array(names, object), np.array(roots, object)),
        *(embedding_files.Origin(), ['a.h5', 'b.h5']),
    )
    # `../b/x.png` of b is in b. Where no root is known, nothing can be opened.
    images.check_inside(None, False)
    outside = (
        r'1 image\(s\) in a.h5 and b.h5 are outside the image root .*/a \(first: .'
    )
    with pytest.raises(common.InputError, match=f'{outside}./b/x.png'):
        images._replace(roots=np.roll(images.roots, 1)).check_inside(None, False)
    # Whatever the files say.
    with pytest.raises(common.InputError, match=r'2 image\(s\) .*/a \(first: ../b/x'):
        images.check_inside(f'{tmp_path}/a', False)
    images.check_inside(f'{tmp_path}/a', True)
