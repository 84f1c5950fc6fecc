"""data/: every layout, read from a tiny data set drawn up by hand."""

import importlib
import importlib.util
import pathlib
import re

import h5py
import numpy as np
import pytest
import scipy.io

import data
from data import _lists

ROOT = pathlib.Path(__file__).parents[2]


def touch(root, fids):
    """Make empty files: layouts look at names only."""
    for fid in fids:
        path = root / fid
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(root, filename, lines):
    (root / filename).parent.mkdir(parents=True, exist_ok=True)
    (root / filename).write_text('\n'.join(lines) + '\n')


def write_matlab(root, filename, **variables):
    (root / filename).parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(root / filename, variables)


def text_cells(texts):
    """Return a MATLAB cell array [N, 1] of strings."""
    cells = np.empty((len(texts), 1), object)
    cells[:, 0] = texts
    return cells


def write_annotations(root, filename, path_field, paths, classes):
    """Write a Cars196 list: a struct array [1, N] with paths and classes."""
    annotations = np.zeros(
        (1, len(paths)), [(path_field, object), ('class', object), ('test', object)]
    )
    for cell, path, class_id in zip(annotations[0], paths, classes, strict=True):
        cell[path_field], cell['class'], cell['test'] = path, np.uint8(class_id), 0
    write_matlab(root, filename, annotations=annotations)


# --- one small data set per layout: make it in `root`, return the rows expected ------


def make_market1501(root):
    rows = {
        'train': [('0002', 'bounding_box_train/0002_c1s1_000451_03.jpg')],
        'query': [('0001', 'query/0001_c1s1_001051_00.jpg.jpg')],
        'test': [
            ('-1', 'bounding_box_test/-1_c1s1_000401_03.jpg'),
            ('0000', 'bounding_box_test/0000_c1s1_000151_01.jpg'),
        ],
    }
    touch(root, [fid for split in rows.values() for _, fid in split])
    touch(root, ['bounding_box_test/Thumbs.db', 'query/._0001_c1s1_001051_00.jpg'])
    return rows


def make_duke(root):
    rows = {
        'train': [('0001', 'bounding_box_train/0001_c2_f0046182.jpg')],
        'query': [('0005', 'query/0005_c2_f0046985.jpg')],
        'test': [('7139', 'bounding_box_test/7139_c8_f0168440.jpg')],
    }
    touch(root, [fid for split in rows.values() for _, fid in split])
    return rows


def make_cuhk03(root):
    names = ['1_001_1_01.png', '1_002_1_01.png', '1_002_2_06.png', '1_002_2_07.png']
    touch(root / 'cuhk03_detected', names)
    write_matlab(
        root,
        'cuhk03_new_protocol_config_detected.mat',
        labels=np.uint16([[1], [2], [2], [2]]),
        filelist=text_cells(names),
        train_idx=np.uint16([[1]]),
        query_idx=np.uint16([[3]]),
        gallery_idx=np.uint16([[2], [4]]),
    )
    return {
        'detected_train': [('1', 'cuhk03_detected/1_001_1_01.png')],
        'detected_query': [('2', 'cuhk03_detected/1_002_2_06.png')],
        'detected_test': [
            ('2', 'cuhk03_detected/1_002_1_01.png'),
            ('2', 'cuhk03_detected/1_002_2_07.png'),
        ],
    }


