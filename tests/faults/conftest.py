"""What tests that inject faults share; see reliability.py."""

import os

import pytest
import reliability as table


def pytest_addoption(parser):
    parser.addoption(
        '--reliability',
        action='store_true',
        help='write docs/reliability.md from the rows of this run',
    )


@pytest.fixture(scope='session')
def every_fault():
    """Say whether all is injected that there is, or a quick selection."""
    return os.environ.get('FAULTS') == 'all'


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """Return a directory with train.csv and its images."""
    import tiny_run

    directory = tmp_path_factory.mktemp('data')
    tiny_run.write_dataset(directory)
    return directory


@pytest.fixture(scope='session')
def all_stories(data, tmp_path_factory):
    """Return {name: stories.Story} of a run and of embeddings."""
    import stories  # It imports TensorFlow, which not every file here needs.

    directory = tmp_path_factory.mktemp('stories').resolve()
    copies = directory / 'copies'
    copies.mkdir()
    train = stories.train(data, directory / 'exp', copies)
    embed = stories.embed(data, train.after, directory / 'exp', copies)
    export = stories.export(data, train.after, directory / 'exp', copies)
    search = stories.build_index(data, embed[0].after, directory / 'exp', copies)
    return {story.name: story for story in (train, *embed, export, search)}


class Reliability:
    """Where a test puts what it found out.

    Args:
        request: of pytest, of the test.
    """

    def __init__(self, request):
        self.request = request

    def add(self, *, fault, times, how, lost, seen):
        """Add a row to docs/reliability.md; it counts if the test passes.

        Args:
            fault: one of the file's FAULTS.
            times: int, how often it was injected.
            how: by what means.
            lost: what was lost, such as 'nothing' or 'iterations since the last
                checkpoint'.
            seen: what the user sees, such as the line that is printed.

        Rows that differ in `times` alone become one: parts of a test may add theirs.
        """
        assert fault in self.request.module.FAULTS
        row = table.Row(fault, times, how, lost, seen)
        assert not any(mark in str(cell) for cell in row for mark in '|\n')
        put(self.request.node, row)

    def skip(self, fault, reason):
        """Skip the test, and say in the table that the fault was not injected."""
        skip(self.request.node, fault, reason)


def put(item, row):
    """Leave a table.Row with a test."""
    # What a test reports comes back from the processes of pytest-xdist, too.
    item.user_properties.append(('reliability', list(row)))


def skip(item, fault, reason):
    """Skip a test and leave the row of what is not injected."""
    put(item, table.Row(fault, 0, f'not here: {reason}', '-', '-'))
    pytest.skip(reason)


def pytest_runtest_setup(item):
    """Skip what is marked as slow, before its fixtures are made."""
    mark = item.get_closest_marker('slow_fault')
    if mark is not None and os.environ.get('FAULTS') != 'all':
        skip(item, *mark.args, 'with --faults only')


@pytest.fixture
def reliability(request):
    """Return the Reliability of a test."""
    return Reliability(request)


# Rows of the tests that passed. The hooks have no object of ours to keep them in.
ROWS = pytest.StashKey()

# Where they are kept until a run of --last-failed completes them.
CACHED = 'faults/rows'


def pytest_configure(config):
    config.stash[ROWS] = []
    config.addinivalue_line('markers', 'slow_fault(fault): of --faults only')
    config.pluginmanager.register(Collector(config))


class Collector:
    """Collects rows and writes the page, in the process that pytest-xdist reports to.

    Args:
        config: of pytest.
    """

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        is_told = report.when == 'call' or report.skipped  # In its setup, perhaps.
        if is_told and not report.failed:
            self.config.stash[ROWS] += [
                table.Row(*row)
                for name, row in report.user_properties
                if name == 'reliability'
            ]

    def pytest_sessionfinish(self, session, exitstatus):
        is_worker = hasattr(self.config, 'workerinput')
        if is_worker or not self.config.getoption('--reliability', False):
            return
        rows = self.config.stash[ROWS]
        # Of a run that had a failure, what passed is repeated only if it is asked for.
        if self.config.getoption('--last-failed'):
            rows = [table.Row(*row) for row in self.config.cache.get(CACHED, [])] + rows
        self.config.cache.set(CACHED, [list(row) for row in rows])
        if exitstatus:
            return
        try:
            table.write_page(rows)
        except ValueError as error:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print(f'\n{table.PAGE.name} is not written: {error}')
        else:
            print(f'\n{table.PAGE.name} is written')
