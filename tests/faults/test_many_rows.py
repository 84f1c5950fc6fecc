"""A data set of a million rows goes through the commands, and comes out right."""

import json
import os
import shutil

import doomed
import h5py
import numpy as np
import pytest
from test_long import measure

import tiny_run

FAULTS = ('CSV of a million rows',)

NUM_ROWS, NUM_PIDS = 1_000_000, 1000
NUM_QUERIES = 100

# Memory that a command may take at most, MB. With few rows it is 320 to 440; a row of a
# CSV and its path, as Python strings, take 0.25 kB.
MOST_MB = 1500


def run(command, argv, said):
    """Run a command, which must succeed; return the MB that it took at most."""
    process = doomed.start(command, argv, said=said)
    most = 0.0
    while process.exitcode is None:
        needs = measure(process.pid)
        most = max(most, needs.megabytes if needs else 0.0)
        process.join(0.05)
    assert process.exitcode == 0, said.read_text()
    assert most < MOST_MB, (command, most)
    return most


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
    # One image has one embedding, and an embedding in another's row would be noticed.
    assert within < between.min() / 10


@pytest.mark.slow_fault(FAULTS[0])
def test_a_million_rows_are_listed_learnt_embedded_and_ranked(tmp_path, reliability):
    people, root = tmp_path / 'people', tmp_path / 'exp'
    lines = draw_people(people)
    said, most = tmp_path / 'said', {}
    argv = ['folder', str(people), '--output_dir', str(tmp_path), '--prefix', 'many']
    most['make_csv.py'] = run('make_csv', argv, said)
    every, some = tmp_path / 'many_all.csv', tmp_path / 'some.csv'
    assert every.read_text() == ''.join(lines)
    some.write_text(''.join(lines[:: NUM_ROWS // NUM_QUERIES]))

    flags = ('--train_set', str(every), '--image_root', str(people))
    argv = tiny_run.flags(tmp_path, root, *flags, '--train_iterations', '1')
    most['train.py'] = run('train', argv, said)
    files = {}
    for name in (some, every):
        files[name] = root / f'{name.stem}.h5'
        argv = ['--experiment_root', str(root), '--dataset', str(name), '--quiet']
        argv += ['--filename', str(files[name])]
        most['embed.py'] = run('embed', argv, said)
    check_embeddings(files[every], lines)
    argv = ['--query_dataset', str(some), '--query_embeddings', str(files[some])]
    argv += ['--gallery_dataset', str(every)]
    argv += ['--gallery_embeddings', str(files[every]), '--excluder', 'diagonal']
    argv += ['--filename', str(tmp_path / 'scores.json'), '--quiet']
    most['evaluate.py'] = run('evaluate', argv, said)
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert (scores['mAP'], scores['CMC'][0]) == (1, 1)
    reliability.add(
        fault=FAULTS[0],
        times=1,
        how=f'{NUM_ROWS:,} images of {NUM_PIDS:,} PIDs: listed, learnt from for an '
        f'iteration, embedded, and ranked for {NUM_QUERIES} queries',
        lost='nothing',
        seen='memory of at most '
        + ', '.join(f'{size:.0f} MB ({name})' for name, size in most.items()),
    )
    # The names are many.
    shutil.rmtree(people)
