"""What tests that inject faults share."""

import pytest


class Reliability:
    """Takes the rows of docs/reliability.md, and keeps none of them yet."""

    def add(self, *, fault, times, how, lost, seen):
        pass


@pytest.fixture
def reliability():
    return Reliability()
