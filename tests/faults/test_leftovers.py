"""What a process leaves that is ended while it writes, and who removes it."""

import errno
import functools
import os
import signal
import subprocess
import sys

import doomed
import pytest
import stories

import common
import tiny_run

FAULTS = (
    'SIGTERM while a file is written',
    'SIGHUP while a file is written',
    'SIGHUP to a command under nohup',
    'SIGKILL while a file is written',
    'power loss after a file is written',
)

# A command that writes slowly.
SLOW = """
import sys, time, common

def main():
    common.setup_logging()
    with common.complete_file(sys.argv[1]) as temporary:
        open(temporary, 'w').write('half')
        print('ready', flush=True)
        sys.stdin.read()

sys.argv = ['x.py', {target!r}]
common.run(main)
"""


def start_slowly(target, **more):
    """Start a command that writes to `target` until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, '-c', SLOW.format(target=str(target))],
        cwd=tiny_run.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
    assert process.stdout.readline() == 'ready\n'
    return process


@pytest.fixture(autouse=True)
def other_process():
    """Let each test look for leftovers, as another process would."""
    common.remove_leftovers.cache_clear()


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_a_command_in_order(tmp_path, number, code, reliability):
    (tmp_path / 'x').write_text('old')
    process = start_slowly(tmp_path / 'x')
    process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert stderr == f'x.py: ended by {number.name}\n'
    assert os.listdir(tmp_path) == ['x']
    assert (tmp_path / 'x').read_text() == 'old'
    reliability.add(
        fault=f'{number.name} while a file is written',
        times=1,
        how='kill',
        lost='the unfinished file; an older one stays',
        seen=stderr.strip(),
    )


@pytest.mark.slow_fault(FAULTS[0])
def test_sigterm_ends_embed_in_order(all_stories, reliability):
    story = stories.find(all_stories, 'embed.py', FAULTS[0], reliability)
    name = 'train_embeddings.h5'
    complete = (story.after / name).read_bytes()
    # In the call that makes the unfinished file, nobody knows its name yet: the next
    # start removes that one.
    made = [call.name for call in story.calls].index('open')
    calls = story.calls[made + 1 :]
    for call in calls:
        stories.restart(story)
        (story.root / name).write_bytes(b'older')
        before = stories.list_files(story.root)
        fault = doomed.Fault(story.root, call.n, 'kill', signal.SIGTERM)
        outcome = doomed.run('embed', story.argv, fault)
        assert outcome.code == 143, (call, outcome)
        assert outcome.said == 'embed.py: ended by SIGTERM\n', call
        assert stories.list_files(story.root) == before, call
        is_done = any(done.to.endswith(name) for done in outcome.calls)
        expected = complete if is_done else b'older'
        assert (story.root / name).read_bytes() == expected, call
    reliability.add(
        fault=FAULTS[0],
        times=len(calls),
        how='embed.py; a seccomp filter sends it at each system call that changes '
        'files, once the unfinished file is there',
        lost='the unfinished file; an older one stays',
        seen='embed.py: ended by SIGTERM',
    )


def test_nohup_is_respected(tmp_path, reliability):
    ignore = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    process = start_slowly(tmp_path / 'x', preexec_fn=ignore)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / 'x').read_text() == 'half'
    reliability.add(
        fault=FAULTS[2], times=1, how='SIGHUP ignored', lost='nothing', seen='-'
    )


def test_next_start_removes_what_no_living_process_owns(tmp_path, capsys, reliability):
    killed = [start_slowly(tmp_path / 'a'), start_slowly(tmp_path / 'b')]
    for process in killed:
        process.kill()
        process.communicate()
    assert len(os.listdir(tmp_path)) == 2
    living = start_slowly(tmp_path / 'c')
    # It has removed those of the killed ones; leave it another one, and ours.
    another = start_slowly(tmp_path / 'd')
    another.kill()
    another.communicate()
    (tmp_path / '.notes.partial').write_text('of somebody')
    common.setup_logging()
    common.write_json(str(tmp_path / 'e'), [])
    line = capsys.readouterr().err
    assert line.startswith(
        f'1 unfinished file(s) of killed processes removed from {tmp_path} (first: .d.'
    )
    common.write_json(str(tmp_path / 'e'), [])  # It looks, and says so, once.
    assert capsys.readouterr().err == ''
    stderr = living.communicate(timeout=60)[1]
    assert stderr.startswith('2 unfinished file(s) of killed processes removed from ')
    assert sorted(os.listdir(tmp_path)) == ['.notes.partial', 'c', 'e']
    assert (tmp_path / 'c').read_text() == 'half'
    reliability.add(
        fault=FAULTS[3],
        times=3,
        how='kill; another process writes there at the same time',
        lost='the unfinished files, removed by the next command that writes there',
        seen='2 unfinished file(s) of killed processes removed from DIRECTORY (...)',
    )


def test_where_there_are_no_locks_leftovers_stay(tmp_path, monkeypatch):
    (tmp_path / '.x.abcdefgh.partial').write_text('')

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(common.fcntl, 'fcntl', refuse)
    common.write_json(str(tmp_path / 'x'), [])
    assert sorted(os.listdir(tmp_path)) == ['.x.abcdefgh.partial', 'x']


def test_file_taken_for_a_leftover_before_it_is_locked_is_made_again(
    tmp_path, monkeypatch
):
    lock, takes = common.lock_file, []

    def be_late(descriptor, command):
        if not takes:
            takes.append(1)
            (path,) = tmp_path.iterdir()
            path.unlink()  # As another process does.
        lock(descriptor, command)

    monkeypatch.setattr(common, 'lock_file', be_late)
    common.write_json(str(tmp_path / 'x'), [])
    assert os.listdir(tmp_path) == ['x']


def test_file_and_its_name_are_on_the_disk(tmp_path, monkeypatch, reliability):
    done = []

    def note(function, describe):
        def noting(*args):
            done.append((function.__name__, describe(args[0])))
            return function(*args)

        monkeypatch.setattr(os, function.__name__, noting)

    def name_of(opened):
        name = os.path.basename(os.readlink(f'/proc/self/fd/{opened}'))
        return 'file' if name.endswith('.partial') else name

    note(os.fsync, name_of)
    note(os.replace, lambda path: 'file' if path.endswith('.partial') else path)
    common.write_json(str(tmp_path / 'x'), [])
    assert done == [('fsync', 'file'), ('replace', 'file'), ('fsync', tmp_path.name)]
    reliability.add(
        fault=FAULTS[4],
        times=1,
        how='file, then name, then directory seen to be synced',
        lost='nothing',
        seen='-',
    )


def test_sync_that_fails_names_the_file(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(common.FileError) as error:
        common.write_json(str(tmp_path / 'x'), [])
    assert str(error.value) == (
        f'cannot write {tmp_path}/x: No space left on device; make room there, or '
        'choose another place'
    )
    assert os.listdir(tmp_path) == []


def test_directory_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, 'fsync', fail)
    common.sync(str(tmp_path))
    (tmp_path / 'x').write_text('')
    with pytest.raises(OSError, match='Invalid argument'):
        common.sync(str(tmp_path / 'x'))
