"""bench.mutation: where it puts no faults, and what it says of a test run."""

import subprocess
import sys

import pytest

from bench import mutation


def test_type_hints_are_found_and_defaults_are_none():
    source = 'def add(a: int | None, b=2 | 1) -> str | int:\n    c: int = a | b\n'
    lines = source.splitlines()
    hints = [
        lines[line - 1][start:end]
        for (line, start), (_, end) in mutation.find_type_hints(source)
    ]
    assert sorted(hints) == ['int', 'int | None', 'str | int']


def test_row_counts_what_was_noticed():
    counts = mutation.Counts(all=90, tried=20, survived=3, timeouts=2)
    row = mutation.format_row('loss', counts)
    assert row == '| `loss` | 90 | 20 | 15 | 3 | 2 | 85% |'


@pytest.mark.parametrize('name', mutation.SUBJECTS)
def test_subjects_are_there(name, monkeypatch):
    monkeypatch.chdir(mutation.ROOT)
    subject = mutation.SUBJECTS[name]
    for pattern in (*subject.modules, *subject.tests):
        assert mutation.find([pattern]), pattern


def test_run_tells_whether_a_test_failed(tmp_path):
    for name, claim in (('right', 'True'), ('wrong', 'False')):
        (tmp_path / f'test_{name}.py').write_text(
            f'def test_it():\n    assert {claim}\n'
        )
    # In a process of its own: one that has threads must not fork.
    code = (
        'from bench import mutation\n'
        'for name in ("right", "wrong"):\n'
        f'    tests = [r"{tmp_path}/test_" + name + ".py"]\n'
        '    print(mutation.run_tests(tests, limit=600)[0])\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=mutation.ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.split() == [str(mutation.NONE_FAILED), '1']
