"""make_csv.py: what it writes, what it reports, and what it leaves alone."""

import hashlib
import os
import pathlib
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

import common
import datasets
import images
import make_csv
import tiny_run

SCRIPT = pathlib.Path(make_csv.__file__)

# Out of order on purpose; the stranger among them is no image.
MARKET_FILES = [
    'bounding_box_train/0010_c1s1_000001_01.jpg',
    'bounding_box_train/0002_c1s1_000451_03.jpg',
    'bounding_box_train/Thumbs.db',
    'query/0001_c1s1_001051_00.jpg',
    'bounding_box_test/0001_c2s1_001051_00.jpg.jpg',
    'bounding_box_test/0000_c1s1_000151_01.jpg',
    'bounding_box_test/-1_c1s1_000401_03.jpg',
]

SHA256_OF_COMPLETE_MARKET = {
    'train': '7aa82b3aacdd192c62b8288c1987715d568ac34e88fae83df56ffd37c6458faa',
    'query': 'bd9e79849b26c19a9018b4b500822a87ff6f315508264b3c3530f68464c76973',
    'test': 'b7907bcd370ac2632a03d7130658f8a96486b4bdceb1d099fd4e1f64eb5108b2',
}


def touch(root, fids):
    """Make empty files: the command looks at names only."""
    for fid in fids:
        path = root / fid
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def market(tmp_path):
    """A Market-1501 of six images, in a directory whose name has a space."""
    root = tmp_path / 'my data' / 'Market-1501'
    touch(root, MARKET_FILES)
    return root


def make(layout, root, output_dir, *flags):
    make_csv.main([layout, str(root), '--output_dir', str(output_dir), *flags])


def run_script(*args, cwd):
    """Run the command as a user would, from a directory that is not the project's."""
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_rows_are_sorted_by_byte_and_images_only(market, tmp_path):
    make('market1501', market, tmp_path / 'out')
    assert (tmp_path / 'out/market1501_train.csv').read_bytes() == (
        b'0002,bounding_box_train/0002_c1s1_000451_03.jpg\n'
        b'0010,bounding_box_train/0010_c1s1_000001_01.jpg\n'
    )
    # '-' is byte 0x2d, '0' is 0x30; junk and distractors belong to the gallery.
    assert (tmp_path / 'out/market1501_test.csv').read_bytes() == (
        b'-1,bounding_box_test/-1_c1s1_000401_03.jpg\n'
        b'0000,bounding_box_test/0000_c1s1_000151_01.jpg\n'
        b'0001,bounding_box_test/0001_c2s1_001051_00.jpg.jpg\n'
    )


def test_counts_are_printed_and_compared_with_the_complete_set(market, tmp_path):
    done = run_script('market1501', market, '--output_dir', 'out', cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f'{os.path.join("out", "market1501_train.csv")}: 2 images, 2 PIDs',
        f'{os.path.join("out", "market1501_query.csv")}: 1 images, 1 PIDs',
        f'{os.path.join("out", "market1501_test.csv")}: 3 images, 3 PIDs',
    ]
    assert done.stderr.splitlines() == [
        'warning: train has 2 images, the complete data set has 12936',
        'warning: query has 1 images, the complete data set has 3368',
        'warning: test has 3 images, the complete data set has 19732',
    ]


