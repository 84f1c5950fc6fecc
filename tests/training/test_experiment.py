"""The directory of a run: one owner, false starts, leftovers."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys

import pytest

import common
import tiny_run
from run_files import assert_same_state, list_names, log_of, refuse
from training import experiment

pytestmark = pytest.mark.usefixtures('one_block_net')

# A process that owns a directory until its input ends.
OWNER = """
import sys
from training import experiment

is_new = sys.argv[2] == 'new'
with experiment.ExperimentRoot(sys.argv[1], is_new, is_writer=True):
    print('in', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def own():
    """Return a function that starts an OWNER; it is killed at the end."""
    owners = []

    def start(root, kind='resumed'):
        owner = subprocess.Popen(
            [sys.executable, '-c', OWNER, str(root), kind],
            cwd=tiny_run.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        owners.append(owner)
        assert owner.stdout.readline() == 'in\n'
        return owner

    yield start
    for owner in owners:
        owner.kill()
        owner.communicate()  # It closes the pipes.


@pytest.fixture
def no_locks(monkeypatch):
    """Let the file system know no locks."""

    def refuse_to_lock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'flock', refuse_to_lock)


def open_root(root, is_new=False):
    return experiment.ExperimentRoot(str(root), is_new, is_writer=True)


def test_second_process_is_refused_and_the_first_keeps_its_files(data, tmp_path, own):
    root = tmp_path / 'exp'
    owner = own(root, 'new')
    (root / 'args.json').write_text('{}')
    with pytest.raises(common.InputError, match=f'in use.*process {owner.pid} on '):
        tiny_run.start(data, root)
    assert list_names(root, '*') == ['.lock', 'args.json']


def test_running_run_is_not_resumed_beside_itself(experiment, own):
    before = {path.name: path.read_bytes() for path in experiment.iterdir()}
    own(experiment)
    with pytest.raises(common.InputError, match='is in use'):
        tiny_run.resume(experiment)
    (experiment / '.lock').unlink()
    assert {path.name: path.read_bytes() for path in experiment.iterdir()} == before


def test_lock_of_a_killed_process_keeps_nobody_out(data, tmp_path, own):
    root = tmp_path / 'exp'
    owner = own(root, 'new')
    owner.kill()
    owner.wait()
    assert (root / '.lock').exists()
    tiny_run.start(data, root)
    assert not (root / '.lock').exists()


def test_one_that_was_first_in_between_is_no_new_run(tmp_path):
    (tmp_path / 'checkpoint-1.index').touch()  # Since checks.check_is_new.
    with pytest.raises(common.InputError, match='has just begun'):
        open_root(tmp_path, is_new=True).__enter__()
    assert list_names(tmp_path, '*') == ['checkpoint-1.index']


def test_removed_lock_file_is_no_lock(monkeypatch, tmp_path):
    """Someone who waited for a lock file that its owner then removes has nothing."""
    flock = fcntl.flock
    opened = []

    def remove_then_lock(descriptor, how):
        if not opened:
            (tmp_path / '.lock').unlink()
        opened.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, 'flock', remove_then_lock)
    with open_root(tmp_path) as root:
        assert len(opened) == 2
        assert os.path.samestat(os.fstat(root.lock), os.stat(tmp_path / '.lock'))


@pytest.mark.usefixtures('no_locks')
def test_file_system_without_locks_is_told_of(tmp_path):
    with open_root(tmp_path) as root:
        assert 'has no locks' in root.notes[0]
    assert list_names(tmp_path, '*') == []


@pytest.mark.usefixtures('no_locks')
def test_lock_of_a_living_run_stays_though_there_are_no_locks_any_more(tmp_path):
    owner = tmp_path / '.lock'
    owner.write_text('process 1 on elsewhere')
    with open_root(tmp_path):
        pass
    assert owner.read_text() == 'process 1 on elsewhere'


