"""Three workers, of which one fails: the others say so and end, and fewer go on."""

import contextlib
import ctypes
import errno
import os
import random
import re
import signal
import socket
import stat
import time

import doomed
import pytest
import stories

import checkpoints
import run_files
import tiny_run
from distributed_run import describe_cluster, free_ports

FAULTS = (
    'SIGKILL of one of three workers',
    'SIGSTOP of one of three workers',
    'one of three workers disconnected',
)

NUM_WORKERS = 3
NUM_TIMES = 7  # Of each kind.

# One is harmed after one of these files is there, in turn: the workers have met, or
# trained. The moment is at random up to so many seconds later.
MOMENTS = (('args.json', 1), ('checkpoint-1.index', 3))

# The number of the system call that copies a descriptor of another process.
PIDFD_GETFD = 438

# What a worker says that has lost another one.
NAMED = re.compile(
    r'train\.py: error: worker (\d) \([^)]+\) '
    r'(is gone; its own output may say why|does not answer: it is stopped, or hangs; '
    r'end it)\. Start all workers again and continue with --resume from the last '
    r'checkpoint$'
)

# Until the others have noticed: see training/watchdog.py.
MOST_SECS = 60


def launch(argv, number, directory):
    """Start workers with the same flags; return their processes.

    What the worker of index i says is in said-i in `directory`.
    """
    addresses = [f'127.0.0.1:{port}' for port in free_ports(number)]
    return [
        doomed.start(
            'train',
            argv,
            said=directory / f'said-{index}',
            env={'TF_CONFIG': describe_cluster(index, worker=addresses)},
        )
        for index in range(number)
    ]


def kill(process):
    process.kill()


def stop(process):
    os.kill(process.pid, signal.SIGSTOP)


def disconnect(process):
    """Close a process's connections and the port that it listens at."""
    pidfd, call = os.pidfd_open(process.pid), ctypes.CDLL(None, use_errno=True).syscall
    for name in os.listdir(f'/proc/{process.pid}/fd'):
        copied = call(PIDFD_GETFD, pidfd, int(name), 0)
        if copied < 0:
            code = ctypes.get_errno()
            if code == errno.EBADF:  # It has been closed since: a file of images.
                continue
            raise OSError(code, os.strerror(code))
        if not stat.S_ISSOCK(os.fstat(copied).st_mode):
            os.close(copied)
            continue
        with socket.socket(fileno=copied) as shared, contextlib.suppress(OSError):
            if shared.family in (socket.AF_INET, socket.AF_INET6):
                shared.shutdown(socket.SHUT_RDWR)
    os.close(pidfd)


