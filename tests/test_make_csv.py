"""make_csv.py: what it writes, what it reports, and what it leaves alone."""

import hashlib
import os
import pathlib
import subprocess
import sys

import pytest

import common
import datasets
import make_csv

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


def test_default_output_is_the_data_folder_beside_the_script():
    args = make_csv.build_parser().parse_args(['folder', '.'])
    assert args.output_dir == str(SCRIPT.parent / 'data')


def test_command_imports_no_tensorflow_and_no_scipy():
    # Else --help takes seconds. Layouts are imported only once chosen.
    code = 'import make_csv, sys; print({"tensorflow", "scipy"} & set(sys.modules))'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=SCRIPT.parent, capture_output=True, text=True
    )
    assert done.stdout.strip() == 'set()'


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


def test_split_never_replaces_what_it_reads(train_csv):
    source = train_csv.rename(train_csv.parent / 'shop_rest.csv')
    with pytest.raises(ValueError, match='is the CSV to split and would be replaced'):
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