def write_cuhk03(root, people, testsets):
    """Write cuhk-03.mat as MATLAB 7.3 does: references to transposed matrices.

    Args:
        root: directory.
        people: for each camera pair, for each person, the numbers of its images.
        testsets: lists of (pair, person).
    """
    with h5py.File(root / 'cuhk-03.mat', 'w') as file:

        def store(value, **attributes):
            value = file.create_dataset(f'#refs#/{len(references)}', data=value)
            value.attrs.update(attributes)
            references.append(value.ref)
            return value.ref

        references = []
        image = store(np.zeros((3, 4, 8), np.uint8))  # Of 8 x 4 pixels.
        empty = store(np.zeros(2, np.uint64), MATLAB_empty=1)
        pairs = [
            store(
                np.array(
                    [
                        [image if number in numbers else empty for numbers in pair]
                        for number in range(1, 11)
                    ],
                    h5py.ref_dtype,
                )
            )
            for pair in people
        ]
        for boxes in ('detected', 'labeled'):
            file[boxes] = np.array([pairs], h5py.ref_dtype)
        matrices = [store(np.float64(testset).T) for testset in testsets]
        file['testsets'] = np.array([matrices], h5py.ref_dtype)


def make_cuhk03_classic(root):
    # Two pairs of cameras; person 2 of the first has no image by the second camera.
    people = [[(1, 2, 6), (1,), (5, 10)], [(3, 7)]]
    write_cuhk03(root, people, [[(1, 1), (2, 1)], [(1, 3), (1, 2)]])
    folder = 'images_labeled'
    names = {
        (1, 1): ['1_001_1_01.png', '1_001_1_02.png', '1_001_2_06.png'],
        (1, 2): ['1_002_1_01.png'],
        (1, 3): ['1_003_1_05.png', '1_003_2_10.png'],
        (2, 1): ['2_001_1_03.png', '2_001_2_07.png'],
    }
    touch(root / folder, [name for group in names.values() for name in group])

    def rows(*groups):
        return [(name[:5], f'{folder}/{name}') for group in groups for name in group]

    of_first, second, third, of_other = (names[who] for who in sorted(names))
    return {
        'labeled_01_train': rows(second, third),
        'labeled_01_query': rows(of_first[:2], of_other[:1]),
        'labeled_01_test': rows(of_first[2:], of_other[1:]),
        'labeled_02_train': rows(of_first, of_other),
        'labeled_02_query': rows(second, third[:1]),
        'labeled_02_test': rows(third[1:]),
    }


def make_msmt17(root, train='train', test='test'):
    write(root, 'list_train.txt', ['0000/0000_000_01_0303morning_0015_0.jpg 0'])
    write(root, 'list_val.txt', ['0001/0001_000_02_0303noon_0020_1.jpg 1'])
    write(root, 'list_query.txt', ['0000/0000_000_05_0303noon_0024_0.jpg 0'])
    write(root, 'list_gallery.txt', ['0000/0000_001_11_0302noon_0011_0.jpg 0'])
    rows = {
        'train': [
            ('0', f'{train}/0000/0000_000_01_0303morning_0015_0.jpg'),
            ('1', f'{train}/0001/0001_000_02_0303noon_0020_1.jpg'),
        ],
        'query': [('0', f'{test}/0000/0000_000_05_0303noon_0024_0.jpg')],
        'test': [('0', f'{test}/0000/0000_001_11_0302noon_0011_0.jpg')],
    }
    touch(root, [fid for split in rows.values() for _, fid in split])
    return rows


def make_mars(root):
    write(root, 'info/train_name.txt', ['0001C1T0001F001.jpg', '0001C1T0001F002.jpg'])
    test_names = [
        '00-1C1T0001F001.jpg',
        '0000C1T0001F001.jpg',
        '0002C1T0001F001.jpg',
        '0002C1T0001F002.jpg',
        '0002C2T0001F001.jpg',
    ]
    write(root, 'info/test_name.txt', test_names)
    # First frame, last frame (from 1, both included), PID, camera.
    write_matlab(root, 'info/tracks_train_info.mat', track_train_info=[[1, 2, 1, 1]])
    write_matlab(
        root,
        'info/tracks_test_info.mat',
        track_test_info=[[1, 1, -1, 1], [2, 2, 0, 1], [3, 4, 2, 1], [5, 5, 2, 2]],
    )
    write_matlab(root, 'info/query_IDX.mat', query_IDX=[[3]])
    rows = {
        'train': [
            ('0001', 'bbox_train/0001/0001C1T0001F001.jpg'),
            ('0001', 'bbox_train/0001/0001C1T0001F002.jpg'),
        ],
        'query': [
            ('0002', 'bbox_test/0002/0002C1T0001F001.jpg'),
            ('0002', 'bbox_test/0002/0002C1T0001F002.jpg'),
        ],
        'test': [
            ('00-1', 'bbox_test/00-1/00-1C1T0001F001.jpg'),
            ('0000', 'bbox_test/0000/0000C1T0001F001.jpg'),
            ('0002', 'bbox_test/0002/0002C2T0001F001.jpg'),
        ],
    }
    touch(root, [fid for split in rows.values() for _, fid in split])
    return rows


