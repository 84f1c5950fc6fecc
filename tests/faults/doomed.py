"""Commands in processes of their own, and a fault that waits for a system call.

TensorFlow takes five seconds to import. A server imports it once (multiprocessing's
forkserver), and each command is a fork of it.
"""

import ctypes
import functools
import hashlib
import importlib
import itertools
import math
import multiprocessing
import multiprocessing.forkserver
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import typing

import pytest

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]

# As in system_calls.c.
ACTIONS = ('count', 'kill', 'tear', 'fail')


class Fault(typing.NamedTuple):
    """What happens to a command at its n-th system call that changes files.

    Attributes:
        directory: pathlib.Path; calls are counted that change files in or below it.
        n: which of them, from 1.
        action: one of ACTIONS. kill: before the call. tear: half of it is done, if it
            writes, then likewise. fail: it and those after it have no effect and return
            `number`; with ENOSPC or EDQUOT only those that need room.
        number: a signal that kills, or an errno.
    """

    directory: pathlib.Path
    n: int = 0
    action: str = 'count'
    number: int = signal.SIGKILL


class Pause(typing.NamedTuple):
    """A place where a command waits for its fault.

    Attributes:
        place: 'module:function' or 'module:Class.function', before which it waits.
        nth: which call of it, from 1.
        ready: pathlib.Path of a file that appears when it waits.
        deaf_secs: for how long, at least, while Python sees no signals, as while
            TensorFlow computes; None: until the file is removed.
    """

    place: str
    nth: int
    ready: pathlib.Path
    deaf_secs: float | None = None


class Call(typing.NamedTuple):
    """A system call of a command: which one, on what file, renamed to what."""

    n: int
    name: str
    path: str
    to: str


class Outcome(typing.NamedTuple):
    """What became of a command.

    Attributes:
        code: of its exit; below 0, the signal that ended it.
        said: what it wrote to stdout and stderr.
        calls: list of Call, up to the one with the fault.
    """

    code: int
    said: str
    calls: list


def find_reason():
    """Return why faults cannot be injected here, or None."""
    if shutil.which('cc') is None:
        return 'no C compiler (cc)'
    try:
        build()
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


@functools.cache
def build():
    """Compile system_calls.c; return the file name of the library.

    Raises:
        RuntimeError: it does not compile, or the system does not let it work.
    """
    library = pathlib.Path(tempfile.mkdtemp(prefix='faults_'), 'system_calls.so')
    flags = ('-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC')
    compiler = subprocess.run(
        ['cc', *flags, '-o', str(library), str(FOLDER / 'system_calls.c')],
        capture_output=True,
        text=True,
    )
    if compiler.returncode:
        raise RuntimeError(f'system_calls.c does not compile: {compiler.stderr}')
    trial = start_server().Process(
        target=arm, args=(str(library), Fault(library.parent), '')
    )
    trial.start()
    trial.join()
    if trial.exitcode:
        raise RuntimeError('the system does not let a process trap its own calls')
    return str(library)


def arm(library, fault, log):
    """Let a fault wait in this process.

    Args:
        library: file name of the compiled system_calls.c.
        fault: a Fault.
        log: file for the calls, or ''.
    """
    code = ctypes.CDLL(library).arm(
        os.path.realpath(fault.directory).encode(),
        *(fault.n, ACTIONS.index(fault.action), int(fault.number), log.encode()),
    )
    if code:
        raise OSError(code, f'no seccomp filter: {os.strerror(code)}')


