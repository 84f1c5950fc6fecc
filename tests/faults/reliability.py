"""The table of docs/reliability.md: what was injected, what was lost, what is seen.

Each file of tests here lists its faults as FAULTS, and adds a row for each of them by
the fixture `reliability`. `./test.sh --faults` writes the page from the rows.
"""

import ast
import datetime
import importlib.metadata
import os
import pathlib
import platform
import time
import typing

import pytest

FOLDER = pathlib.Path(__file__).parent
PAGE = FOLDER.parents[1] / 'docs' / 'reliability.md'

# What a test leaves for the table: a property of pytest's, its value a Row.
PROPERTY = 'reliability'

COLUMNS = (
    'fault',
    'how often',
    'how injected',
    'what was lost',
    'what the user sees',
)

TEXT = """# Reliability

What was done to the commands, how often, and what came of it. `./test.sh --faults`
injects all of it and writes this page; `./test.sh` injects a selection.

{conditions}

"""


class Row(typing.NamedTuple):
    """A row of the table, in the order of COLUMNS."""

    fault: str
    times: int
    how: str
    lost: str
    seen: str


def list_faults(folder=FOLDER):
    """Return the FAULTS of all test files in a folder, a list of str in order."""
    faults = []
    for path in sorted(folder.glob('test_*.py')):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            is_list = isinstance(node, ast.Assign) and [
                name.id for name in node.targets if isinstance(name, ast.Name)
            ] == ['FAULTS']
            if is_list:
                faults += ast.literal_eval(node.value)
    return faults


def join(rows, faults):
    """Return rows in the order of `faults`; those that differ in `times` alone as one.

    Args:
        rows: of Row.
        faults: list of str.

    Raises:
        ValueError: a fault has no row.
    """
    times = {}
    for row in rows:
        rest = row._replace(times=0)
        times[rest] = times.get(rest, 0) + row.times
    missing = [fault for fault in faults if all(row.fault != fault for row in times)]
    if missing:
        raise ValueError(f'no row for: {", ".join(missing)}')
    return [
        row._replace(times=times[row])
        for row in sorted(times, key=lambda row: (faults.index(row.fault), row))
    ]


def describe_conditions(parts):
    """Return where and when the faults were injected, as a text.

    Args:
        parts: list of seconds that the runs took which the rows are of.
    """
    versions = [
        f'{name} {importlib.metadata.version(name)}'
        for name in ('tensorflow', 'keras', 'numpy', 'h5py')
    ]
    models = [
        line.partition(':')[2].strip()
        for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines()
        if line.startswith('model name')
    ]
    processor = models[0] if models else platform.machine()
    linux = '.'.join(platform.release().split('.')[:2])
    is_all = os.environ.get('FAULTS') == 'all'
    return (
        ('' if is_all else 'This is the page of a selection, as `./test.sh` has it. ')
        + f'Written on {datetime.date.today()}, after {describe_time(parts)}: '
        f'{processor}, Linux {linux}, Python '
        f'{platform.python_version()}, {", ".join(versions)}.'
    )


def describe_time(parts):
    """Return how long runs took, and on how many cores, as a text.

    Args:
        parts: list of seconds, of the first and of those of --last-failed.
    """
    cores = len(os.sched_getaffinity(0))
    minutes = [round(secs / 60) for secs in parts]
    return (
        f'{" and ".join(map(str, minutes))} minute{"s" * (minutes != [1])} on {cores} '
        f'core{"s" * (cores != 1)}'
        + ' (what had failed, or was changed, was repeated)'
        * (len(parts) > 1)
    )


def write_page(rows, parts, page=PAGE, faults=None):
    """Write the page from the Rows of a run.

    Args:
        rows: list of Row.
        parts: see describe_conditions.
        page: pathlib.Path.
        faults: list of str, those that need a row.

    Raises:
        ValueError: one of `faults`, by default all of the suite, has no row.
    """
    lines = [COLUMNS, ['---'] * len(COLUMNS)]
    lines += [[*map(str, row)] for row in join(rows, faults or list_faults())]
    table = ''.join(f'| {" | ".join(cells)} |\n' for cells in lines)
    text = TEXT.format(conditions=describe_conditions(parts))
    page.write_text(text + table, encoding='utf-8')


class Collector:
    """Collects rows and writes the page, in the process that pytest-xdist reports to.

    A run of --last-failed completes the one before: what a test told then, it tells no
    more if it is run again.

    Args:
        config: of pytest.

    Attributes:
        rows: {id of a test that was run: list of Row, of one that passed}.
    """

    # Where pytest keeps rows, and seconds, until a run of --last-failed.
    CACHED_ROWS, CACHED_PARTS = 'faults/rows_of_tests', 'faults/secs'

    def __init__(self, config):
        self.config = config
        self.rows = {}
        self.started = time.monotonic()

    def pytest_runtest_logreport(self, report):
        rows = self.rows.setdefault(report.nodeid, [])
        is_told = report.when == 'call' or report.skipped  # In its setup, perhaps.
        if report.failed:
            rows.clear()
        elif is_told:
            rows += [
                Row(*row) for name, row in report.user_properties if name == PROPERTY
            ]

    def pytest_sessionfinish(self, session, exitstatus):
        is_worker = hasattr(self.config, 'workerinput')
        if is_worker or not self.config.getoption('--reliability', False):
            return
        by_test, parts = {}, []
        if self.config.getoption('--last-failed'):
            by_test = self.config.cache.get(self.CACHED_ROWS, {})
            parts = self.config.cache.get(self.CACHED_PARTS, [])
        by_test |= {
            name: [list(row) for row in rows] for name, rows in self.rows.items()
        }
        parts = [*parts, time.monotonic() - self.started]
        self.config.cache.set(self.CACHED_ROWS, by_test)
        self.config.cache.set(self.CACHED_PARTS, parts)
        if exitstatus:
            return
        try:
            write_page([Row(*row) for rows in by_test.values() for row in rows], parts)
        except ValueError as error:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print(f'\n{PAGE.name} is not written: {error}')
        else:
            print(f'\n{PAGE.name} is written')


def read_table(text):
    """Return the cells of a page's table, lists of str, its head first."""
    lines = [line for line in text.splitlines() if line.startswith('| ')]
    cells = [[cell.strip() for cell in line.strip('| ').split(' | ')] for line in lines]
    return cells[:1] + cells[2:]