@pytest.mark.parametrize('keep', [[], ['Thumbs.db']])
def test_folder_without_images_is_an_error_of_one_line(market, tmp_path, keep):
    for path in (market / 'query').iterdir():
        path.unlink()
    touch(market / 'query', keep)
    done = run_script('market1501', market, '--output_dir', 'out', cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert 'has no image in query; expected files like 0002_c1s1' in done.stderr
    assert not (tmp_path / 'out').exists()


def test_missing_folder_is_an_error_and_older_csvs_stay(market, tmp_path):
    make('market1501', market, tmp_path)
    before = (tmp_path / 'market1501_train.csv').read_bytes()
    touch(market, ['bounding_box_train/0011_c1s1_000001_01.jpg'])
    (market / 'query').rename(market / 'elsewhere')
    done = run_script('market1501', market, '--output_dir', tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f'make_csv.py: error: {market} lacks query; expected bounding_box_train, '
        'query, bounding_box_test in it\n'
    )
    assert (tmp_path / 'market1501_train.csv').read_bytes() == before


def test_csvs_are_written_all_or_none(market, tmp_path):
    (tmp_path / 'market1501_test.csv').mkdir()  # Where the last file should go.
    with pytest.raises(common.FileError, match='market1501_test.csv'):
        make('market1501', market, tmp_path)
    assert [path.name for path in tmp_path.glob('*.csv')] == ['market1501_test.csv']
    assert not list(tmp_path.glob('.*.partial'))


def test_listed_images_that_do_not_exist_are_left_out_and_counted(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr('data.sop.COMPLETE', {'train': 2, 'test': 1})
    heading = 'image_id class_id super_class_id path\n'
    touch(tmp_path, ['a/1.JPG', 'a/3.JPG'])
    (tmp_path / 'Ebay_train.txt').write_text(f'{heading}1 1 1 a/1.JPG\n2 1 1 a/2.JPG\n')
    (tmp_path / 'Ebay_test.txt').write_text(f'{heading}3 2 1 a/3.JPG\n')
    make('sop', tmp_path, tmp_path)
    assert (tmp_path / 'sop_train.csv').read_bytes() == b'1,a/1.JPG\n'
    assert capsys.readouterr().err.splitlines() == [
        'warning: 1 of 2 listed train images are missing (first: a/2.JPG); '
        'the CSV leaves them out',
        'warning: train has 1 images, the complete data set has 2',
    ]


def test_lists_without_any_image_are_an_error(tmp_path):
    for part in ('train', 'test'):
        (tmp_path / f'Ebay_{part}.txt').write_text('1 1 1 a/1.JPG\n')
    with pytest.raises(FileNotFoundError, match=r'none of the 1 train.*first: a/1.JPG'):
        make('sop', tmp_path, tmp_path)


def test_prefix_names_the_files(tmp_path):
    touch(tmp_path / 'pets', ['cat/1.jpg', 'dog/1.jpg'])
    make('folder', tmp_path / 'pets', tmp_path, '--prefix', 'pets')
    assert (tmp_path / 'pets_all.csv').read_bytes() == b'cat,cat/1.jpg\ndog,dog/1.jpg\n'


def test_names_come_back_as_they_were(tmp_path):
    # Commas and quotes need CSV quoting; NA, #7 and 007 tempt a reader to guess.
    fids = ['NA/a b.jpg', '#7/x,y.jpg', '007/"q".jpg', 'José/é.jpg']
    touch(tmp_path / 'root', fids)
    make('folder', tmp_path / 'root', tmp_path)
    pids, found, _ = datasets.read(str(tmp_path / 'folder_all.csv'))
    assert datasets.find_missing(found, str(tmp_path / 'root')) == []
    assert set(zip(pids, found, strict=True)) == {(f.split('/')[0], f) for f in fids}


def test_name_that_is_not_utf8_is_an_error():
    # How Python hands on a byte 0xff in a file name; not all disks can store one.
    with pytest.raises(ValueError, match='is not UTF-8; rename it'):
        make_csv.sort_rows([('1', '1/\udcff.jpg')])


@pytest.mark.parametrize(
    'argv, message',
    [
        (['market1502', '.'], 'invalid choice'),
        (['splitt', 'train.csv'], "'splitt' given; did you mean split? (see --help)"),
        (['tabel', 'x.csv'], "'tabel' given; did you mean table? (see --help)"),
        (['folder', '.', '--cid_pattern', 'c('], "'c(' is no regular expression"),
        (
            ['folder', '.', '--cid_pattern', '(c)([0-9])'],
            "'(c)([0-9])' has 2 groups, one was expected: '_c([0-9]+)'",
        ),
        (
            [
                'split',
                'x.csv',
                '--val_pids',
                '1',
                '--excluder',
                'csv',
                '--check_images',
            ],
            '--check_images needs --image_root, where the images are',
        ),
        (
            [
                *('table', 'x.csv', '--pid_column', 'a', '--fid_column', 'b'),
                *('--cid_column', 'c', '--cid_pattern', '(.)'),
            ],
            '--cid_column and --cid_pattern both tell cameras; give one',
        ),
        (['market1501', 'no/such/place'], 'is not a directory'),
        (['folder', '.', '--prefix', 'a/b'], 'the start of a file name expected'),
        (['folder', '.', '--prefix', ''], 'the start of a file name expected'),
    ],
)
def test_bad_flags_leave_with_2(argv, message, capsys):
    with pytest.raises(SystemExit) as left:
        make_csv.main(argv)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_default_output_is_the_data_folder_beside_the_script(monkeypatch, tmp_path):
    assert pathlib.Path(make_csv.DATA_DIR) == SCRIPT.parent / 'data'
    monkeypatch.setattr(make_csv, 'DATA_DIR', str(tmp_path / 'data'))
    touch(tmp_path / 'pets', ['cat/1.jpg', 'dog/1.jpg'])
    make_csv.main(['folder', str(tmp_path / 'pets')])
    (tmp_path / 'pets.csv').write_text('who,what\ncat,cat/1.jpg\n')
    columns = ['--pid_column', 'who', '--fid_column', 'what']
    make_csv.main(['table', str(tmp_path / 'pets.csv'), *columns])
    names = {path.name for path in (tmp_path / 'data').iterdir()}
    assert names == {'folder_all.csv', 'pets_all.csv'}


def test_duke_has_the_names_of_the_original(tmp_path):
    for folder in ('bounding_box_train', 'query', 'bounding_box_test'):
        touch(tmp_path / 'duke' / folder, ['0001_c2_f0046182.jpg'])
    make('duke', tmp_path / 'duke', tmp_path)
    # The three files that the original code comes with.
    assert {path.name for path in tmp_path.glob('*.csv')} == {
        'dukeMTMC_train.csv',
        'dukeMTMC_query.csv',
        'dukeMTMC_test.csv',
    }


def test_command_imports_no_tensorflow_and_no_scipy():
    # Else --help takes seconds. Layouts are imported only once chosen.
    code = 'import make_csv, sys; print({"tensorflow", "scipy"} & set(sys.modules))'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=SCRIPT.parent, capture_output=True, text=True
    )
    assert done.stdout.strip() == 'set()'


# --- folder ----------------------------------------------------------------------


def test_folder_counts_and_names_what_it_skips(tmp_path, capsys):
    root = tmp_path / 'pets'
    touch(
        root, ['cat/1.jpg', 'cat/old/2.webp', 'cat/a.HEIC', 'dog/b.heic', 'dog/c.txt']
    )
    touch(root, ['dog/3.png', 'cow/readme', '.git/4.jpg', 'cat/._1.jpg', 'list.csv'])
    (root / 'bee').mkdir()
    (root / 'cat' / 'link').symlink_to(root / 'dog')
    make('folder', root, tmp_path)
    assert (tmp_path / 'folder_all.csv').read_text() == (
        'cat,cat/1.jpg\ncat,cat/old/2.webp\ndog,dog/3.png\n'
    )
    assert capsys.readouterr().err.splitlines() == [
        'warning: skipped 5 file(s) of other formats, 2 .heic, 1 .csv, 1 without '
        'suffix, 1 .txt (first: cat/a.HEIC, cow/readme, dog/b.heic)',
        'warning: skipped 2 folder(s) without an image, which are no identities '
        '(first: bee, cow)',
        'warning: skipped 2 hidden file(s) or folder(s) (first: .git, cat/._1.jpg)',
        'warning: skipped 1 link(s) to folders (first: cat/link)',
    ]


def test_folder_of_splits_skips_aloud_in_each(tmp_path, capsys):
    root = tmp_path / 'pets'
    touch(root, ['train/cat/1.jpg', 'test/dog/2.jpg', 'test/cow/3.tif', 'readme.txt'])
    make('folder', root, tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        'warning: skipped 2 file(s) of other formats, 1 .tif, 1 .txt (first: '
        'readme.txt, test/cow/3.tif)',
        'warning: skipped 1 folder(s) without an image, which are no identities '
        '(first: test/cow)',
    ]


def test_folder_without_images_beside_splits_leaves_them_splits(tmp_path, capsys):
    # An archive that was made on a Mac, and notes.
    root = tmp_path / 'pets'
    touch(root, ['train/cat/1.jpg', 'val/dog/2.jpg', '__MACOSX/val/._2.jpg'])
    touch(root, ['notes/dates.txt'])
    make('folder', root, tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        'warning: skipped 1 file(s) of other formats, 1 .txt (first: notes/dates.txt)',
        'warning: skipped 2 folder(s) without an image, which are no identities '
        '(first: __MACOSX, notes)',
        'warning: skipped 1 hidden file(s) or folder(s) (first: __MACOSX/val/._2.jpg)',
    ]
    assert (tmp_path / 'folder_train.csv').read_text() == 'cat,train/cat/1.jpg\n'
    assert (tmp_path / 'folder_val.csv').read_text() == 'dog,val/dog/2.jpg\n'
    assert not (tmp_path / 'folder_all.csv').exists()


@pytest.mark.parametrize(
    'fids, warnings',
    [
        (
            ['train/cat/1.jpg', 'Validation/dog/2.jpg'],
            [
                'warning: Validation, train: taken for identities, as Validation is '
                'none of gallery, query, test, train, val; if they are parts of the '
                'data set, rename it or move it away'
            ],
        ),
        (
            ['train/cat/1.jpg', 'val/dog/2.jpg', 'unlabelled/3.jpg'],
            [
                'warning: train, val: taken for identities, as unlabelled is none of '
                'gallery, query, test, train, val; if they are parts of the data set, '
                'rename it or move it away'
            ],
        ),
        (
            ['photos/cat/1.jpg', 'photos/dog/2.jpg'],
            [
                'warning: one identity only, photos, with images in 2 folders; if '
                'these are the identities, give {root}/photos'
            ],
        ),
        (['unknown/1.jpg', 'unknown/2.jpg'], []),
        (['cat/1.jpg', 'cat/old/2.jpg', 'dog/3.jpg'], []),
        (['train/cat/1.jpg', 'val/dog/2.jpg', 'val/cow/3.jpg'], []),
        (
            ['train/cat/1.jpg', 'train/dog/1.jpg', 'val/dog/2.jpg', 'val/cow/3.jpg'],
            [
                'warning: 1 of 2 PIDs of val are in train, too (first: dog); the '
                'scores of these would say nothing about new identities'
            ],
        ),
    ],
)
def test_folder_warns_of_what_may_be_meant_otherwise(tmp_path, capsys, fids, warnings):
    root = tmp_path / 'pets'
    touch(root, fids)
    make('folder', root, tmp_path)
    expected = [warning.format(root=root) for warning in warnings]
    assert capsys.readouterr().err.splitlines() == expected


def test_folder_of_other_formats_only_says_which(tmp_path):
    touch(tmp_path / 'pets', ['cat/1.heic', 'dog/2.heic'])
    with pytest.raises(
        common.InputError,
        match=r'pets holds no images that can be read \(2 \.heic\); expected one '
        r'sub-folder per identity with files \.bmp, .*\.webp$',
    ):
        make('folder', tmp_path / 'pets', tmp_path)


def test_identity_folder_that_is_a_link_is_an_identity(tmp_path, capsys):
    touch(tmp_path, ['elsewhere/1.jpg', 'pets/dog/2.jpg'])
    (tmp_path / 'pets' / 'cat').symlink_to(tmp_path / 'elsewhere')
    make('folder', tmp_path / 'pets', tmp_path)
    assert (tmp_path / 'folder_all.csv').read_text() == 'cat,cat/1.jpg\ndog,dog/2.jpg\n'
    assert capsys.readouterr().err == ''


def test_cameras_are_found_by_a_pattern(tmp_path, capsys):
    touch(
        tmp_path / 'pets', ['cat/gate-07_1.jpg', 'cat/yard-2_1.jpg', 'dog/yard-3.jpg']
    )
    pattern = ['--cid_pattern', r'/([a-z]+)-\d']
    make('folder', tmp_path / 'pets', tmp_path, *pattern)
    csv_file = str(tmp_path / 'folder_all.csv')
    assert datasets.read(csv_file).cids.tolist() == ['gate', 'yard', 'yard']
    assert capsys.readouterr().out == f'{csv_file}: 3 images, 2 PIDs, 2 cameras\n'


@pytest.mark.parametrize('pattern', [r'_c(\d)', r'_c(\d)?'])
def test_image_without_a_camera_is_refused(tmp_path, pattern):
    touch(tmp_path / 'pets', ['cat/1_c1.jpg', 'cat/1_cx.jpg', 'dog/2_cx.jpg'])
    with pytest.raises(common.InputError) as error:
        make('folder', tmp_path / 'pets', tmp_path, '--cid_pattern', pattern)
    assert str(error.value) == (
        'no camera in the names of 2 of 3 images (first: cat/1_cx.jpg); --cid_pattern '
        f'{pattern} does not find it there'
    )
    assert not list(tmp_path.glob('*.csv'))


# --- table -----------------------------------------------------------------------

LIONS = [
    'image_id,identity,path,split,camera',
    '1,zoe,z/1.jpg,train,gate',
    '2,"abe, the old",a/1.jpg,test,gate',
    '3,zoe,z/0.jpg,train,"yard 2"',
]
COLUMNS = ['--pid_column', 'identity', '--fid_column', 'path']


def make_table(directory, lines, *flags):
    """Run the command on a table of these lines, with lions/ for its output."""
    (directory / 'meta.csv').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    output = ['--output_dir', str(directory / 'lions')]
    make_csv.main(['table', str(directory / 'meta.csv'), *COLUMNS, *output, *flags])


def test_table_becomes_one_csv_per_split_in_its_order(tmp_path, capsys):
    make_table(tmp_path, LIONS, '--split_column', 'split', '--cid_column', 'camera')
    train, test = (tmp_path / 'lions' / f'meta_{s}.csv' for s in ('train', 'test'))
    assert train.read_text() == 'zoe,z/1.jpg,gate\nzoe,z/0.jpg,yard 2\n'
    assert test.read_text() == '"abe, the old",a/1.jpg,gate\n'
    assert capsys.readouterr().out.splitlines() == [
        f'{train}: 2 images, 1 PIDs, 2 cameras',
        f'{test}: 1 images, 1 PIDs, 1 cameras',
    ]


@pytest.mark.parametrize('delimiter', [',', ';', '\t'])
def test_table_without_splits_is_one_csv_whatever_separates_fields(tmp_path, delimiter):
    lines = [
        delimiter.join([*line.split(',')[1:3], 'x'])
        for line in (LIONS[i] for i in (0, 1, 3))
    ]
    make_table(tmp_path, lines, '--prefix', 'l')
    assert (tmp_path / 'lions/l_all.csv').read_text() == 'zoe,z/1.jpg\nzoe,z/0.jpg\n'


def test_cameras_of_a_table_may_be_in_its_paths(tmp_path):
    make_table(tmp_path, LIONS, '--cid_pattern', '^(.)/')
    assert datasets.read(str(tmp_path / 'lions/meta_all.csv')).cids.tolist() == [*'zaz']


@pytest.mark.parametrize(
    'lines, flags, message',
    [
        (
            LIONS,
            ['--pid_column', 'identiy'],
            "meta.csv has no column 'identiy' for --pid_column; its first line has "
            'image_id, identity, path, split, camera; did you mean identity?',
        ),
        (
            ['path,identity,path', 'a,b,c'],
            [],
            "meta.csv has more than one column 'path' for --fid_column; its first line "
            'has path, identity, path',
        ),
        ([''], [], "no column 'identity' for --pid_column; its first line has nothing"),
        (
            ['identity,path', 'a,b', 'a'],
            [],
            'meta.csv: line 3 has 1 field(s); expected those that the header names',
        ),
        (
            [*LIONS, '4,zoe,z/2.jpg,,gate'],
            ['--split_column', 'split'],
            'meta.csv: line 5 has an empty field; expected those that the header names',
        ),
        (
            [*LIONS, '4,zoe,z/2.jpg,a/b,gate'],
            ['--split_column', 'split'],
            "meta.csv: line 5: 'a/b' is the name of a split, but cannot be part of a "
            'file name; check --split_column',
        ),
        (
            [*LIONS, '4,leo,z/1.jpg,test,gate', '4,max,z/1.jpg,test,gate'],
            ['--split_column', 'split'],
            '1 image(s) with two PIDs (first: z/1.jpg is zoe in line 2 of '
            '{directory}/meta.csv and leo in line 5 of {directory}/meta.csv); remove '
            'the wrong rows',
        ),
    ],
)
def test_table_that_is_not_right_is_refused(tmp_path, lines, flags, message):
    with pytest.raises(common.InputError) as error:
        make_table(tmp_path, lines, *flags)
    assert str(error.value).endswith(message.format(directory=tmp_path))
    assert not (tmp_path / 'lions').exists()


def test_table_warns_of_a_pid_that_means_nobody(tmp_path, capsys):
    unknown = [f'{i},Unknown,u/{i}.jpg,test,gate' for i in range(3)]
    make_table(tmp_path, [*LIONS, *unknown])
    assert capsys.readouterr().err == (
        "warning: 3 image(s) have the PID 'Unknown', one identity like any other; "
        'remove their lines if they show several\n'
    )


def test_table_warns_of_identities_that_are_trained_on_and_scored(tmp_path, capsys):
    lines = [*LIONS, '4,zoe,z/2.jpg,test,yard', '5,leo,l/0.jpg,test,yard']
    make_table(tmp_path, lines, '--split_column', 'split')
    assert capsys.readouterr().err == (
        'warning: 1 of 3 PIDs of test are in train, too (first: zoe); the scores of '
        'these would say nothing about new identities\n'
    )


def test_table_never_replaces_what_it_reads(tmp_path):
    flags = ['--output_dir', str(tmp_path), '--prefix', 'meta', *COLUMNS]
    source = tmp_path / 'meta_all.csv'
    source.write_text('\n'.join(LIONS))
    with pytest.raises(common.InputError, match='what is read and would be replaced'):
        make_csv.main(['table', str(source), *flags])
    assert source.read_text() == '\n'.join(LIONS)


def test_images_of_a_table_are_looked_for_where_it_is_said(tmp_path):
    touch(tmp_path, ['z/1.jpg', 'a/1.jpg'])
    with pytest.raises(common.MissingFileError, match=r'1 of 3 images .*z/0\.jpg'):
        make_table(tmp_path, LIONS, '--image_root', str(tmp_path))


# --- images that cannot be read ------------------------------------------------------

BROKEN = {  # Why each cannot be read, in TensorFlow's words where it is asked.
    'cat/0.png': 'the file is empty',
    'cat/2.jpg': 'Unknown image file format',
    'dog/1.png': 'Invalid PNG data',
}


@pytest.fixture
def pets(tmp_path):
    """A folder of eight images, three of which are broken; and a CSV of them."""
    root = tmp_path / 'pets'
    fids = [f'{pid}/{i}.{ext}' for pid in ('cat', 'dog') for i, ext in ENDINGS]
    touch(root, fids)
    for seed, fid in enumerate(fids):
        tiny_run.write_noise(root / fid, seed)
    (root / 'cat/0.png').write_bytes(b'')
    (root / 'cat/2.jpg').write_text('<html>not found</html>')
    (root / 'dog/1.png').write_bytes((root / 'dog/1.png').read_bytes()[:100])
    lines = [f'{fid[:3]},{fid}' for fid in fids]
    (tmp_path / 'pets.csv').write_text('\n'.join(['who,what', *lines]) + '\n')
    return root


ENDINGS = ((0, 'png'), (1, 'png'), (2, 'jpg'), (3, 'png'))


@pytest.mark.parametrize(
    'command',
    [
        ['folder', '{root}'],
        [
            *('table', '{root}.csv', '--pid_column', 'who', '--fid_column', 'what'),
            *('--image_root', '{root}'),
        ],
        [
            *('split', '{root}.csv', '--csv_header', '--val_pids', '1'),
            *('--excluder', 'diagonal', '--image_root', '{root}'),
        ],
    ],
)
def test_all_broken_images_are_listed_and_nothing_is_written(pets, capsys, command):
    argv = [word.format(root=pets) for word in command]
    output = ['--output_dir', str(pets.parent / 'out'), '--check_images']
    with pytest.raises(common.InputError) as error:
        make_csv.main([*argv, *output])
    listed = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(': ')[0] for line in listed) == [
        str(pets / fid) for fid in BROKEN
    ]
    for line in listed:
        filename, _, reason = line.partition(': ')
        assert reason.startswith(BROKEN[os.path.relpath(filename, pets)])
    assert re.fullmatch(
        r'3 of 8 images cannot be read \(first: (\S+, ){2}\S+\); replace them, or '
        'remove them and their lines in the CSV',
        str(error.value),
    )
    assert not (pets.parent / 'out').exists()


