"""Files of strangers: what leads elsewhere, and what claims more than there is."""

import io
import os
import pickle
import struct
import zipfile

import h5py
import numpy as np
import pytest

import array_files
import common
import embedding_files

POINTS = np.arange(24, dtype=np.float32).reshape(12, 2)


def write_external(file, secret):
    file['emb'] = h5py.ExternalLink(str(secret), '/emb')


def write_soft(file, secret):
    write_external(file.create_group('inner'), secret)
    file['emb'] = h5py.SoftLink('/inner/emb')


def write_virtual(file, secret):
    layout = h5py.VirtualLayout((12, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(secret), 'emb', (12, 2))
    file.create_virtual_dataset('emb', layout)


def write_raw(file, secret):
    file.create_dataset('emb', (12, 2), 'u1', external=[(str(secret), 0, 24)])


@pytest.mark.parametrize(
    'write, message',
    [
        (write_external, 'emb is a link to another place, which is not followed'),
        (write_soft, 'emb is a link to another place, which is not followed'),
        (write_virtual, 'the numbers of /emb are in other files, which are not read'),
        (write_raw, 'the numbers of /emb are in other files, which are not read'),
    ],
)
@pytest.mark.parametrize('name', ['emb', 'fid'])
def test_bytes_of_other_files_are_no_embeddings(tmp_path, write, message, name):
    secret = tmp_path / 'secret'
    with h5py.File(secret, 'w') as file:
        file['emb'] = POINTS
    with h5py.File(tmp_path / 'x.h5', 'w') as file:
        write(file, secret)
        if name == 'fid':
            file.move('emb', 'fid')
            file['emb'] = POINTS
    with pytest.raises(common.InputError) as error:
        embedding_files.open_embeddings(str(tmp_path / 'x.h5'))
    expected = message.replace('emb', name)
    assert str(error.value).startswith(f'{tmp_path}/x.h5: {expected}')


def test_link_to_a_pipe_is_not_opened(tmp_path):
    """Or the command would wait for somebody to write to it."""
    os.mkfifo(tmp_path / 'pipe')
    with h5py.File(tmp_path / 'x.h5', 'w') as file:
        file['other'] = h5py.ExternalLink(str(tmp_path / 'pipe'), '/emb')
    with pytest.raises(
        common.InputError, match=r'no embeddings; .* found other, a lin'
    ):
        embedding_files.open_embeddings(str(tmp_path / 'x.h5'))


def claim(**options):
    """Return a function that writes a data set of 160e9 numbers of which few exist."""

    def write(filename):
        with h5py.File(filename, 'w') as file:
            embs = file.create_dataset('emb', (8 * 10**7, 2000), 'f4', **options)
            if options:
                embs[:2, :2] = 1

    return write


def claim_npy(filename):
    with open(filename, 'wb') as file:
        header = {'descr': '<f4', 'fortran_order': False, 'shape': (8 * 10**7, 2000)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(100))


def claim_npz(filename):
    claim_npy(inner := filename.with_name('inner'))
    with zipfile.ZipFile(filename, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, 'emb.npy')


@pytest.mark.parametrize(
    'name, write, message',
    [
        ('x.h5', claim(), '640000000000 bytes by its header, but 0 are stored'),
        ('x.h5', claim(chunks=(100, 100)), 'bytes by its header, but 40000 are stored'),
        ('x.h5', claim(chunks=(100, 100), compression='gzip'), 'bytes by its header'),
        ('x.npy', claim_npy, 'is not a complete NumPy file of numbers'),
        ('x.npz', claim_npz, '640000000000 bytes by its header, but .* are stored'),
    ],
)
def test_numbers_that_a_header_only_claims_are_refused(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(common.InputError, match=rf'{name}.* {message}'):
        embedding_files.open_embeddings(str(tmp_path / name))


def test_text_that_a_length_only_claims_is_refused(tmp_path):
    """HDF5 would take 4 GB before it looks."""
    filename = tmp_path / 'x.h5'
    with h5py.File(filename, 'w') as file:
        file['emb'] = POINTS
        names = file.create_dataset('fid', (12,), h5py.string_dtype(), data=['ab'] * 12)
        place = names.id.get_offset()
    opened = embedding_files.open_embeddings(str(filename))
    assert opened.fids == ['ab'] * 12
    with open(filename, 'r+b') as file:
        file.seek(place + 16)  # The second of references of 16 bytes.
        file.write((2**32 - 1).to_bytes(4, 'little'))
    expected = rf'x.h5: /fid has texts of {2**32 - 1 + 11 * 2} characters'
    with pytest.raises(common.InputError, match=expected):
        embedding_files.open_embeddings(str(filename))


def test_texts_that_a_layout_only_claims_are_refused_unread(tmp_path):
    """Memory for a terabyte would not even be there."""
    filename = tmp_path / 'x.h5'
    with h5py.File(filename, 'w') as file:
        file['emb'] = POINTS
        names = file.create_dataset('fid', (12,), h5py.string_dtype(), data=['ab'] * 12)
        place, size = names.id.get_offset(), names.id.get_storage_size()
    content = filename.read_bytes()
    layout = struct.pack('<QQ', place, size)
    assert content.count(layout) == 1
    filename.write_bytes(content.replace(layout, struct.pack('<QQ', place, 2**40)))
    expected = f'fid .* {2**40} stored bytes by its header, but .* has {len(content)};'
    with pytest.raises(common.InputError, match=expected):
        embedding_files.open_embeddings(str(filename))


@pytest.mark.parametrize(
    'options',
    [
        {'chunks': (5, 2)},
        {'chunks': (12, 2), 'maxshape': (None, 2)},
        {'chunks': (4, 1), 'compression': 'gzip', 'shuffle': True},
        {'chunks': (4, 2), 'compression': 'lzf'},
        {'chunks': (4, 2), 'fletcher32': True},
    ],
)
def test_chunks_may_be_packed(tmp_path, options):
    filename = str(tmp_path / 'x.h5')
    with h5py.File(filename, 'w') as file:
        file.create_dataset('emb', data=POINTS, **options)
        file.create_dataset('fid', data=[f'{i}.jpg' for i in range(12)])
    embs, fids, *_ = embedding_files.open_embeddings(filename)
    np.testing.assert_array_equal(embs[:], POINTS)
    assert fids[11] == '11.jpg'


def test_zeros_may_be_packed_as_well_as_they_can(tmp_path):
    """They come to 0.1 % of their bytes, the most that the usual filters do."""
    filename = str(tmp_path / 'x.h5')
    zeros = np.zeros((10**4, 1000), np.float32)
    with h5py.File(filename, 'w') as file:
        file.create_dataset(
            'emb', data=zeros, chunks=zeros.shape, compression='gzip', shuffle=True
        )
    assert zeros.nbytes / os.path.getsize(filename) > 500
    embs = embedding_files.open_embeddings(filename).embs
    assert embs.shape == zeros.shape


class Bomb:
    def __reduce__(self):
        return print, ('it was unpickled',)


@pytest.mark.parametrize('name', ['x.npy', 'x.npz'])
def test_nothing_is_unpickled(tmp_path, capsys, name):
    """Or the file's author would run what they like."""
    objects = np.array([[Bomb()]], object)
    if name == 'x.npy':
        np.save(tmp_path / name, objects, allow_pickle=True)
    else:
        np.savez(tmp_path / name, emb=objects)
    for content in ((tmp_path / name).read_bytes(), pickle.dumps(Bomb())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(common.InputError, match='is not a complete NumPy file'):
            embedding_files.open_embeddings(str(tmp_path / name))
    assert capsys.readouterr().out == ''


def test_text_whose_heap_would_never_end_is_refused(tmp_path):
    filename = tmp_path / 'x.h5'
    with h5py.File(filename, 'w') as file:
        file['emb'] = POINTS
        file['fid'] = [f'{i:08}.jpg' for i in range(12)]
    content = filename.read_bytes()
    # An object: index 2 bytes, uses 2, reserved 4, size 8, then the text.
    header = content.index(b'00000003.jpg') - 16
    filename.write_bytes(content[:header] + bytes(16) + content[header + 16 :])
    with pytest.raises(
        common.InputError, match=r'x\.h5 .*\(its heap at byte \d+ is da'
    ):
        array_files.open_hdf5(str(filename))


def test_more_than_fits_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(common, 'total_memory', lambda: 95)
    with pytest.raises(common.InputError, match='x needs about 0.0 GB'):
        array_files.refuse_huge(POINTS, 'x')
    monkeypatch.setattr(common, 'total_memory', lambda: 96)  # 12 * 2 * 4 bytes.
    array_files.refuse_huge(POINTS, 'x')


def write_ours(filename, embs=POINTS, aggregator=None):
    fids = [f'{i}.jpg' for i in range(12)]
    batches = [(range(7), embs[None, :7]), (range(7, 12), embs[None, 7:])]
    if aggregator is not None:
        batches = [(rows, np.concatenate([b, -b])) for rows, b in batches]
    embedding_files.write(
        *(str(filename), iter(batches), fids, ['a'] * len(batches[0][1]), 2),
        *(aggregator, {}),
    )
    return fids


@pytest.mark.parametrize('streams', [False, True])
def test_changed_bit_of_our_numbers_is_noticed(tmp_path, streams):
    filename = tmp_path / 'x.h5'
    fids = write_ours(filename)
    (tmp_path / 'x.csv').write_text(''.join(f'0,{fid}\n' for fid in fids))
    with h5py.File(filename) as file:
        place = file['emb'].id.get_offset()
    content = bytearray(filename.read_bytes())
    content[place + 37] ^= 1  # Of the tenth number.
    filename.write_bytes(content)
    with pytest.raises(
        common.InputError, match=r'x\.h5 is damaged: its numbers have the checksum'
    ):
        embedding_files.load(str(tmp_path / 'x.csv'), str(filename), streams=streams)


def test_checksum_is_of_the_numbers_alone(tmp_path):
    """Not of how they were stored, or in how many pieces."""
    write_ours(tmp_path / 'x.h5', aggregator=lambda embs: embs[0])
    with h5py.File(tmp_path / 'x.h5') as file:
        once = embedding_files.update_checksum(0, POINTS.astype('>f8')[None])
        assert file['emb'].attrs['crc32'] == once
        assert file['embs'].attrs['crc32'] == once
        twice = embedding_files.update_checksum(0, np.stack([POINTS, -POINTS]))
        assert file['emb_aug'].attrs['crc32'] == twice
    assert once == zip_checksum(POINTS.tobytes())


def zip_checksum(data):
    """Return the checksum that a zip archive has of some bytes."""
    with zipfile.ZipFile(target := io.BytesIO(), 'w') as archive:
        archive.writestr('x', data)
    return zipfile.ZipFile(target).getinfo('x').CRC


def test_file_without_a_checksum_is_read(tmp_path):
    fids = write_ours(tmp_path / 'x.h5')
    (tmp_path / 'x.csv').write_text(''.join(f'0,{fid}\n' for fid in fids))
    with h5py.File(tmp_path / 'x.h5', 'a') as file:
        del file['emb'].attrs['crc32']
    loaded = embedding_files.load(str(tmp_path / 'x.csv'), str(tmp_path / 'x.h5'))
    np.testing.assert_array_equal(loaded.embs, POINTS)
