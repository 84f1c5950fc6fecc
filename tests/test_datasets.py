"""Data set CSVs: every field stays the text it is, and what is wrong is named."""

import csv
import importlib
import os

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import common
import data
import datasets


def write(path, text):
    """Write text as UTF-8 to a file; return its name."""
    path.write_text(text, encoding='utf-8')
    return str(path)


def test_fields_stay_the_text_they_are(tmp_path):
    rows = ['0002,a b.jpg', 'NA,"c,d.jpg"', '#7,e#.jpg', '1e3,ü.jpg']
    csv_file = write(tmp_path / 'x.csv', '\r\n'.join(rows) + '\r\n')
    pids, fids, cids = datasets.read(csv_file)
    assert pids.tolist() == ['0002', 'NA', '#7', '1e3']
    assert fids.tolist() == ['a b.jpg', 'c,d.jpg', 'e#.jpg', 'ü.jpg']
    assert cids is None


def test_last_line_needs_no_newline(tmp_path):
    pids, fids, _ = datasets.read(write(tmp_path / 'x.csv', '1,a\n2,b'))
    assert (pids.tolist(), fids.tolist()) == (['1', '2'], ['a', 'b'])


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'the file is empty; expected two fields, PID,FID'),
        (b'1,a\n2\n', r'line 2 has 1 field\(s\); expected two fields'),
        (b'1,a\n2,b,c\n', r'line 2 has 3 field\(s\)'),
        (b'1,a\n2,b,c\n3\n', r'line 2 has 3 field\(s\)'),  # Six fields in all.
        (
            b'1,a,x\n2,b\n',
            r'line 2 has 2 field\(s\); expected three fields, PID,',
        ),
        (b'1,a,x\n2,b,y\n3,\xfc,z\n', 'line 3 is not UTF-8; save the file as UTF-8'),
        (b'1,a,x\n2,b,\n', 'line 2 has an empty field; expected three fields'),
        (b'1,"a\nb"\n2\n', r'line 3 has 1 field\(s\)'),
        (b'1,"a"b\n', 'line 1 is no CSV .*expected two fields, PID,FID$'),
        (b'1 a\n2 b\n', r'line 1 has 1 field\(s\)'),
        (b'1,a\n\n2,b\n', r'line 2 has 0 field\(s\)'),
        (b'1,a\n,b\n', 'line 2 has an empty field'),
        (b'1,a\n2,\n', 'line 2 has an empty field'),
        (b'1,a\n2,b\n3,\xfc.jpg\n', 'line 3 is not UTF-8; save the file as UTF-8'),
        ('1,a\n'.encode('utf-16'), 'line 1 is not UTF-8'),
    ],
)
def test_malformed_csv_names_file_and_line(tmp_path, content, message):
    (tmp_path / 'x.csv').write_bytes(content)
    with pytest.raises(ValueError, match=rf'x\.csv: {message}'):
        datasets.read(str(tmp_path / 'x.csv'))


def test_unreadably_quoted_csv_is_refused(tmp_path):
    csv_file = write(tmp_path / 'x.csv', '1,"a\n2,b\n')
    with pytest.raises(
        ValueError,
        match=r'x\.csv: line 2 is no CSV \(unexpected end of data\); expected two',
    ):
        datasets.read(csv_file)


@pytest.mark.parametrize(
    'name, command',
    [
        ('market1501_train', 'market1501 ~/m1501 --output_dir {0}'),
        ('dukeMTMC_query', 'duke ~/m1501 --output_dir {0}'),
        ('cuhk03_labeled_test', 'cuhk03 ~/m1501 --output_dir {0}'),
        (
            'market1501_train_rest',
            'split {0}/market1501_train.csv --val_pids 100 --excluder market1501',
        ),
        (
            'pets_all_val_gallery',
            'split {0}/pets_all.csv --val_pids 0.5 --excluder diagonal',
        ),
    ],
)
def test_missing_csv_is_named_with_the_command_that_makes_it(tmp_path, name, command):
    csv_file = f'{tmp_path}/{name}.csv'
    with pytest.raises(common.MissingFileError) as error:
        datasets.read(csv_file, image_root='~/m1501')
    command = command.format(tmp_path).replace('~/m1501', "'~/m1501'")
    assert str(error.value) == (
        f'{csv_file} does not exist; make it with: python make_csv.py {command}'
    )


def test_csv_in_the_data_folder_needs_no_output_dir():
    csv_file = os.path.join(data.__path__[0], 'mars_nothing', '..', 'mars_train.csv')
    assert datasets.how_to_make(csv_file) == (
        'make it with: python make_csv.py mars DIRECTORY_OF_mars'
    )


