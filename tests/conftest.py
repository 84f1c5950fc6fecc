"""What holds for every test."""

import pytest

# Before anything imports TensorFlow: common.py sets how it computes, and a test that
# compares a run within pytest with one of a command needs the same arithmetic in both.
import common  # noqa: F401
import tiny_run


@pytest.fixture(scope='module')
def one_block_net():
    """Leave tiny_run's net one block while a module's tests run, and their fixtures."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_run.shrink_net(monkeypatch)
        yield