# What a suffix stands for, in the words of TensorFlow's error.
FORMATS = {
    'BMP': {'.bmp'},
    'GIF': {'.gif'},
    'JPEG': {'.jfif', '.jpe', '.jpeg', '.jpg'},
    'JPEG XL': {'.jxl'},
    'PNG': {'.png'},
    'WebP': {'.webp'},
}


def test_every_format_that_is_decoded_is_listed(tmp_path):
    (tmp_path / 'x.png').write_text('no image')
    _, reason = images.find_unreadable([str(tmp_path / 'x.png')])
    (names,) = re.findall('One of (.*) required', reason)
    assert set(names.split(', ')) == set(FORMATS)
    assert set.union(*FORMATS.values()) == set(images.SUFFIXES)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    # OpenCV writes all of them but JPEG XL.
    for suffix in set(images.SUFFIXES) - {'.jxl'}:
        as_known = '.jpg' if suffix in FORMATS['JPEG'] else suffix
        name = tmp_path / 'pets' / 'cat' / f'a{suffix}'
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(cv2.imencode(as_known, pixels)[1].tobytes())
    make('folder', tmp_path / 'pets', tmp_path, '--check_images')
    found = datasets.read(str(tmp_path / 'folder_all.csv')).fids
    assert len(found) == len(images.SUFFIXES) - 1