@pytest.mark.parametrize('name', ['nowhere', 'market1501_tiny_train', 'folder_train'])
def test_missing_csv_of_ones_own_is_named(name):
    with pytest.raises(common.MissingFileError) as error:
        datasets.read(f'{name}.csv')
    assert str(error.value) == (
        f'{name}.csv does not exist; expected the CSV of a data set, see '
        '`python make_csv.py --help`'
    )


@pytest.mark.parametrize('layout', data.LAYOUT_CHOICES)
def test_names_of_a_layouts_csvs_tell_the_layout(layout):
    complete = importlib.import_module(f'data.{layout}').COMPLETE
    for split in complete:
        assert data.find_layout(f'{data.csv_prefix(layout)}_{split}') == layout


def test_what_is_no_file_is_no_missing_file(tmp_path):
    with pytest.raises(common.FileError) as error:
        datasets.read('')
    assert str(error.value) == (
        "'' given as the CSV of a data set, a file name was expected; is a shell "
        'variable not set?'
    )
    (tmp_path / 'my pets').mkdir()
    with pytest.raises(common.FileError) as error:
        datasets.read(f'{tmp_path}/my pets')
    assert str(error.value) == (
        f'{tmp_path}/my pets is a directory, the CSV of a data set was expected; '
        f"`python make_csv.py folder '{tmp_path}/my pets'` makes one of a folder per "
        'identity'
    )
    with pytest.raises(common.FileError, match='^/dev/null is a pipe or a device'):
        datasets.read('/dev/null')  # First: read all the same, a pipe would block.
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(common.FileError) as error:
        datasets.read(f'{tmp_path}/pipe')
    assert str(error.value) == (
        f'{tmp_path}/pipe is a pipe or a device, the CSV of a data set was expected; '
        'write it to a file, which can be read again'
    )


def test_missing_images_are_counted_and_the_first_three_joined(tmp_path):
    (tmp_path / 'b.jpg').touch()
    rows = '1,a.jpg\n1,b.jpg\n2,c.jpg\n2,d.jpg\n3,e.jpg\n'
    csv_file = write(tmp_path / 'x.csv', rows)
    first = ', '.join(str(tmp_path / name) for name in ('a.jpg', 'c.jpg', 'd.jpg'))
    with pytest.raises(FileNotFoundError) as error:
        datasets.check_images_exist(
            csv_file, datasets.read(csv_file).fids, str(tmp_path)
        )
    assert str(error.value) == (
        f'4 of 5 images in {csv_file} are missing (first: {first}); check --image_root'
    )


@pytest.mark.parametrize(
    'fid, is_there',
    [
        ('a.jpg', True),
        ('sub/b ü.jpg', True),
        ('sub/../a.jpg', True),
        ('link.jpg', True),
        ('{root}/a.jpg', True),  # An absolute path stands for itself.
        ('/a.jpg', False),  # As here, although the root has a file of that name.
        ('dangling.jpg', False),
        ('sub', False),
        ('sub/a.jpg', False),
        ('none/a.jpg', False),
    ],
)
def test_files_are_found_in_listings_as_if_each_were_asked_for(tmp_path, fid, is_there):
    (tmp_path / 'sub').mkdir()
    for name in ('a.jpg', 'sub/b ü.jpg'):
        (tmp_path / name).touch()
    (tmp_path / 'link.jpg').symlink_to('a.jpg')
    (tmp_path / 'dangling.jpg').symlink_to('nothing')
    fid = fid.format(root=tmp_path)
    missing = datasets.find_missing([fid], str(tmp_path))
    assert missing == ([] if is_there else [os.path.join(tmp_path, fid)])
    assert is_there == os.path.isfile(os.path.join(tmp_path, fid))


def test_camera_is_a_column_of_its_own(tmp_path):
    dataset = datasets.read(write(tmp_path / 'x.csv', '1,a.jpg,lobby\n2,b.jpg,07\n'))
    assert dataset.cids.tolist() == ['lobby', '07']
    assert dataset.select(slice(1, 2)).cids.tolist() == ['07']
    assert dataset.select([1, 0]).pids.tolist() == ['2', '1']


@pytest.mark.parametrize(
    'text, expected',
    [
        ('pid,fid\n1,a\n', (['1'], ['a'], None)),
        ('Camera,FID,note,PID\nx,a,,1\n', (['1'], ['a'], ['x'])),
        ('fid,pid,note\na,1,\n', (['1'], ['a'], None)),
        ('who,what\n1,a\n', (['1'], ['a'], None)),  # Skipped, as it names neither.
        ('who,what,where\n1,a,x\n', (['1'], ['a'], ['x'])),
    ],
)
def test_heading_names_the_columns(tmp_path, text, expected):
    dataset = datasets.read(write(tmp_path / 'x.csv', text), has_header=True)
    found = [None if column is None else column.tolist() for column in dataset]
    assert tuple(found) == expected


