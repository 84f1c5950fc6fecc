"""docs/reliability.md tells of every fault that tests here inject, and of no other."""

import pytest
import reliability as table

FAULTS = ()


def test_page_has_a_row_for_every_fault_of_the_suite(pytestconfig):
    if pytestconfig.getoption('--reliability', False):
        pytest.skip(
            'the page is about to be written, with a row for each or not at all'
        )
    head, *rows = table.read_table(table.PAGE.read_text(encoding='utf-8'))
    assert tuple(head) == table.COLUMNS
    assert {row[0] for row in rows} == set(table.list_faults())
    assert [len(row) for row in rows] == [len(table.COLUMNS)] * len(rows)


def test_every_file_of_tests_lists_its_faults(tmp_path):
    (tmp_path / 'test_a.py').write_text("FAULTS = ('kill', 'stop')\n")
    (tmp_path / 'test_b.py').write_text("OTHER = ('x',)\nFAULTS = ('full disk',)\n")
    assert table.list_faults(tmp_path) == ['kill', 'stop', 'full disk']
    for path in table.FOLDER.glob('test_*.py'):
        assert '\nFAULTS = (' in path.read_text(encoding='utf-8'), path.name


def make_row(fault, times, how='by hand'):
    return table.Row(fault, times, how, 'nothing', 'a line')


def test_missing_row_is_noticed():
    with pytest.raises(ValueError, match='no row for: stop$'):
        table.join([make_row('kill', 1)], ['kill', 'stop'])


def test_parts_of_a_row_are_added_up():
    rows = [make_row('b', 3), make_row('a', 1), make_row('b', 4), make_row('b', 1, 'z')]
    assert table.join(rows, ['b', 'a']) == [
        *(make_row('b', 7), make_row('b', 1, 'z'), make_row('a', 1)),
    ]


def test_page_is_read_as_it_is_written(tmp_path):
    page = tmp_path / 'page.md'
    table.write_page([make_row('kill', 1200)], page, ['kill'])
    head, row = table.read_table(page.read_text(encoding='utf-8'))
    assert tuple(head) == table.COLUMNS
    assert row == ['kill', '1200', 'by hand', 'nothing', 'a line']