def make_cars196(root):
    paths = [f'car_ims/00000{number}.jpg' for number in (1, 2, 3)]
    touch(root, paths)
    # Class 98 is the last for training, 99 the first for the test.
    write_annotations(root, 'cars_annos.mat', 'relative_im_path', paths, [98, 99, 196])
    return {
        'train': [('98', 'car_ims/000001.jpg')],
        'test': [('99', 'car_ims/000002.jpg'), ('196', 'car_ims/000003.jpg')],
    }


def make_sop(root):
    heading = 'image_id class_id super_class_id path'
    write(root, 'Ebay_train.txt', [heading, '1 1 1 bicycle_final/111085122871_0.JPG'])
    write(root, 'Ebay_test.txt', [heading, '2 11319 1 chair_final/111340_0.JPG'])
    rows = {
        'train': [('1', 'bicycle_final/111085122871_0.JPG')],
        'test': [('11319', 'chair_final/111340_0.JPG')],
    }
    touch(root, [fid for split in rows.values() for _, fid in split])
    return rows


def make_folder(root):
    touch(root, ['cat/1.jpg', 'cat/monday/2.PNG', 'dog/3.jpeg'])
    touch(root, ['cat/notes.txt', 'empty/readme.md', '.cache/4.jpg', 'cat/.old/5.jpg'])
    return {
        'all': [
            ('cat', 'cat/1.jpg'),
            ('cat', 'cat/monday/2.PNG'),
            ('dog', 'dog/3.jpeg'),
        ]
    }


# --- the contract ----------------------------------------------------------------


@pytest.mark.parametrize('layout', data.LAYOUT_CHOICES)
def test_layout_keeps_the_contract(layout, tmp_path):
    module = importlib.import_module(f'data.{layout}')
    make = globals().get(f'make_{layout}')
    assert make, f'a layout needs a test: add make_{layout}(root) to {__file__}'
    assert 'Source:' in module.__doc__
    with pytest.raises((FileNotFoundError, ValueError), match='expected'):
        module.read(str(tmp_path))

    expected = make(tmp_path)
    splits = module.read(str(tmp_path))
    assert {split: sorted(rows) for split, rows in splits.items()} == {
        split: sorted(rows) for split, rows in expected.items()
    }
    for pid, fid in (row for rows in splits.values() for row in rows):
        assert type(pid) is str
        assert type(fid) is str
        assert (tmp_path / fid).is_file()
    if module.COMPLETE:
        assert set(splits) <= set(module.COMPLETE)


def test_shared_modules_are_no_layouts():
    assert not [name for name in data.LAYOUT_CHOICES if name.startswith('_')]
    assert 'market1501' in data.LAYOUT_CHOICES


# --- the other forms in which some data sets circulate -------------------------------


def read(layout, root):
    """Return the layout's splits, each sorted."""
    splits = importlib.import_module(f'data.{layout}').read(str(root))
    return {split: sorted(rows) for split, rows in splits.items()}


def test_msmt17_v2_has_folders_of_other_names(tmp_path):
    expected = make_msmt17(tmp_path, train='mask_train_v2', test='mask_test_v2')
    assert read('msmt17', tmp_path) == expected