@pytest.mark.parametrize(
    'text, message',
    [
        ('pid,fid\n', 'the file is empty; expected two fields, PID,FID in every line'),
        (
            'pid,fid,camera\n1,a,x\n1,b\n',
            r'line 3 has 2 field\(s\); expected those that',
        ),
        ('pid,fid\n1,a\n,b\n', 'line 3 has an empty field; expected those that the'),
        ('pid\n1,a\n2\n', r'line 3 has 1 field\(s\); expected two fields, PID,FID$'),
    ],
)
def test_lines_below_a_heading_are_counted_from_the_top(tmp_path, text, message):
    csv_file = write(tmp_path / 'x.csv', text)
    with pytest.raises(common.InputError, match=rf'x\.csv: {message}'):
        datasets.read(csv_file, has_header=True)


def test_byte_order_mark_is_no_part_of_a_pid(tmp_path):
    (tmp_path / 'x.csv').write_bytes(b'\xef\xbb\xbf0002,a\n')
    assert datasets.read(str(tmp_path / 'x.csv')).pids.tolist() == ['0002']


CHOOSE = (
    'looks like a heading; add --csv_header if the columns are PID,FID or '
    'PID,FID,CAMERA, else choose them with `python make_csv.py table`'
)


@pytest.mark.parametrize(
    'heading, message',
    [
        ('pid,fid', 'looks like a heading; add --csv_header'),
        ('Camera,FID,note,PID', 'looks like a heading; add --csv_header'),
        ('identity,path', CHOOSE),
        ('file_name,Label', CHOOSE),
        ('image_id,identity,path,split', CHOOSE),
        ('vehicle_id,image_name', CHOOSE),
    ],
)
def test_heading_of_known_words_that_nobody_announced_is_refused(
    tmp_path, heading, message
):
    csv_file = write(tmp_path / 'x.csv', f'{heading}\n1,a.jpg\n')
    with pytest.raises(common.InputError) as error:
        datasets.read(csv_file)
    assert str(error.value) == f'{csv_file}: the first line, {heading}, {message}'


@pytest.mark.parametrize('first', ['id,a.jpg', 'path,label.jpg', 'person,photo.png'])
def test_image_whose_name_holds_a_word_of_headings_is_an_image(tmp_path, first):
    dataset = datasets.read(write(tmp_path / 'x.csv', f'{first}\n1,a.jpg\n'))
    assert ','.join([dataset.pids[0], dataset.fids[0]]) == first


@pytest.mark.parametrize(
    'first, message',
    [
        ('0002,a/1.JPG', 'an image, no heading; leave --csv_header out'),
        (
            'path,identity',
            'FID,PID, but the columns of a heading without pid and fid are taken as '
            'PID,FID; choose them with `python make_csv.py table`',
        ),
    ],
)
def test_heading_that_is_none_of_ours_is_refused(tmp_path, first, message):
    csv_file = write(tmp_path / 'x.csv', f'{first}\n0003,b.jpg\n')
    with pytest.raises(common.InputError) as error:
        datasets.read(csv_file, has_header=True)
    assert (
        str(error.value) == f'{csv_file}: the first line, {first}, looks like {message}'
    )


def test_heading_that_nobody_announced_is_recognised_by_its_image(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'')
    csv_file = write(tmp_path / 'x.csv', 'who,what\n1,a.jpg\n')
    fids = datasets.read(csv_file).fids
    with pytest.raises(
        FileNotFoundError, match='if that line is a heading, add --csv_header$'
    ):
        datasets.check_images_exist(csv_file, fids, str(tmp_path))


FIELD = st.text(st.characters(codec='utf-8', exclude_characters='\r\n\0'), min_size=1)