def test_sound_images_pass_the_check_and_their_sizes_are_told(pets, capsys):
    for fid in BROKEN:
        (pets / fid).unlink()
    for shape in ((40, 20, 3), (60, 10, 3), (80, 8, 3)):  # The others are alike.
        cv2.imwrite(str(pets / 'cat' / f'{shape[0]}.png'), np.zeros(shape, np.uint8))
    height, width = tiny_run.HEIGHT, tiny_run.WIDTH
    make('folder', pets, pets.parent, '--check_images')
    said = capsys.readouterr()
    assert said.err == ''
    filename = str(pets.parent / 'folder_all.csv')
    assert said.out.splitlines() == [
        f'8 images can be read: height {height} to 80, median {height}; '
        f'width 8 to 20, median {width}',
        f'{filename}: 8 images, 2 PIDs',
    ]
    assert len(datasets.read(filename).fids) == 8
    make('folder', pets, pets.parent, '--check_images', '--quiet')
    assert capsys.readouterr().out == ''


# --- split -----------------------------------------------------------------------


@pytest.fixture
def train_csv(tmp_path):
    """A training CSV of ten PIDs, two images by each of two cameras."""
    rows = [
        f'{pid:04d},train/{pid:04d}_c{camera}s1_{i:06d}_00.jpg'
        for pid in range(10)
        for camera in (1, 2)
        for i in range(2)
    ]
    filename = tmp_path / 'shop_train.csv'
    filename.write_text('\n'.join(rows) + '\n')
    return filename