def test_cuhk03_reads_market_folders_of_both_kinds_of_boxes(tmp_path):
    for boxes in ('detected', 'labeled'):
        for folder in ('bounding_box_train', 'query', 'bounding_box_test'):
            touch(tmp_path, [f'{boxes}/{folder}/0003_c1_21.png'])
    splits = read('cuhk03', tmp_path)
    assert set(splits) == set(importlib.import_module('data.cuhk03').COMPLETE)
    assert splits['labeled_test'] == [
        ('0003', 'labeled/bounding_box_test/0003_c1_21.png')
    ]


def test_classic_cuhk03_reads_both_kinds_of_boxes_and_the_folder_of_the_download(
    tmp_path,
):
    make_cuhk03_classic(tmp_path)
    touch(tmp_path / 'cuhk03_detected', ['1_001_1_01.png'])
    (tmp_path / 'cuhk03_release').mkdir()
    (tmp_path / 'cuhk-03.mat').rename(tmp_path / 'cuhk03_release' / 'cuhk-03.mat')
    splits = read('cuhk03_classic', tmp_path)
    assert len(splits) == 2 * 2 * 3
    assert splits['detected_02_test'] == [('1_003', 'cuhk03_detected/1_003_2_10.png')]


def test_queries_of_classic_cuhk03_are_ranked_against_the_other_camera(tmp_path):
    make_cuhk03_classic(tmp_path)
    splits = read('cuhk03_classic', tmp_path)
    (_, query_fids), (_, gallery_fids) = (
        zip(*splits[f'labeled_01_{split}'], strict=True) for split in ('query', 'test')
    )
    excluder = importlib.import_module('excluders.cuhk03').Excluder(gallery_fids)
    assert not excluder(query_fids).any()


def test_classic_cuhk03_refuses_what_is_no_such_file(tmp_path):
    make_cuhk03_classic(tmp_path)
    write_cuhk03(tmp_path, [[(1, 6)]], [[(1, 1), (1, 2)]])
    with pytest.raises(ValueError, match=r'1 persons .*first: pair 1, person 2\)'):
        read('cuhk03_classic', tmp_path)
    with h5py.File(tmp_path / 'cuhk-03.mat', 'a') as file:
        del file['testsets']
    with pytest.raises(
        ValueError, match=r'cuhk-03\.mat is not a complete file of CUHK'
    ):
        read('cuhk03_classic', tmp_path)
    write_matlab(tmp_path, 'cuhk-03.mat', testsets=[1])  # MATLAB 5's format.
    with pytest.raises(ValueError, match=r'is not a complete .*; expected MATLAB 7\.3'):
        read('cuhk03_classic', tmp_path)


def test_cars196_joins_both_lists_of_the_devkit_and_splits_by_class(tmp_path):
    images = ['cars_train/00001.jpg', 'cars_test/00001.jpg', 'cars_test/00002.jpg']
    touch(tmp_path, images)
    lists = {
        'devkit/cars_train_annos.mat': (['00001.jpg'], [99]),
        'cars_test_annos_withlabels.mat': (['00001.jpg', '00002.jpg'], [98, 99]),
    }
    for filename, (names, classes) in lists.items():
        write_annotations(tmp_path, filename, 'fname', names, classes)
    assert read('cars196', tmp_path) == {
        'train': [('98', 'cars_test/00001.jpg')],
        'test': [('99', 'cars_test/00002.jpg'), ('99', 'cars_train/00001.jpg')],
    }


def test_cars196_refuses_a_list_without_classes(tmp_path):
    annotations = np.zeros((1, 1), [('relative_im_path', object)])
    write_matlab(tmp_path, 'cars_annos.mat', annotations=annotations)
    with pytest.raises(ValueError, match='lack class; expected relative_im_path and'):
        read('cars196', tmp_path)


def test_mars_refuses_lists_that_do_not_belong_together(tmp_path):
    make_mars(tmp_path)
    write(tmp_path, 'info/train_name.txt', ['0001C1T0001F001.jpg'])
    with pytest.raises(ValueError, match='counts 2 frames.*names 1'):
        read('mars', tmp_path)