@functools.cache
def start_server():
    """Return the multiprocessing context of processes that have imported everything."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['everything'])
    with pytest.MonkeyPatch.context() as monkeypatch:
        paths = os.pathsep.join(map(str, (ROOT, ROOT / 'tests', FOLDER)))
        monkeypatch.setenv('PYTHONPATH', paths)
        multiprocessing.forkserver.ensure_running()
    return context


def start(
    command, argv, fault=None, log='', said=os.devnull, pause=None, env=(), kept=None
):
    """Start a command; return its Process.

    Args:
        command: such as 'train', a module with `main`.
        argv: list of str, its flags.
        fault: a Fault, or None.
        log: file that its calls are written to, if there is a fault.
        said: file that stdout and stderr go to.
        pause: a Pause, or None.
        env: {name: value}, added to the environment.
        kept: pathlib.Path of a directory for what is synced, or None; see keep.
    """
    library = build() if fault else None
    process = start_server().Process(
        target=be,
        args=(command, argv, fault, library, str(log), str(said), pause, dict(env)),
        kwargs={'kept': kept},
    )
    process.start()
    return process


def be(command, argv, fault, library, log, said, pause, env, kept=None):
    """Be a command; see start."""
    assert 'tensorflow' in sys.modules, 'everything.py is not imported in the server'
    # Of tests in the background of a script, the shell has SIGINT ignored, and nohup
    # SIGHUP.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    common = importlib.import_module('common')
    module = importlib.import_module(command)
    net = importlib.import_module('nets._mobilenet')
    net.SEPARABLE = ((8, 2),)  # As tiny_run.shrink_net.
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    if command == 'export':
        use_runtime_here(module)
    if command == 'embed':
        # Each batch is kept, not what half a minute has done; see stories.formats.
        importlib.import_module('embedding.blocks').SECS = (
            0 if '--resume' in argv else math.inf
        )
    sys.argv = [str(ROOT / f'{command}.py'), *argv]
    os.environ.update(env)
    if pause:
        wait_at(pause)
    if kept:
        keep(kept)
    if fault:
        arm(library, fault, log)
    common.run(module.main)


def keep(directory):
    """Let this process copy each file that it syncs to directory/1, directory/2, ..."""
    sync, numbers = os.fsync, itertools.count(1)

    def copy_and_sync(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            copy = directory / str(next(numbers))
            shutil.copyfile(f'/proc/self/fd/{descriptor}', copy)
        sync(descriptor)

    os.fsync = copy_and_sync


def use_runtime_here(export):
    """Let export.py check its files in this process.

    The filter of system calls would outlive what answers it in any other program.
    """
    parity, child = export._parity, importlib.import_module('deployment._child')

    class Here(parity.Child):
        def __enter__(self):
            self.run = child.deployment.load(self.name).load(self.target)
            return self

        def __exit__(self, *_):
            pass

        def embed(self, filename, batch_size=parity.BATCH_SIZE):
            return self.run(child.read_input(filename)), 1.0

    parity.Child = Here


def wait_at(pause):
    """Let this process wait at a Pause."""
    name, names = pause.place.split(':')
    *owners, name_of_function = names.split('.')
    owner = functools.reduce(getattr, owners, importlib.import_module(name))
    function = getattr(owner, name_of_function)
    calls = itertools.count(1)

    def wait_and_call(*args, **kwargs):
        if next(calls) == pause.nth:
            pause.ready.touch()
            if pause.deaf_secs is not None:
                # A million rounds take half a second.
                rounds = int(2e6 * pause.deaf_secs)
                hashlib.pbkdf2_hmac('sha256', b'', b'', rounds)
            while pause.deaf_secs is None and pause.ready.exists():
                time.sleep(0.01)
        return function(*args, **kwargs)

    setattr(owner, name_of_function, wait_and_call)


def start_until(pause, command, argv, said):
    """Start a command and wait until it has come to a Pause; return its Process."""
    pause.ready.unlink(missing_ok=True)
    process = start(command, argv, said=said, pause=pause)
    wait_for(pause.ready, {process: said})
    return process


def wait_for(path, said_of, timeout=math.inf):
    """Wait until a file is there; no process must end before.

    Args:
        path: pathlib.Path.
        said_of: {Process: file with what it says}.
        timeout: seconds.
    """
    deadline = time.monotonic() + timeout
    while not path.exists():
        for process, said in said_of.items():
            assert process.exitcode is None, pathlib.Path(said).read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(command, argv, fault=None, timeout=300, kept=None):
    """Run a command to its end; return the Outcome.

    Args:
        command, argv, fault, kept: see start.
        timeout: seconds, after which it is killed, and the test fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        log, said = pathlib.Path(directory, 'log'), pathlib.Path(directory, 'said')
        process = start(command, argv, fault, log, said, kept=kept)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            pytest.fail(
                f'{command} has not ended after {timeout} s: {said.read_text()}'
            )
        calls = read_calls(log) if fault else []
        return Outcome(process.exitcode, said.read_text(errors='replace'), calls)


def read_calls(log):
    """Return the list of Call of a log."""
    lines = pathlib.Path(log).read_text(errors='surrogateescape').split('\n')[:-1]
    cells = [line.split('\t') for line in lines]
    return [Call(int(n), *rest) for n, *rest in cells]
