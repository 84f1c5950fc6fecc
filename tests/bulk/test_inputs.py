"""What bulk_embed.py reads: every kind of input gives the same images, in order."""

import io
import os
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import common
import tiny_run
from bulk import inputs

NAMES = [f'{pid}_{i}.png' for pid in range(4) for i in range(3)]


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    """Return a directory with train.csv and its 12 images, and nothing else."""
    directory = tmp_path_factory.mktemp('images')
    tiny_run.write_dataset(directory)
    return directory


def read_all(parts):
    """Return [(FID, PID, content)] of all Parts."""
    return [
        (item.fid, item.pid, item.read())
        for part in parts
        for item in inputs.read(part)
    ]


def expect(directory, has_pids=True):
    """Return what read_all returns of the directory."""
    return [
        (name, name[0] if has_pids else None, (directory / name).read_bytes())
        for name in NAMES
    ]


def list_parts(kind, place, image_root=None, rows=5):
    return inputs.list_parts(kind, [str(place)], image_root, False, rows)


@pytest.mark.parametrize('address', ['', 'file://'])
def test_csv_is_read_in_parts(directory, address):
    root = f'{address}{directory}'
    parts = list_parts('csv', directory / 'train.csv', root)
    assert [len(part.fids) for part in parts] == [5, 5, 2]
    assert read_all(parts) == expect(directory)


@pytest.mark.parametrize('address', ['', 'file://'])
def test_folder_is_read_in_the_order_of_names(directory, tmp_path, address):
    (tmp_path / 'a' / '.hidden').mkdir(parents=True)
    for number, name in enumerate(('b.png', 'a/c.JPG', '.x.png', 'a/.hidden/d.png')):
        (tmp_path / name).write_bytes(bytes([number]))
    (tmp_path / 'a' / 'e.txt').touch()
    parts = list_parts('folder', f'{address}{tmp_path}')
    assert read_all(parts) == [('a/c.JPG', None, b'\1'), ('b.png', None, b'\0')]


@pytest.mark.parametrize('column', ['bytes', 'image'])
def test_parquet_has_contents(directory, tmp_path, column):
    contents = [(directory / name).read_bytes() for name in NAMES]
    if column == 'image':  # As Hugging Face's data sets have it.
        contents = [{'bytes': content, 'path': None} for content in contents]
    pids = [int(name[0]) for name in NAMES]
    table = pyarrow.table({column: contents, 'pid': pids, 'fid': NAMES})
    pyarrow.parquet.write_table(table, tmp_path / 'x.parquet', row_group_size=2)
    parts = list_parts('parquet', tmp_path / 'x.parquet')
    # Row groups are not cut: two of two images are four of five.
    assert [(part.first, part.last) for part in parts] == [(0, 2), (2, 4), (4, 6)]
    whole = list_parts('parquet', tmp_path / 'x.parquet', rows=6)
    assert [(part.first, part.last) for part in whole] == [(0, 3), (3, 6)]
    assert read_all(parts) == expect(directory)


def test_parquet_has_paths(directory):
    table = pyarrow.table({'path': NAMES})
    pyarrow.parquet.write_table(table, directory / 'x.parquet')
    try:
        parts = list_parts('parquet', directory / 'x.parquet')
        assert read_all(parts) == expect(directory, has_pids=False)
    finally:
        (directory / 'x.parquet').unlink()


def test_image_without_a_name_is_called_after_its_row(tmp_path):
    table = pyarrow.table({'bytes': [b'a', None, b'c']})
    filename = tmp_path / 'x.parquet'
    pyarrow.parquet.write_table(table, filename, row_group_size=2)
    items = [i for p in list_parts('parquet', filename, rows=2) for i in inputs.read(p)]
    assert [item.fid for item in items] == [f'{filename}#{i}' for i in range(3)]
    assert items[2].read() == b'c'
    with pytest.raises(OSError, match='the row has no content'):
        items[1].read()


def test_tar_of_webdataset_has_images_and_pids(directory, tmp_path):
    with tarfile.open(tmp_path / 'x.tar', 'w') as archive:
        for name in NAMES:
            stem = name.removesuffix('.png')
            put(archive, f'{stem}.json', b'{}')
            put(archive, name, (directory / name).read_bytes())
            put(archive, f'{stem}.cls', f'{name[0]}\n'.encode())
            put(archive, f'{stem}.txt', b'a caption')
        put(archive, 'readme.md', b'no image')
    parts = list_parts('webdataset', tmp_path / 'x.tar')
    assert read_all(parts) == expect(directory)


