"""Rubbish in every kind of file that is read: refused in one line, or without harm.

FAULTS=all feeds 10,000 files of each kind, 2,500 of one that is much like another, else
a few. See fuzz.py.
"""

import json
import os
import signal
import subprocess
import sys

import fuzz
import pytest

import tiny_run

IS_ALL = os.environ.get('FAULTS') == 'all'
FILES = 10_000 if IS_ALL else 20  # Of a kind.
FEWER = 2500 if IS_ALL else 20  # Of a kind of which another one has the format.
ALIKE = (
    *('table of a data set', 'list of images', 'best.json', 'log header'),
    *('csv of embeddings', 'bulk.json', 'part of bulk', 'tar', 'published weights'),
    *('names beside npy', 'block of embeddings', 'header of blocks', 'thresholds'),
    *('index json', 'shard', 'checkpoint state'),
)
AT_ONCE = 2500  # By one process.

# Kinds whose numbers have sums: what is read equals what was written.
SUMMED = (
    *('hdf5', 'parquet', 'bulk.json', 'part of bulk', 'shard'),
    *('checkpoint state', 'checkpoint index', 'checkpoint data', 'old checkpoint'),
)

# What is imported of ours: the commands, and what tests share.
PYTHONPATH = os.pathsep.join([str(tiny_run.ROOT), str(tiny_run.ROOT / 'tests')])

FAULTS = (
    'damaged file: csv',
    'damaged file: table of a data set',
    'damaged file: list of images',
    'damaged file: args.json',
    'damaged file: evaluation',
    'damaged file: best.json',
    'damaged file: log header',
    'damaged file: hdf5',
    'damaged file: foreign hdf5',
    'damaged file: npy',
    'damaged file: npz',
    'damaged file: csv of embeddings',
    'damaged file: parquet',
    'damaged file: bulk.json',
    'damaged file: part of bulk',
    'damaged file: tar',
    'damaged file: published weights',
    'damaged file: names beside npy',
    'damaged file: block of embeddings',
    'damaged file: header of blocks',
    'damaged file: export',
    'damaged file: thresholds',
    'damaged file: index',
    'damaged file: index with its sum',
    'damaged file: index json',
    'damaged file: shard',
    'damaged file: checkpoint state',
    'damaged file: checkpoint index',
    'damaged file: checkpoint data',
    'damaged file: old checkpoint',
    'damaged file: events',
)


def count_files(name):
    """Return how many files of a kind are read."""
    return FEWER if name in ALIKE else FILES


def feed(directory, names, forgiven):
    """Return {kind: {'read': n, 'refused': n, 'others': {number: what}}}.

    Args:
        directory: for the files.
        names: list of str, the kinds.
        forgiven: list of str, filters of warnings that pass: as Python's -W.
    """
    # A warning would be a line more.
    filters = [word for what in ('error', *forgiven) for word in ('-W', what)]
    total = {name: {'read': 0, 'refused': 0, 'others': {}} for name in names}
    waiting = [
        (name, first, min(first + AT_ONCE, count_files(name)))
        for name in names
        for first in range(0, count_files(name), AT_ONCE)
    ]
    while waiting:
        # As many kinds as possible by one process: each has to import TensorFlow.
        some = waiting[:1] if IS_ALL else waiting
        waiting = waiting[len(some) :]
        new = directory / str(len(os.listdir(directory)))
        new.mkdir()
        words = [f'{name}:{first}:{last}' for name, first, last in some]
        process = subprocess.run(
            [sys.executable, *filters, fuzz.__file__, str(new), *words],
            env={**os.environ, 'PYTHONPATH': PYTHONPATH},
            capture_output=True,
            text=True,
        )
        assert process.returncode <= 0, process.stderr[-3000:]
        for line in (new / 'results.txt').read_text().splitlines():
            name, number, outcome = json.loads(line)
            if outcome in ('read', 'refused'):
                total[name][outcome] += 1
            else:
                total[name]['others'][number] = outcome
        if process.returncode:
            name, number, _ = json.loads((new / 'at_work.txt').read_text())
            fate = signal.Signals(-process.returncode).name
            total[name]['others'][number] = fate
            at = [one[0] for one in some].index(name)
            waiting = [(name, number + 1, some[at][2]), *some[at + 1 :], *waiting]
    return total


@pytest.fixture(scope='module')
def fed(tmp_path_factory, pytestconfig):
    """Return a function of a kind that returns what became of its files."""
    directory = tmp_path_factory.mktemp('fed')
    forgiven = pytestconfig.getoption('pythonwarnings') or []  # Of pytest's own -W.
    known = {}

    def find(name):
        if name not in known:
            names = [name] if IS_ALL else list(fuzz.KINDS)
            known.update(feed(directory, names, forgiven))
        return known[name]

    return find


def test_every_kind_is_a_fault():
    assert tuple(f'damaged file: {name}' for name in fuzz.KINDS) == FAULTS


@pytest.mark.parametrize('name', fuzz.KINDS)
def test_damaged_file_is_refused_in_one_line_or_read(fed, reliability, name):
    found = fed(name)
    assert found['others'] == {}
    files = count_files(name)
    assert found['read'] + found['refused'] == files
    # Or the files were not spoilt, or all beyond what a reader looks at.
    assert found['refused'] > files / 5
    reliability.add(
        fault=f'damaged file: {name}',
        times=files,
        how='bits, ranges, sizes or values changed, or cut off, by seed',
        lost='nothing'
        if name in SUMMED
        else 'what the damage changed, where it is read',
        seen='a line that names the file, or nothing: what is read is '
        + ('as it was' if name in SUMMED else 'well-formed, but has no sums'),
    )
