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


@pytest.fixture(scope='session')
def formats(data, all_stories, tmp_path_factory):
    """Return {name: stories.Story} of the other ways that embed.py writes."""
    import stories

    directory = tmp_path_factory.mktemp('formats').resolve()
    trained = all_stories['train.py'].after
    told = stories.formats(data, trained, directory / 'exp', directory)
    return {story.name: story for story in told}


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
        """Skip the test; say in the table, and at the end, that it was not injected.

        The end is that of tests/conftest.py.
        """
        self.request.node.user_properties.append(('not injected', [fault, reason]))
        skip(self.request.node, fault, reason)


def put(item, row):
    """Leave a table.Row with a test."""
    # What a test reports comes back from the processes of pytest-xdist, too.
    item.user_properties.append((table.PROPERTY, list(row)))


def skip(item, fault, reason):
    """Skip a test and leave the row of what is not injected."""
    put(item, table.Row(fault, 0, f'not here: {reason}', '-', '-'))
    pytest.skip(reason)


# Ends of the names of tests that take more than three minutes with FAULTS=all.
LONGEST = (
    'kill_before_a_call_loses_nothing[train.py]',
    'kill_at_random_moments_loses_nothing',
    '[full disk at each write of train.py]',
    'kill_in_a_write_loses_nothing[train.py]',
    'system call of train.py]',
    'needs_of_a_long_run_stay',
    '[events]',
)


def pytest_collection_modifyitems(items):
    """Let long tests come first: at the end, one process would wait for the other."""
    if os.environ.get('FAULTS') == 'all':
        items.sort(key=lambda item: not item.nodeid.endswith(LONGEST))


def pytest_runtest_setup(item):
    """Skip what is marked as slow, before its fixtures are made."""
    mark = item.get_closest_marker('slow_fault')
    if mark is not None and os.environ.get('FAULTS') != 'all':
        skip(item, *mark.args, 'with --faults only')


@pytest.fixture
def reliability(request):
    """Return the Reliability of a test."""
    return Reliability(request)


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow_fault(fault): of --faults only')
    config.pluginmanager.register(table.Collector(config))
