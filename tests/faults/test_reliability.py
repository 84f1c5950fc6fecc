"""docs/reliability.md tells of every fault that tests here inject, and of no other."""

import json
import os
import subprocess
import sys
import types

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
    table.write_page([make_row('kill', 1200)], [60], page, ['kill'])
    head, row = table.read_table(page.read_text(encoding='utf-8'))
    assert tuple(head) == table.COLUMNS
    assert row == ['kill', '1200', 'by hand', 'nothing', 'a line']


class FakeConfig(types.SimpleNamespace):
    """What Collector needs of pytest, for a run with some options.

    Args:
        options: set of str.
        kept: dict that pytest's cache is in, as JSON.
    """

    def __init__(self, options, kept):
        cache = types.SimpleNamespace(
            get=lambda key, default: json.loads(kept.get(key, 'null')) or default,
            set=lambda key, value: kept.update({key: json.dumps(value)}),
        )
        super().__init__(options=options, cache=cache)

    def getoption(self, name, default=None):
        return name in self.options


def run_suite(monkeypatch, kept, outcomes, *options):
    """Return what is written, (rows, seconds), after tests with some outcomes, or None.

    Args:
        monkeypatch, kept: see FakeConfig.
        outcomes: {id of a test: its row, or None: it fails}.
        options: of pytest.
    """
    written = []
    monkeypatch.setattr(table, 'write_page', lambda *args: written.append(args))
    collector = table.Collector(FakeConfig({'--reliability', *options}, kept))
    collector.started -= 60
    for name, row in outcomes.items():
        for when in ('setup', 'call', 'teardown'):
            has_failed = when == 'call' and row is None
            collector.pytest_runtest_logreport(
                types.SimpleNamespace(
                    nodeid=name,
                    when=when,
                    failed=has_failed,
                    skipped=False,
                    user_properties=[
                        (table.PROPERTY, list(row or make_row('torn', 5)))
                    ],
                )
            )
    collector.pytest_sessionfinish(None, int(None in outcomes.values()))
    return written[0] if written else None


def test_completed_run_counts_each_test_once(monkeypatch):
    kill, stop = make_row('kill', 3), make_row('stop', 4)
    kept = {}
    assert run_suite(monkeypatch, kept, {'a': kill, 'b': None}) is None
    for parts in (2, 3):  # The last time, nothing had failed: all are repeated.
        outcomes = {'b': stop} if parts == 2 else {'a': kill, 'b': stop}
        rows, secs = run_suite(monkeypatch, kept, outcomes, '--last-failed')
        assert rows == [kill, stop]
        assert [round(part) for part in secs] == [60] * parts
    rows, secs = run_suite(monkeypatch, kept, {'b': stop})
    assert (rows, len(secs)) == ([stop], 1)  # It begins anew.


def test_page_tells_the_cores_and_how_long_it_took(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 5})
    assert ', after 42 minutes on 2 cores: ' in table.describe_conditions([2520])
    assert (
        ', after 42 and 1 minutes on 2 cores (what had failed, or was changed, was '
        'repeated): ' in table.describe_conditions([2520, 60])
    )


def test_fault_that_cannot_be_injected_here_is_told_at_the_end(tmp_path):
    test = 'test_disk.py::test_room_for_embeddings_is_held'
    process = subprocess.run(
        [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider']
        + ['-n', '1', str(table.FOLDER / test)],
        cwd=table.FOLDER.parents[1],
        env=os.environ | {'PATH': str(tmp_path)},  # Without mount.
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout
    assert (
        '1 faults NOT INJECTED: mount is not permitted (first: disk that others fill '
        'while embeddings are written)'
    ) in process.stdout.splitlines()