def split(train_csv, *flags):
    directory = str(train_csv.parent)
    make_csv.main(
        [
            'split',
            str(train_csv),
            '--excluder',
            'market1501',
            '--output_dir',
            directory,
            *list(flags),
        ]
    )


@pytest.mark.parametrize('val_pids', ['3', '0.3'])
def test_split_writes_three_csvs_and_reports_them(train_csv, capsys, val_pids):
    before = train_csv.read_bytes()
    split(train_csv, '--val_pids', val_pids)
    prefix = train_csv.parent / 'shop_train'
    assert capsys.readouterr().out.splitlines() == [
        f'{prefix}_rest.csv: 28 images, 7 PIDs',
        f'{prefix}_val_query.csv: 6 images, 3 PIDs',
        f'{prefix}_val_gallery.csv: 6 images, 3 PIDs',
        '10 of 10 PIDs could have been held back',
    ]
    parts = train_csv.parent.glob('shop_train_*.csv')
    lines = [line for part in parts for line in part.read_bytes().splitlines()]
    assert sorted(lines) == sorted(before.splitlines())
    assert train_csv.read_bytes() == before


def test_split_keeps_the_cameras_of_a_third_column(tmp_path):
    filename = tmp_path / 'shop.csv'
    filename.write_text(
        ''.join(f'{pid},{pid}{cid}.jpg,{cid}\n' for pid in 'xyz' for cid in 'abc')
    )
    make_csv.main(
        [
            'split',
            str(filename),
            '--excluder',
            'csv',
            '--val_pids',
            '1',
            '--output_dir',
            str(tmp_path),
        ]
    )
    (query,) = (tmp_path / 'shop_val_query.csv').read_text().splitlines()
    pid, fid, cid = query.split(',')
    assert fid == f'{pid}{cid}.jpg'
    gallery = (tmp_path / 'shop_val_gallery.csv').read_text().splitlines()
    assert sorted(gallery) == [f'{pid},{pid}{c}.jpg,{c}' for c in 'abc' if c != cid]
    rest = (tmp_path / 'shop_rest.csv').read_text().splitlines()
    others = set('xyz') - {pid}
    assert sorted(rest) == sorted(f'{p},{p}{c}.jpg,{c}' for p in others for c in 'abc')