def test_folder_takes_split_names_as_splits_only_if_all_are(tmp_path):
    touch(tmp_path, ['train/cat/1.jpg', 'val/dog/2.jpg'])
    assert read('folder', tmp_path) == {
        'train': [('cat', 'train/cat/1.jpg')],
        'val': [('dog', 'val/dog/2.jpg')],
    }
    touch(tmp_path, ['bus/3.jpg'])  # So train may well be another vehicle.
    assert read('folder', tmp_path) == {
        'all': [
            ('bus', 'bus/3.jpg'),
            ('train', 'train/cat/1.jpg'),
            ('val', 'val/dog/2.jpg'),
        ]
    }


@pytest.mark.parametrize('stray', ['stray.jpg', 'test/stray.jpg'])
def test_folder_refuses_images_of_nobody(tmp_path, stray):
    touch(tmp_path, ['test/cat/1.jpg', stray])
    with pytest.raises(ValueError, match=r'1 image\(s\).*no identity.*stray.jpg'):
        read('folder', tmp_path)


# --- names and lists that are not what they should be --------------------------------


def test_image_without_pid_is_refused_with_count_and_first(tmp_path):
    make_market1501(tmp_path)
    touch(tmp_path / 'query', ['dog.jpg', 'cat.jpg'])
    with pytest.raises(ValueError, match=r'2 of 3 images in query \(first: cat.jpg\)'):
        read('market1501', tmp_path)


@pytest.mark.parametrize(
    'lines, message',
    [
        (['a.jpg 1', 'b.jpg'], r'line 2 has 1 field\(s\); expected 2: path pid'),
        (['path pid', ''], 'is empty; expected lines of: path pid'),
    ],
)
def test_bad_list_is_named_with_its_line(tmp_path, lines, message):
    write(tmp_path, 'list.txt', lines)
    with pytest.raises(ValueError, match=message):
        _lists.read_table(tmp_path, 'list.txt', 'path pid')


def test_damaged_matlab_file_is_a_value_error(tmp_path):
    write_matlab(tmp_path, 'good.mat', a=[1, 2, 3])
    content = (tmp_path / 'good.mat').read_bytes()
    for bad in (b'', b'no MATLAB here' * 20, content[:-8]):
        (tmp_path / 'bad.mat').write_bytes(bad)
        with pytest.raises(ValueError, match='bad.mat is not readable as MATLAB'):
            _lists.load_matlab(tmp_path, 'bad.mat', ['a'])
    with pytest.raises(ValueError, match='lacks b; expected a, b'):
        _lists.load_matlab(tmp_path, 'good.mat', ['a', 'b'])


# --- the documentation -----------------------------------------------------------


def test_example_layout_of_the_documentation_works(tmp_path):
    page = (ROOT / 'docs/datasets.md').read_text(encoding='utf-8')
    (source,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    (tmp_path / 'harbour.py').write_text(source, encoding='utf-8')
    spec = importlib.util.spec_from_file_location('harbour', tmp_path / 'harbour.py')
    harbour = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harbour)
    touch(tmp_path, ['photos/day/gull-0417.jpg', 'photos/night/gull-0038.jpg'])
    assert harbour.read(str(tmp_path)) == {
        'query': [('gull', 'photos/night/gull-0038.jpg')],
        'test': [('gull', 'photos/day/gull-0417.jpg')],
    }


def test_documentation_lists_every_layout_with_its_counts():
    page = (ROOT / 'docs/datasets.md').read_text(encoding='utf-8')
    for layout in data.LAYOUT_CHOICES:
        (row,) = re.findall(rf'^\| `{layout}` \|.*$', page, re.MULTILINE)
        for count in importlib.import_module(f'data.{layout}').COMPLETE.values():
            assert str(count) in row, f'{layout}: {count} is not in docs/datasets.md'
