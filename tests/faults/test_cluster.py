"""Three workers, of which one fails: the others say so and end, and fewer go on."""

import contextlib
import ctypes
import os
import random
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

# The number of the system call that copies a descriptor of another process.
PIDFD_GETFD = 438

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
    most_secs = 0
    for number in range(NUM_TIMES):
        root = tmp_path / f'exp{number}'
        victim = number % NUM_WORKERS
        workers = launch(run_flags(data, root), NUM_WORKERS, tmp_path)
        said_of = {w: tmp_path / f'said-{i}' for i, w in enumerate(workers)}
        doomed.wait_for(root / 'checkpoint-1.index', said_of)
        time.sleep(rng.uniform(0, 1))
        started = time.monotonic()
        harm(workers[victim])
        others = [worker for worker in range(NUM_WORKERS) if worker != victim]
        for worker in others:
            workers[worker].join(MOST_SECS)
            most_secs = max(most_secs, time.monotonic() - started)
        workers[victim].kill()
        workers[victim].join()
        texts = [(tmp_path / f'said-{worker}').read_text() for worker in others]
        check_end([workers[worker].exitcode for worker in others], texts, victim)
        go_on_with_fewer(root, 1 + number % 2, tmp_path)
    reliability.add(
        fault=fault,
        times=NUM_TIMES,
        how=f'{how}, within a second after the first checkpoint; resumed with one '
        'worker, or two',
        lost='iterations since the last checkpoint',
        seen='the others end with exit code 1 and: worker 1 (HOST:PORT) is gone, or '
        f'does not answer; at most {most_secs:.0f} s later',
    )


def run_flags(data, root):
    """Return the flags of a run that does not end by itself."""
    return [
        *tiny_run.flags(data, root, '--train_iterations', '100000'),
        *('--batch_p', '3', '--checkpoint_frequency', '1', '--keep_checkpoints', '3'),
        *('--distribute', 'multi_worker'),
    ]


def check_end(codes, texts, victim):
    """Check how the workers ended that were left.

    Args:
        codes: list of their exit codes; None: one did not end.
        texts: list of what they said.
        victim: index of the one that was lost.
    """
    assert codes == [1] * len(texts), texts
    lines = [text.splitlines()[-1] for text in texts]
    assert all(line.startswith('train.py: error: worker ') for line in lines), texts
    assert not any('Traceback' in text for text in texts), texts
    # Who notices last may find others gone that have noticed before.
    assert any(f'error: worker {victim} (' in line for line in lines), lines


def go_on_with_fewer(root, number, directory):
    """Resume a run for one more iteration, on some workers."""
    assert not stories.find_damage(root)
    step = int(checkpoints.latest(str(root)).rpartition('-')[2])
    run_files.change_args(root, train_iterations=step + 1)
    how = 'multi_worker' if number > 1 else 'none'
    argv = [*stories.resume_flags(root), '--distribute', how]
    processes = launch(argv, number, directory)
    for index, process in enumerate(processes):
        process.join(120)
        assert process.exitcode == 0, (directory / f'said-{index}').read_text()
    assert (root / f'checkpoint-{step + 1}.index').exists()
    assert not stories.find_damage(root)
