"""A data set of a million rows goes through every command, and comes out right."""

import os
import time
import typing

import doomed
import h5py
import numpy as np
import pytest
from test_long import measure

import tiny_run

FAULTS = ('CSV of a million rows',)

NUM_ROWS, NUM_PIDS = 1_000_000, 1000
NUM_QUERIES = 100

# Memory that a command may take at most, MB. What TensorFlow and its like need with
# few rows is in it, about 600; a million Python strings of an FID are 60.
MOST_MB = 2000


class Run(typing.NamedTuple):
    """What a command took: seconds, and MB at most, of those that were seen."""

    secs: float
    megabytes: float


def run(command, argv, said):
    """Run a command, which must succeed; return its Run."""
    started = time.monotonic()
    process = doomed.start(command, argv, said=said)
    most = 0.0
    while process.exitcode is None:
        needs = measure(process.pid)
        most = max(most, needs.megabytes if needs else 0.0)
        process.join(0.05)
    assert process.exitcode == 0, said.read_text()
    return Run(time.monotonic() - started, most)


def draw_people(folder):
    """Draw an image of noise for each PID, and give it many names.

    Returns:
        list of str, the lines of a CSV of them.
    """
    lines = []
    for number in range(NUM_PIDS):
        pid = f'{number:03}'
        (folder / pid).mkdir(parents=True)
        drawn = folder / pid / '0.png'
        tiny_run.write_noise(drawn, seed=number)
        for copy in range(1, NUM_ROWS // NUM_PIDS):
            os.link(drawn, folder / pid / f'{copy}.png')
        names = (f'{copy}.png' for copy in range(NUM_ROWS // NUM_PIDS))
        lines += [f'{pid},{pid}/{name}\n' for name in sorted(names)]
    return lines


def check_embeddings(filename, lines):
    """Check that a file of embeddings has a row for each line, and its own."""
    with h5py.File(filename) as file:
        embs = file['emb'][:]
        names = zip(file['pid'].asstr()[:], file['fid'].asstr()[:], strict=True)
        assert [f'{pid},{fid}\n' for pid, fid in names] == lines
    of_pids = embs.reshape(NUM_PIDS, NUM_ROWS // NUM_PIDS, -1)
    first = of_pids[:, :1]
    within = np.linalg.norm(of_pids - first, axis=-1).max()
    between = np.linalg.norm(first - first[:, 0], axis=-1)
    np.fill_diagonal(between, np.inf)
    print(within, between.min())
    # One image has one embedding, and an embedding in another's row would be noticed.
    assert within < between.min() / 10


@pytest.mark.slow_fault(FAULTS[0])
def test_a_million_rows_are_listed_learnt_embedded_and_ranked(tmp_path, reliability):
    people, root = tmp_path / 'people', tmp_path / 'exp'
    lines = draw_people(people)
    said, runs = tmp_path / 'said', []
    argv = ['folder', str(people), '--output_dir', str(tmp_path), '--prefix', 'many']
    runs.append(run('make_csv', argv, said))
    every, some = tmp_path / 'many_all.csv', tmp_path / 'some.csv'
    assert every.read_text() == ''.join(lines)
    some.write_text(''.join(lines[:: NUM_ROWS // NUM_QUERIES]))

    flags = ('--train_set', str(every), '--image_root', str(people))
    argv = tiny_run.flags(tmp_path, root, *flags, '--train_iterations', '1')
    runs.append(run('train', argv, said))
    files = {}
    for name in (every, some):
        files[name] = root / f'{name.stem}.h5'
        argv = ['--experiment_root', str(root), '--dataset', str(name), '--quiet']
        argv += ['--filename', str(files[name])]
        runs.append(run('embed', argv, said))
    check_embeddings(files[every], lines)
    argv = ['--query_dataset', str(some), '--query_embeddings', str(files[some])]
    argv += ['--gallery_dataset', str(every)]
    argv += ['--gallery_embeddings', str(files[every]), '--excluder', 'diagonal']
    runs.append(run('evaluate', argv, said))
    print(said.read_text(), runs)
    reliability.add(
        fault=FAULTS[0],
        times=NUM_ROWS,
        how='',
        lost='nothing',
        seen='',
    )
