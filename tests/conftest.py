"""What holds for every test."""

import random
import resource
import sys

import hypothesis
import numpy as np
import pytest

# Before anything imports TensorFlow: common.py sets how it computes, and a test that
# compares a run within pytest with one of a command needs the same arithmetic in both.
import common
import tiny_run

# The same examples in every run: a failure can be repeated.
hypothesis.settings.register_profile('same', derandomize=True)
hypothesis.settings.load_profile('same')


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run what is marked slow, too')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow(why): of ./test.sh --slow only')


def pytest_runtest_setup(item):
    """Skip what is slow, before its fixtures are made."""
    mark = item.get_closest_marker('slow')
    if mark is not None and not item.config.getoption('--slow'):
        pytest.skip(f'with --slow only: {mark.args[0]}')


def pytest_terminal_summary(terminalreporter):
    """Say which faults could not be injected here: nobody reads a reason otherwise.

    Not in tests/faults: the process that pytest-xdist reports to has not loaded that.
    """
    faults = {}
    for report in terminalreporter.getreports('skipped'):
        for name, value in report.user_properties:
            if name == 'not injected':
                faults.setdefault(value[1], []).append(value[0])
    for reason, some in faults.items():
        terminalreporter.write_line(
            f'{len(some)} faults NOT INJECTED: {reason} (first: {some[0]})', yellow=True
        )


def seed_everything():
    """Let random numbers be the same in every run, whatever the order of the tests."""
    random.seed(0)
    np.random.seed(0)
    # Only if a test has imported it: that takes seconds.
    if 'keras' in sys.modules:
        sys.modules['keras'].utils.set_random_seed(0)


@pytest.fixture(scope='module', autouse=True)
def seeded_module():
    """Seed before the fixtures that a module's tests share."""
    seed_everything()


@pytest.fixture(autouse=True)
def seeded_test(request):
    """Seed before each test, and its own fixtures."""
    seed_everything()


@pytest.fixture
def small_files(capsys):
    """Return a function that limits the size of the files that can be written.

    To the program a file too large is what a full disk is: a write that fails.
    capsys keeps what is printed in memory; pytest's own capture is a file, too.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    common.setup_logging()  # Closes a log file, which may have a line left to write.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Lift the limit of small_files before pytest writes the outcome, to a file too."""
    del item
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.fixture(scope='module')
def one_block_net():
    """Leave tiny_run's net one block while a module's tests run, and their fixtures."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_run.shrink_net(monkeypatch)
        yield
