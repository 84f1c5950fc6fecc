import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import common
import datasets
import excluders
import golden_evaluation
from excluders import market1501

ROOT = pathlib.Path(__file__).parents[2]


def build(name, gallery_fids):
    return golden_evaluation.excluder_class(name)(gallery_fids)


def test_the_folder_is_the_list():
    known = {'csv', 'cuhk03', 'diagonal', 'duke', 'market1501', 'mars', 'msmt17'}
    assert known <= set(excluders.EXCLUDER_CHOICES)
    assert not any(name.startswith('_') for name in excluders.EXCLUDER_CHOICES)


@pytest.mark.parametrize('name', excluders.EXCLUDER_CHOICES)
def test_every_excluder_fulfils_the_contract(name):
    # An image is always too similar to itself, under every protocol.
    fid = getattr(golden_evaluation.excluder_class(name), 'example', 'a/b.jpg')
    images = datasets.Dataset(
        *(np.array([text] * 3, object) for text in ('7', fid, 'lobby'))
    )
    is_ignored = excluders.make_mask(name, images, images.select(slice(2)))
    mask = is_ignored(slice(None), slice(None))
    assert mask.dtype == bool
    assert mask.shape == (3, 2)
    assert mask.all()
    assert is_ignored(slice(0), slice(None)).shape == (0, 2)
    assert is_ignored(slice(1), slice(1, None)).tolist() == [[True]]
    assert is_ignored(np.array([2]), np.array([1, 0, 1])).tolist() == [[True] * 3]
    assert list(excluders.find_cameras(name, images)) == ['lobby'] * 3
    if name != 'csv':  # Whose answer depends on the columns.
        excluder = build(name, [fid, fid])
        assert excluder([fid, fid, fid]).all()
        assert excluder([]).shape == (0, 2)
        assert excluder([fid], np.array([1, 0, 1])).tolist() == [[True] * 3]


def test_names_of_queries_are_parsed_once(monkeypatch):
    parsed = []
    parse = market1501.Excluder.parse

    def parse_and_note(self, fid):
        parsed.append(fid)
        return parse(self, fid)

    monkeypatch.setattr(market1501.Excluder, 'parse', parse_and_note)
    fids = np.array(['1_c1s1_1.jpg', '2_c1s1_1.jpg'], object)
    images = datasets.Dataset(np.array(['1', '2'], object), fids)
    is_ignored = excluders.make_mask('market1501', images, images)
    for cols in (slice(0, 1), slice(1, 2)):
        is_ignored(slice(None), cols)
    assert parsed == [*fids, *fids]  # Once as the gallery, once as queries.


def test_an_excluder_of_ones_own_needs_no_more_than_the_contract(monkeypatch):
    class Excluder:
        def __init__(self, gallery_fids):
            self.gallery_fids = np.array(gallery_fids, object)

        def __call__(self, query_fids, gallery_rows=slice(None)):
            return np.array(query_fids)[:, None] == self.gallery_fids[gallery_rows]

    monkeypatch.setattr(excluders, 'load', lambda name: Excluder)
    images = datasets.Dataset(*np.array([['1', '1'], ['a.jpg', 'b.jpg']], object))
    is_ignored = excluders.make_mask('own', images, images)
    assert is_ignored(slice(None), slice(None)).tolist() == np.eye(2).tolist()
    assert is_ignored(slice(1, 2), slice(0, 1)).tolist() == [[False]]
    assert excluders.find_cameras('own', images) is None
    assert excluders.find_tracklets('own', images.fids) is None


@pytest.mark.parametrize(
    'name, fid, cid, tracklet',
    [
        ('market1501', 'x/0002_c1s1_000451_03.jpg', '1', None),
        ('mars', '0002C3T0001F001.jpg', '3', '0002C3T0001'),
        ('diagonal', 'a.jpg', None, None),
    ],
)
def test_cameras_and_tracklets_come_from_names_that_tell_them(name, fid, cid, tracklet):
    images = datasets.Dataset(np.array(['2'], object), np.array([fid], object))
    cameras = excluders.find_cameras(name, images)
    assert cameras == (None if cid is None else [cid])
    tracklets = excluders.find_tracklets(name, images.fids)
    assert tracklets == (None if tracklet is None else [tracklet])


