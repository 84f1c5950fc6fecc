"""The commands end to end, as a user runs them: draw, train, interrupt, resume, embed.

Each test looks at one session of commands, whose fixtures stand in their order.
"""

import json
import re
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

import make_csv
import tiny_run
import train
from drawn_people.files import write_dataset

ITERATIONS = 40


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Return a directory with drawn images and the three CSVs of make_csv.py."""
    directory = tmp_path_factory.mktemp('pipeline')
    write_dataset(
        directory / 'images',
        num_train_pids=4,
        num_test_pids=3,
        num_distractors=2,
        num_junk=2,
    )
    make_csv.main(
        ['market1501', str(directory / 'images'), '--output_dir', str(directory)]
    )
    return directory


def command(name, *flags):
    """Return the words that run a command of ours."""
    return [sys.executable, str(tiny_run.ROOT / name), *map(str, flags)]


def run(*words, **kwargs):
    """Run a command that must succeed; return the finished process."""
    process = subprocess.run(
        command(*words), capture_output=True, text=True, check=False, **kwargs
    )
    assert process.returncode == 0, process.stderr
    return process


def train_flags(data, root):
    """Return the flags of a run with everything random in it."""
    return [
        *('--experiment_root', root, '--seed', '7', '--detailed_logs'),
        *('--train_set', data / 'market1501_train.csv'),
        *('--image_root', data / 'images', *tiny_run.model_flags()),
        *('--net_input_height', '64', '--net_input_width', '32'),
        *('--pre_crop_height', '72', '--pre_crop_width', '36'),
        *('--flip_augment', '--crop_augment', '--checkpoint_frequency', '0'),
        *('--train_iterations', ITERATIONS, '--decay_start_iteration', '2'),
    ]


@pytest.fixture(scope='module')
def uninterrupted(data):
    """Return the root of a run from beginning to end."""
    # In this process: one start of TensorFlow less to wait for.
    train.main([str(flag) for flag in train_flags(data, data / 'uninterrupted')])
    return data / 'uninterrupted'


@pytest.fixture(scope='module')
def interrupted(data):
    """Return (root, process, last line) of a run that got a SIGTERM on its way."""
    root = data / 'interrupted'
    process = subprocess.Popen(
        command('train.py', *train_flags(data, root)),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stderr:
            last_line = line
            if line.startswith('iter:     2,'):
                process.send_signal(signal.SIGTERM)
    return root, process, last_line


@pytest.fixture(scope='module')
def resumed(interrupted, tmp_path_factory):
    """Return the root of that run, moved elsewhere and brought to its end."""
    root = tmp_path_factory.mktemp('elsewhere') / 'moved'
    shutil.copytree(interrupted[0], root)
    run('train.py', '--experiment_root', 'moved', '--resume', cwd=root.parent)
    return root


def test_sigterm_leaves_a_checkpoint_and_says_how_to_resume(interrupted):
    root, process, last_line = interrupted
    assert process.returncode == 0
    found = re.fullmatch(
        r'stopped after iteration (\d+); continue with: python (.+)\n', last_line
    )
    assert 2 <= int(found[1]) < ITERATIONS
    assert found[2].endswith(f'train.py --experiment_root {root} --resume')
    assert (root / f'checkpoint-{found[1]}.index').is_file()


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(uninterrupted, resumed):
    ours = tiny_run.read_checkpoint(resumed, ITERATIONS)
    theirs = tiny_run.read_checkpoint(uninterrupted, ITERATIONS)
    names = set(theirs)
    assert names == set(ours)
    # Weights, moving averages, both moments of Adam, and the step.
    assert {'emb/weights', 'emb/weights/Adam', 'emb/weights/Adam_1'} < names
    assert theirs['global_step'] == ITERATIONS
    for name in names:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize('name', ['losses', 'embeddings', 'fids'])
def test_every_iteration_equals_that_of_the_uninterrupted_run(
    uninterrupted, resumed, name
):
    assert (resumed / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_log_lines_go_on_where_they_stopped(uninterrupted, resumed):
    ours, theirs = (
        re.findall(r'(iter: .*), ETA', (root / 'train.log').read_text())
        for root in (resumed, uninterrupted)
    )
    assert len(theirs) == ITERATIONS
    assert ours == theirs


@pytest.fixture(scope='module')
def embedded(data, resumed):
    """Return {name: HDF5 file} of query, embedded plainly, and of test, augmented."""
    plain = ['--experiment_root', resumed, '--batch_size', '7']
    process = run('embed.py', *plain, '--dataset', data / 'market1501_query.csv')
    assert f'checkpoint-{ITERATIONS}' in process.stderr
    files = {name: data / f'{name}.h5' for name in ('query', 'test')}
    shutil.copy(resumed / 'market1501_query_embeddings.h5', files['query'])
    more = ['--flip_augment', '--crop_augment', 'five', '--aggregator', 'mean']
    run(
        *('embed.py', *plain, *more, '--filename', files['test'], '--quiet'),
        *('--dataset', data / 'market1501_test.csv'),
    )
    return files


def test_embeddings_are_in_the_order_of_the_csv(data, embedded):
    for name, filename in embedded.items():
        csv_file = data / f'market1501_{name}.csv'
        rows = csv_file.read_text().splitlines()
        with h5py.File(filename) as file:
            assert file['emb'].shape == (len(rows), 8)
            assert file['emb'].dtype == np.float32
            pairs = zip(file['pid'].asstr(), file['fid'].asstr(), strict=True)
            assert [f'{pid},{fid}' for pid, fid in pairs] == rows


def test_augmented_embeddings_are_the_mean_of_ten(embedded):
    with h5py.File(embedded['test']) as file:
        assert file['emb_aug'].shape[0] == 10
        np.testing.assert_allclose(
            file['emb'][:], file['emb_aug'][:].mean(axis=0), 1e-5, 1e-7
        )


@pytest.fixture(scope='module')
def evaluated(data, embedded):
    """Return (process, JSON file) of the evaluation."""
    process = run(
        *('evaluate.py', '--excluder', 'market1501', '--metric', 'euclidean'),
        *('--query_dataset', data / 'market1501_query.csv'),
        *('--query_embeddings', embedded['query']),
        *('--gallery_dataset', data / 'market1501_test.csv'),
        *('--gallery_embeddings', embedded['test']),
        *('--filename', data / 'scores.json'),
    )
    return process, data / 'scores.json'


def test_scores_are_printed_and_written(evaluated):
    process, filename = evaluated
    scores = json.loads(filename.read_text(encoding='utf-8'))
    top = {k: f'top-{k}: {scores["CMC"][k - 1]:.2%}' for k in (1, 2, 5, 10)}
    assert process.stdout.splitlines()[0] == (
        f'mAP: {scores["mAP"]:.2%} | {top[1]} {top[2]} | {top[5]} | {top[10]}'
    )
    (line,) = process.stderr.splitlines()
    assert line.startswith('warning: the query set was embedded with no augmentation')
    # Three identities, a query from each of four cameras; all have matches.
    assert len(scores['aps']) == 12
    assert 0 < scores['mAP'] <= 1