def put(archive, name, content):
    """Add a file to an open tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def test_damaged_input_is_named(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'x.tar').write_bytes(rng.bytes(5000))
    with pytest.raises(common.InputError, match=r'x.tar is damaged, or cannot be'):
        read_all(list_parts('webdataset', tmp_path / 'x.tar'))
    (tmp_path / 'x.parquet').write_bytes(rng.bytes(5000))
    with pytest.raises(common.InputError, match=r'x.parquet is no Parquet file \('):
        list_parts('parquet', tmp_path / 'x.parquet')
    pyarrow.parquet.write_table(pyarrow.table({'a': [1]}), tmp_path / 'y.parquet')
    with pytest.raises(
        common.InputError, match='has no images; expected a column bytes'
    ):
        list_parts('parquet', tmp_path / 'y.parquet')


def test_kind_is_told_by_the_ends_of_names():
    assert inputs.choose_kind(['a.csv', 'b.CSV']) == 'csv'
    assert inputs.choose_kind(['s3://bucket/a.parquet']) == 'parquet'
    assert inputs.choose_kind(['a-000.tar', 'a-001.tar']) == 'webdataset'
    assert inputs.choose_kind(['photos', 's3://bucket/x.y']) == 'folder'
    with pytest.raises(common.InputError, match='--input has csv and folder; give one'):
        inputs.choose_kind(['a.csv', 'b'])


def test_missing_and_empty_inputs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='none does not exist; check --input'):
        list_parts('folder', tmp_path / 'none')
    with pytest.raises(common.InputError, match='has no images; expected files'):
        list_parts('folder', tmp_path)
    with pytest.raises(common.InputError, match='is on no file system that PyArrow'):
        list_parts('folder', 'nothing://x/y')


def test_missing_image_is_an_error_of_its_own(directory):
    (item,) = inputs.read(inputs.Part('files', str(directory), ['none.png'], ['1']))
    with pytest.raises(OSError, match='the file does not exist'):
        item.read()


def test_paths_stay_in_the_directory_of_the_parquet_file(directory, tmp_path):
    outside = str(directory / NAMES[0])
    for path in (outside, '../x.png'):
        filename = tmp_path / 'x.parquet'
        pyarrow.parquet.write_table(pyarrow.table({'path': [path]}), filename)
        with pytest.raises(common.InputError, match=f'names {path}, outside its own'):
            read_all(list_parts('parquet', filename))
    table = pyarrow.table({'path': [outside, None]})
    pyarrow.parquet.write_table(table, filename)
    (part,) = inputs.list_parts('parquet', [str(filename)], None, False, 5, True)
    first, second = inputs.read(part)
    assert first.read() == (directory / NAMES[0]).read_bytes()
    with pytest.raises(FileNotFoundError, match='the row has no content'):
        second.read()


def test_names_of_no_text_and_links_are_not_followed(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'x.png').touch()
    (tmp_path / 'a' / 'loop').symlink_to(tmp_path)
    (part,) = list_parts('folder', tmp_path)
    assert part.fids == ['a/x.png']
    (tmp_path / 'a' / os.fsdecode(b'\xff.png')).touch()
    with pytest.raises(common.InputError, match='1 names of images are not UTF-8'):
        list_parts('folder', tmp_path)


def test_empty_parquet_file_has_no_parts(tmp_path):
    table = pyarrow.table({'path': pyarrow.array([], pyarrow.string())})
    pyarrow.parquet.write_table(table, tmp_path / 'x.parquet')
    assert list_parts('parquet', tmp_path / 'x.parquet') == []


def test_two_images_of_one_name_are_refused(tmp_path):
    with tarfile.open(tmp_path / 'x.tar', 'w') as archive:
        put(archive, 'a.png', b'1')
        put(archive, 'a.jpg', b'2')
    with pytest.raises(common.InputError, match='two images of one name, a.png an'):
        read_all(list_parts('webdataset', tmp_path / 'x.tar'))


def test_what_is_a_file_is_no_folder(tmp_path):
    (tmp_path / 'x.tar.gz').touch()
    with pytest.raises(common.InputError, match=r'x.tar.gz is a file; expected a'):
        list_parts('folder', tmp_path / 'x.tar.gz')
    with pytest.raises(common.InputError, match='a CSV has to be on this machine'):
        list_parts('csv', f'file://{tmp_path}/x.tar.gz', str(tmp_path))


@pytest.fixture
def packed(directory, tmp_path):
    """Return the tar of all images, and its bytes."""
    filename = tmp_path / 'x.tar'
    with tarfile.open(filename, 'w') as archive:
        for fid, _, content in expect(directory):
            put(archive, fid, content)
    return filename, bytearray(filename.read_bytes())


def test_damaged_header_is_not_taken_for_the_end_of_a_tar(packed):
    filename, content = packed
    place = content.rindex(b'ustar')  # The last member's.
    content[place - 100] ^= 1
    filename.write_bytes(content)
    with pytest.raises(common.InputError, match=r'x.tar is damaged.*bad checksum'):
        read_all(list_parts('webdataset', filename))


def test_what_follows_the_end_of_a_tar_is_not_left_out_silently(packed):
    filename, content = packed
    filename.write_bytes(content + content)
    with pytest.raises(common.InputError, match=r'x.tar is damaged.*more follows its'):
        read_all(list_parts('webdataset', filename))


def test_tar_that_ends_between_members_is_damaged(packed):
    filename, content = packed
    filename.write_bytes(content[: content.rindex(b'ustar') - 257])
    with pytest.raises(common.InputError, match=r'x.tar is damaged.*empty header'):
        read_all(list_parts('webdataset', filename))


def test_holes_of_a_tar_are_not_filled(tmp_path):
    """One that claims 8 EB of zeros would take them all."""
    info = tarfile.TarInfo('a.png')
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b'77777777777\0'  # The size with its holes.
    header[148:156] = b'%06o\0 ' % tarfile.calc_chksums(bytes(header))[0]
    (tmp_path / 'x.tar').write_bytes(header + bytes(10 * 512))
    with pytest.raises(common.InputError, match=r'x.tar has a.png as a sparse file'):
        read_all(list_parts('webdataset', tmp_path / 'x.tar'))
