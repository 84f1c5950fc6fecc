"""What tests that inject faults share."""

import pytest


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """Return a directory with train.csv and its images."""
    import tiny_run

    directory = tmp_path_factory.mktemp('data')
    tiny_run.write_dataset(directory)
    return directory


class Reliability:
    """Where a test puts what it found out."""

    def __init__(self, request):
        self.request = request

    def add(self, *, fault, times, how, lost, seen):
        """Check a row of docs/reliability.md."""
        assert fault in self.request.module.FAULTS


@pytest.fixture
def reliability(request):
    """Return the Reliability of a test."""
    return Reliability(request)