@pytest.mark.parametrize(
    'harm, fault, how',
    [
        pytest.param(harm, fault, how, marks=pytest.mark.slow_fault(fault), id=fault)
        for harm, fault, how in zip(
            (kill, stop, disconnect),
            FAULTS,
            ('kill -9', 'kill -STOP', 'its sockets shut down'),
            strict=True,
        )
    ],
)
def test_lost_worker_is_named_and_fewer_go_on(
    data, tmp_path, harm, fault, how, reliability
):
    rng = random.Random(fault)  # How far they get until then differs anyway.
    most_secs, num_early = 0, 0
    for number in range(NUM_TIMES):
        root = tmp_path / f'exp{number}'
        victim = number % NUM_WORKERS
        workers = launch(run_flags(data, root), NUM_WORKERS, tmp_path)
        said_of = {w: tmp_path / f'said-{i}' for i, w in enumerate(workers)}
        filename, most_later = MOMENTS[number % 2]
        doomed.wait_for(root / filename, said_of)
        time.sleep(rng.uniform(0, most_later))
        num_early += not find_step(root)
        started = time.monotonic()
        harm(workers[victim])
        others = [worker for worker in range(NUM_WORKERS) if worker != victim]
        for worker in others:
            workers[worker].join(MOST_SECS)
            most_secs = max(most_secs, time.monotonic() - started)
        workers[victim].kill()
        workers[victim].join()
        check_end({w: workers[w].exitcode for w in others}, tmp_path, victim)
        # Each number after each of the moments.
        go_on_with_fewer(data, root, 1 + number // 2 % 2, tmp_path)
    reliability.add(
        fault=fault,
        times=NUM_TIMES,
        how=f'{how}, at a random moment of the first seconds of a run, or after its '
        f'first iteration ({num_early} before that is saved); resumed, or begun again, '
        'with one worker or two',
        lost='iterations since the last checkpoint',
        seen='the others end with exit code 1 and: worker 1 (HOST:PORT) is gone, or '
        f'does not answer; at most {most_secs:.0f} s later',
    )


# SIGTERM is TensorFlow's meanwhile: see workers.Workers.meet.
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP])
def test_signal_ends_a_worker_that_waits_for_the_others(data, tmp_path, number):
    addresses = [f'127.0.0.1:{port}' for port in free_ports(2)]
    said = tmp_path / 'said'
    process = doomed.start(
        'train',
        run_flags(data, tmp_path / 'exp'),
        said=said,
        env={'TF_CONFIG': describe_cluster(0, worker=addresses)},
    )
    doomed.wait_for(said, {process: said}, MOST_SECS)
    deadline = time.monotonic() + MOST_SECS
    while 'waiting for worker 1' not in said.read_text():
        assert process.exitcode is None, said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)  # TensorFlow waits, too.
    os.kill(process.pid, number)
    process.join(2)
    code = process.exitcode
    process.kill()
    assert code == -number


def run_flags(data, root):
    """Return the flags of a run that does not end by itself."""
    return [
        *tiny_run.flags(data, root, '--train_iterations', '100000'),
        *('--batch_p', '3', '--checkpoint_frequency', '1', '--keep_checkpoints', '3'),
        *('--val_set', str(data / 'train.csv'), '--val_excluder', 'diagonal'),
        *('--val_every', '2', '--distribute', 'multi_worker'),
    ]


def check_end(codes, directory, victim):
    """Check how the workers ended that were left.

    Args:
        codes: {worker: its exit code}; None: it did not end.
        directory: see launch.
        victim: index of the one that was lost.
    """
    said = {worker: directory / f'said-{worker}' for worker in codes}
    texts = {worker: path.read_text() for worker, path in said.items()}
    assert set(codes.values()) == {1}, (codes, texts)
    assert not any('Traceback' in text for text in texts.values()), texts
    named = {}
    for worker, text in texts.items():
        line = NAMED.match(text.splitlines()[-1])
        assert line, texts
        named[worker] = int(line[1])
    # Who notices last may find gone who has noticed before, and ended with its line.
    ended = {worker: path.stat().st_mtime for worker, path in said.items()}
    for worker, other in named.items():
        is_gone = other in codes and ended[other] < ended[worker]
        assert other == victim or is_gone, texts
    assert victim in named.values(), texts


def find_step(root):
    """Return the step of a run's last checkpoint, or None where it has none."""
    if not (root / 'checkpoint').exists():
        return None
    return int(checkpoints.latest(str(root)).rpartition('-')[2])


def go_on_with_fewer(data, root, number, directory):
    """Resume a run for one more iteration, on some workers; begin it if it has not."""
    assert not stories.find_damage(root)
    how = ['--distribute', 'multi_worker' if number > 1 else 'none']
    step = find_step(root)
    if step is None:
        step = 0
        argv = [*run_flags(data, root), '--train_iterations', '1', *how]
    else:
        run_files.change_args(root, train_iterations=step + 1)
        argv = [*stories.resume_flags(root), *how]
    processes = launch(argv, number, directory)
    for index, process in enumerate(processes):
        process.join(120)
        assert process.exitcode == 0, (directory / f'said-{index}').read_text()
    assert (root / f'checkpoint-{step + 1}.index').exists()
    assert not stories.find_damage(root)