def test_quiet_prints_no_counts(tmp_path, capsys):
    (tmp_path / 'shop.csv').write_text('x,xa.jpg\nx,xb.jpg\ny,ya.jpg\n')
    flags = ['--val_pids', '1', '--excluder', 'diagonal', '--output_dir', str(tmp_path)]
    make_csv.main(['split', str(tmp_path / 'shop.csv'), *flags, '--quiet'])
    assert capsys.readouterr().out == ''
    assert (tmp_path / 'shop_rest.csv').read_text() == 'y,ya.jpg\n'


def test_split_of_a_csv_with_a_heading_writes_csvs_with_one(tmp_path):
    filename = tmp_path / 'shop.csv'
    rows = ''.join(f'{c},{p}{c}.jpg,x,{p}\n' for p in 'xyz' for c in 'abc')
    filename.write_text('camera,FID,note,pid\n' + rows)
    make_csv.main(
        [
            'split',
            str(filename),
            '--csv_header',
            '--excluder',
            'csv',
            '--val_pids',
            '1',
            '--output_dir',
            str(tmp_path),
        ]
    )
    found = []
    for part in ('rest', 'val_query', 'val_gallery'):
        csv_file = tmp_path / f'shop_{part}.csv'
        assert csv_file.read_text().startswith('pid,fid,camera\n')
        found += zip(*datasets.read(str(csv_file), has_header=True), strict=True)
    assert sorted(found) == [(p, f'{p}{c}.jpg', c) for p in 'xyz' for c in 'abc']


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--val_pids', '10'], '10 of 10 PIDs asked for validation'),
        (['--val_pids', '0.01'], '0 of 10 PIDs asked for validation'),
    ],
)
def test_split_refuses_what_cannot_be_and_writes_nothing(train_csv, flags, message):
    with pytest.raises(ValueError, match=message):
        split(train_csv, *flags)
    assert list(train_csv.parent.iterdir()) == [train_csv]