def read_all(root):
    """Return {relative path: bytes} of all files below a directory."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


@pytest.mark.usefixtures('no_locks')
def test_without_locks_nothing_is_removed_that_may_be_a_living_run_s(
    data, finished, tmp_path
):
    with open_root(tmp_path / 'exp', is_new=True) as first:
        root = tmp_path / 'exp'
        for name in FIRST_FILES[:2]:
            shutil.copy(finished / name, root)
        (root / '.checkpoint-0.partial').mkdir()
        shutil.copy(finished / FIRST_FILES[2], root / '.checkpoint-0.partial')
        before = read_all(root)
        assert len(before) == 3
        with pytest.raises(
            common.InputError,
            match='has no locks: another train.py may be at work there; choose a new '
            'directory, or empty this one if not$',
        ):
            tiny_run.start(data, root)
        assert read_all(root) == before
        with open_root(root):  # As of --resume.
            assert read_all(root) == before
        first.report(None)
    assert read_all(root) == before


@pytest.mark.usefixtures('no_locks')
def test_without_locks_a_false_start_does_not_take_what_another_wrote(tmp_path):
    with open_root(tmp_path, is_new=True) as first:
        with pytest.raises(KeyboardInterrupt), open_root(tmp_path, is_new=True):
            # Both have found it empty.
            for name in ('args.json', 'train.log', 'checkpoint-0.index'):
                (tmp_path / name).write_text(f'{name} of the first')
            before = read_all(tmp_path)
            raise KeyboardInterrupt
        assert read_all(tmp_path) == before
        first.report(None)


def test_false_start_removes_what_is_its_own(tmp_path):
    root = tmp_path / 'exp'
    root.mkdir()
    with pytest.raises(KeyboardInterrupt), open_root(root, is_new=True):
        for name in ('args.json', 'train.log', 'checkpoint-0.index', 'notes.txt'):
            (root / name).touch()
        (root / '.checkpoint-0.partial').mkdir()
        (root / 'checkpoint-0_temp').mkdir()
        (root / 'checkpoint-0_temp' / 'part-00000').touch()
        raise KeyboardInterrupt
    assert list_names(root, '*') == ['notes.txt']


LEFTOVERS = {
    '.checkpoint-7.partial': True,
    '.best-3.partial': True,
    'checkpoint-7_temp': True,
    'checkpoint.tmp0a1b': False,
}


def test_leftovers_of_killed_processes_are_removed_and_counted(experiment):
    for name, is_directory in LEFTOVERS.items():
        if is_directory:
            (experiment / name).mkdir()
            (experiment / name / 'part').touch()
        else:
            (experiment / name).touch()
    tiny_run.resume(experiment)
    assert not [name for name in LEFTOVERS if (experiment / name).exists()]
    assert f'4 leftovers of killed processes removed from {experiment}' in log_of(
        experiment
    )


# --- a kill while the first files are written --------------------------------------

# What may be there, from the first file to the last but one.
FIRST_FILES = [
    'args.json',
    'checkpoint-0.data-00000-of-00001',
    'checkpoint-0.index',
]


@pytest.mark.parametrize('is_resumed', [False, True])
@pytest.mark.parametrize('number', [1, 2, 3])
def test_run_killed_in_its_first_store_starts_either_way(
    data, finished, tmp_path, number, is_resumed
):
    root = tmp_path / 'exp'
    root.mkdir()
    for name in FIRST_FILES[:number]:
        shutil.copy(finished / name, root)
    (root / '.checkpoint-0.partial').mkdir()
    (root / '.lock').touch()
    if is_resumed:
        tiny_run.resume(root)
        assert 'ended before its first checkpoint' in log_of(root)
        assert_same_state(
            tiny_run.read_checkpoint(root, 4), tiny_run.read_checkpoint(finished, 4)
        )
    else:
        tiny_run.start(data, root)
        assert list_names(root, 'checkpoint-2.index')


def test_run_with_a_checkpoint_is_not_started_anew(experiment, data, capsys):
    assert 'is not empty' in refuse(capsys, tiny_run.flags(data, experiment))
