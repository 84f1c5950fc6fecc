"""A job of bulk_embed.py on a cluster of this machine, whose actors are killed."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np

import bulk_embed
import embed
import embedding_files
import tiny_run

BAD = {'5_0.png': b'', '7_2.png': b'no image'}
NUM_PIDS = 80


def start(directory):
    """Train a run `root` on `train.csv` of 240 images, of which two are spoilt then."""
    tiny_run.write_dataset(directory, (3,) * NUM_PIDS)
    tiny_run.start(directory, directory / 'root', '--model_name', 'small_stripes')
    tiny_run.spoil(directory, BAD)


def find_reason():
    """Return why Ray cannot start a cluster here, or None."""
    trial = subprocess.run(
        [sys.executable, '-c', 'import ray; ray.init(include_dashboard=False)'],
        capture_output=True,
        text=True,
        timeout=180,
    )
    return f'Ray cannot start: {trial.stderr[-500:]}' if trial.returncode else None


def flags(directory, output):
    """Return the flags of a job of 80 parts."""
    return [
        *('--experiment_root', str(directory / 'root')),
        *('--input', str(directory / 'train.csv')),
        *('--output', str(output), '--batch_size', '3', '--rows_per_part', '2'),
        *('--flip_augment', '--aggregator', 'mean'),
    ]


def embed_alone(directory):
    """Return the embedding_files.Opened of embed.py with the batches of a job."""
    filename = directory / 'root' / 'expected.h5'
    embed.main(
        [
            *('--experiment_root', str(directory / 'root')),
            *('--dataset', str(directory / 'train.csv'), '--batch_size', '3'),
            *('--flip_augment', '--aggregator', 'mean', '--on_bad_image', 'skip'),
            *('--filename', str(filename), '--quiet'),
        ]
    )
    return embedding_files.open_embeddings(str(filename))


def compare(output, expected):
    """Check that a job's embeddings are those of embed.py, bit for bit.

    Args:
        output: pathlib.Path of the job's directory.
        expected: embedding_files.Opened, of embed_alone.

    Returns:
        The embedding_files.Opened of the job.
    """
    found = embedding_files.open_embeddings(str(output))
    np.testing.assert_array_equal(found.embs[:], expected.embs[:])
    assert (found.fids, found.pids) == (expected.fids, expected.pids)
    np.testing.assert_array_equal(found.skipped, expected.skipped)
    return found


def list_actors():
    """Return the numbers of the processes that embed for a job of this process."""
    found = []
    for process in pathlib.Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # It has just ended.
            command = (process / 'cmdline').read_bytes()
            if b'MapWorker(MapBatches(PartEmbedder))' in command and is_ours(process):
                found.append(int(process.name))
    return found


def is_ours(process):
    """Say whether a process, by its directory in /proc, descends from this one."""
    number = int(process.name)
    while number > 1:
        if number == os.getpid():
            return True
        status = pathlib.Path('/proc', str(number), 'status').read_text()
        (line,) = (line for line in status.splitlines() if line.startswith('PPid:'))
        number = int(line.split()[1])
    return False


def lose_actors(directory, output, delays):
    """Run a job to its end on two actors; kill one of them again and again.

    Args:
        directory: see start.
        output: pathlib.Path of the job's directory.
        delays: seconds after the first part, and then after each kill.

    Returns:
        int, how many were killed: the job may end before.
    """
    has_ended = threading.Event()
    killed = []

    def kill():
        while not (has_ended.is_set() or list(output.glob('part-*.parquet'))):
            time.sleep(0.005)
        for secs in delays:
            has_ended.wait(secs)
            actors = list_actors()
            while not (actors or has_ended.wait(0.005)):
                actors = list_actors()  # Another one is just started.
            if has_ended.is_set():
                break
            os.kill(actors[len(killed) % len(actors)], signal.SIGKILL)
            killed.append(actors)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        bulk_embed.main([*flags(directory, output), '--num_actors', '2', '--quiet'])
    finally:
        has_ended.set()
        killer.join()
    return len(killed)