@hypothesis.given(rows=st.lists(st.tuples(FIELD, FIELD, FIELD), min_size=1))
@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,  # Other processes may be busy.
)
@pytest.mark.parametrize('num_columns', [2, 3])
def test_what_a_csv_writer_wrote_is_read(tmp_path, num_columns, rows):
    rows = [row[:num_columns] for row in rows]
    # A byte order mark at the beginning of a file is no part of its text.
    hypothesis.assume(not rows[0][0].startswith('\ufeff'))
    # Nor is a heading an image.
    words = {field.strip().lower() for field in rows[0]}
    hypothesis.assume(not any(map(datasets.PID_NAME.fullmatch, words)))
    with open(tmp_path / 'x.csv', 'w', encoding='utf-8', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows(rows)
    dataset = datasets.read(str(tmp_path / 'x.csv'))
    columns = dataset[:num_columns]
    assert [tuple(row) for row in zip(*columns, strict=True)] == rows


def outcome(function, *arguments):
    """Return the columns of the Dataset that a function returns, or its error."""
    try:
        dataset = function(*arguments)
    except common.InputError as error:
        return str(error)
    return [None if column is None else column.tolist() for column in dataset]


LINES = [
    *('1,a', '2,b', '2,a', '1,a,x', '1,a,', '1,,x', ',b', '1', '', '"1",a', '"1\n2",b'),
    *('1,"a', ' 1,a\x00', '1\u2028,a', 'pid,fid', 'fid,pid,camera', 'path,identity'),
]


@hypothesis.given(
    lines=st.lists(st.sampled_from(LINES), max_size=6),
    ends=st.lists(
        st.sampled_from(['\n', '\r\n', '\r', '\n\n']), min_size=6, max_size=6
    ),
    last=st.sampled_from(['', '1,b', '\ufeff']),
    has_header=st.booleans(),
    size=st.integers(1, 20),
)
@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,  # Other processes may be busy.
    max_examples=500,
)
def test_quick_way_to_read_a_csv_changes_nothing(
    tmp_path, lines, ends, last, has_header, size
):
    text = ''.join(map(''.join, zip(lines, ends, strict=False))) + last
    (tmp_path / 'x.csv').write_bytes(text.encode())
    name = str(tmp_path / 'x.csv')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, 'BLOCK_SIZE', size)
        found = outcome(datasets.read, name, has_header)
    assert found == outcome(datasets.read_carefully, name, has_header)


@pytest.mark.parametrize('lines', ['1,a\n2,b\n', '1,a,x\r\n2,b,y', '0002,ü\n2,b'])
def test_plain_csv_is_read_quickly(tmp_path, lines):
    assert datasets.read_quickly(write(tmp_path / 'x.csv', lines), False) is not None


def test_field_that_csv_refuses_is_refused(tmp_path):
    csv_file = write(tmp_path / 'x.csv', f'1,a\n2,{"b" * 131073}\n')
    with pytest.raises(common.InputError, match='line 2 is no CSV .*field larger'):
        datasets.read(csv_file)


def test_missing_images_of_several_directories_come_in_the_order_of_the_csv(tmp_path):
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / '1').touch()
    fids = ['b/2', 'a/1', 'b/1', '1', 'a/1', '/none']
    expected = [os.path.join(tmp_path, fids[row]) for row in (0, 1, 3, 4, 5)]
    assert datasets.find_missing(fids, str(tmp_path)) == expected
    assert datasets.find_missing([], str(tmp_path)) == []


@pytest.mark.parametrize('root', ['', '.', 'x', 'x/', '/'])
def test_paths_are_those_that_python_joins(root):
    fids = ['a', 'b/a', '/a', './a', 'a/']
    expected = [os.path.join(root, fid) for fid in fids]
    assert datasets.join_paths(root, fids) == expected


@pytest.mark.parametrize(
    'rows, message',
    [
        ('1:a 2:b 1:a', None),  # A row that stands twice says the same twice.
        (
            '1:a 1:a 2:a',
            '1 image(s) with two PIDs (first: a is 1 in row 0 and 2 in row 2); remove '
            'the wrong rows',
        ),
        (
            '1:a 2:b 1:b 3:a 3:b',
            '2 image(s) with two PIDs (first: b is 2 in row 1 and 1 in row 2); remove '
            'the wrong rows',
        ),
    ],
)
def test_image_of_two_identities_is_refused_with_both(rows, message):
    pids, paths = zip(*(row.split(':') for row in rows.split()), strict=True)
    if message is None:
        datasets.check_labels(pids, paths, 'row {}'.format)
        return
    with pytest.raises(common.InputError) as error:
        datasets.check_labels(pids, paths, 'row {}'.format)
    assert str(error.value) == message


def test_rows_are_grouped_by_pid_in_order_of_appearance():
    groups = datasets.group_rows(np.array(['7', '3', '7'], object))
    assert {pid: rows.tolist() for pid, rows in groups.items()} == {
        '7': [0, 2],
        '3': [1],
    }
    assert list(groups) == ['7', '3']
    assert datasets.group_rows([]) == {}


@hypothesis.given(pids=st.lists(st.sampled_from(['a', 'b', 'c', '01', '1'])))
def test_numbers_of_pids_are_those_of_their_first_rows(pids):
    names = list(dict.fromkeys(pids))
    codes = datasets.number_pids(datasets.to_object_array(pids))
    assert [names[code] for code in codes] == pids
    rows = [[i for i, pid in enumerate(pids) if pid == name] for name in names]
    assert [part.tolist() for part in datasets.split_rows(codes)] == rows