def test_split_writes_beside_what_it_reads(train_csv, monkeypatch):
    monkeypatch.chdir(train_csv.parent)
    flags = ['--excluder', 'market1501', '--val_pids', '3']
    make_csv.main(['split', str(train_csv), *flags])
    (train_csv.parent / 'deeper').mkdir()
    train_csv.rename(train_csv.parent / 'deeper' / 'relative.csv')
    make_csv.main(['split', 'deeper/relative.csv', *flags])
    for prefix in ('shop_train', 'deeper/relative'):
        for part in datasets.HOLDOUT_PARTS:
            assert (train_csv.parent / f'{prefix}_{part}.csv').is_file()


def test_split_of_a_known_csv_that_is_missing_tells_how_to_make_it(tmp_path):
    missing = tmp_path / 'market1501_train.csv'
    with pytest.raises(common.MissingFileError) as error:
        split(missing, '--val_pids', '3')
    assert str(error.value) == (
        f'{missing} does not exist; make it with: python make_csv.py market1501 '
        f'DIRECTORY_OF_market1501 --output_dir {tmp_path}'
    )


def test_split_never_replaces_what_it_reads(train_csv):
    source = train_csv.rename(train_csv.parent / 'shop_rest.csv')
    with pytest.raises(ValueError, match='is what is read and would be replaced'):
        split(source, '--val_pids', '3', '--prefix', 'shop')


@pytest.mark.parametrize('val_pids', ['0', '1.5', '0.0', 'ten', '-3'])
def test_split_refuses_a_bad_number_with_2(train_csv, capsys, val_pids):
    with pytest.raises(SystemExit) as left:
        split(train_csv, '--val_pids', val_pids)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert 'argument --val_pids' in error
    assert 'expected' in error


@pytest.mark.skipif(
    'MARKET1501_ROOT' not in os.environ,
    reason='set MARKET1501_ROOT to the complete data set to compare with the paper',
)
def test_complete_market1501_gives_the_csvs_of_the_paper(tmp_path, capsys):
    make('market1501', os.environ['MARKET1501_ROOT'], tmp_path)
    assert capsys.readouterr().err == ''
    for split, sha256 in SHA256_OF_COMPLETE_MARKET.items():
        content = (tmp_path / f'market1501_{split}.csv').read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