def test_csv_excluder_without_a_camera_column_says_what_it_wants():
    images = datasets.Dataset(*np.array([['1', '1'], ['a.jpg', 'b.jpg']], object))
    with pytest.raises(
        common.InputError,
        match="no camera in the row of 'a.jpg'; --excluder csv wants three columns",
    ):
        excluders.make_mask('csv', images, images)


@pytest.mark.parametrize('name', ['market1501', 'duke', 'diagonal'])
def test_awkward_names_are_masked_as_by_the_original(name):
    golden = golden_evaluation.MASKS[name]
    mask = build(name, golden['gallery'])(golden['query'])
    np.testing.assert_array_equal(mask, np.array(golden['mask'], bool))


@pytest.mark.parametrize('case', golden_evaluation.CASES)
def test_data_sets_are_masked_as_by_the_original(case):
    (_, query_fids, _), (_, gallery_fids, _), excluder_of = golden_evaluation.load(case)
    mask = excluder_of(gallery_fids)(query_fids)
    expected = golden_evaluation.ARRAYS[f'{case}/excluder_mask']
    np.testing.assert_array_equal(mask, expected)


def test_blocks_of_queries_give_the_rows_of_the_whole_mask():
    golden = golden_evaluation.MASKS['market1501']
    excluder = build('market1501', golden['gallery'])
    rows = [excluder([fid])[0] for fid in golden['query']]
    np.testing.assert_array_equal(rows, excluder(golden['query']))


def test_camera_is_the_last_field_that_looks_like_one():
    # As a directory of a video, say: PID `7_c1s1_out`, camera 2.
    excluder = build('market1501', ['7_c1s1_out_c2s1_0_0.jpg'])
    assert excluder(['7_c1s1_out_c2s9_5_5.jpg', '7_c1s1_0_0.jpg']).tolist() == [
        [True],
        [False],
    ]


@pytest.mark.parametrize(
    'name, query, ignored, counted',
    [
        (
            'msmt17',
            '0007_000_01_0303morning_0015_0.jpg',
            ['0007_003_01_0114noon_0020_1.jpg'],
            ['0007_000_02_0303morning_0015_0.jpg', '0008_000_01_0303morning_0_0.jpg'],
        ),
        (
            'mars',
            'bbox_test/0002/0002C1T0001F001.jpg',
            ['0002C1T0009F003.jpg', '00-1C2T0001F001.jpg'],
            ['0002C2T0001F001.jpg', '0000C1T0001F001.jpg'],
        ),
        (
            'cuhk03',
            'cuhk03_detected/1_001_1_01.png',
            ['1_001_1_02.png'],
            ['1_001_2_06.png', '2_001_1_01.png', '1_002_1_01.png'],
        ),
        (
            'cuhk03',
            'query/0003_c1_21.png',
            ['0003_c1_22.png'],
            ['0003_c2_21.png', '0004_c1_21.png'],
        ),
    ],
)
def test_same_camera_and_junk_are_ignored(name, query, ignored, counted):
    mask = build(name, ignored + counted)([query])
    assert mask.tolist() == [[True] * len(ignored) + [False] * len(counted)]


@pytest.mark.parametrize('entry', golden_evaluation.MASKS['unparseable'])
def test_a_name_the_original_could_not_parse_is_named(entry):
    name, fid = entry.split(' ')
    example = golden_evaluation.excluder_class(name).example
    message = re.escape(
        f"no PID and camera in '{fid}'; {name} names look like {example}"
    )
    with pytest.raises(ValueError, match=message):
        build(name, [example, fid])
    with pytest.raises(ValueError, match=message):
        build(name, [example])([fid])


def test_registry_imports_no_tensorflow():
    code = (
        'import importlib, sys, excluders\n'
        'for name in excluders.EXCLUDER_CHOICES:\n'
        '    importlib.import_module(f"excluders.{name}")\n'
        'assert "tensorflow" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_the_excluder_in_the_documentation_works(tmp_path):
    text = (ROOT / 'docs' / 'excluders.md').read_text(encoding='utf-8')
    module, check = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    shutil.copytree(ROOT / 'excluders', tmp_path / 'excluders')
    for name in ('common.py', 'datasets.py'):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / 'excluders' / 'shop.py').write_text(module, encoding='utf-8')
    check += '\nimport excluders\nassert "shop" in excluders.EXCLUDER_CHOICES\n'
    subprocess.run([sys.executable, '-c', check], cwd=tmp_path, check=True)
