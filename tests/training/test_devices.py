"""Training on several devices: the same numbers as on one, and ends that are clean."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf

import batches
import checkpoints
import common
import datasets
import distributed_run
import tiny_run
import train
from distributed_run import describe_cluster, free_ports
from run_files import list_names
from training import flags, resuming, watchdog, workers
from training.replicas import Replicas

# Four steps; the fourth learning rate of a run of four has begun to decay.
FLAGS = (
    *('--train_iterations', '4', '--decay_start_iteration', '2'),
    *('--checkpoint_frequency', '1', '--flip_augment', '--detailed_logs'),
)
# The decay takes 0.3 % off the weights per step, so that a second one would be seen.
ADAMW = ('--optimizer', 'adamw', '--weight_decay', '10', '--adam_beta1_at_decay', '0.5')


pytestmark = pytest.mark.usefixtures('one_block_net')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Return a directory with train.csv: four PIDs of three images."""
    directory = tmp_path_factory.mktemp('data')
    tiny_run.write_dataset(directory)
    return directory


@pytest.fixture(scope='module')
def frozen(data, tmp_path_factory):
    """Return the root of a run of AdamW on one device, its batch norm frozen."""
    root = tmp_path_factory.mktemp('one') / 'frozen'
    with pytest.MonkeyPatch.context() as monkeypatch:
        distributed_run.freeze_batch_norm(monkeypatch)
        tiny_run.start(data, root, *FLAGS, *ADAMW)
    return root


@pytest.fixture(scope='module')
def single(data, tmp_path_factory):
    """Return the root of a run on one device."""
    root = tmp_path_factory.mktemp('one') / 'single'
    tiny_run.start(data, root, *FLAGS)
    return root


@pytest.fixture(scope='module')
def mirrored(data, tmp_path_factory):
    """Return the directory of three runs on two devices of one process."""
    directory = tmp_path_factory.mktemp('mirrored')
    more = [*FLAGS, '--distribute', 'mirrored']
    process = launch(
        2,
        *('--freeze', *tiny_run.flags(data, directory / 'frozen', *more, *ADAMW)),
        '--then',
        *(*tiny_run.flags(data, directory / 'apart', *more, *validate(data)), '--then'),
        *tiny_run.flags(data, directory / 'together', *more, '--sync_batch_norm'),
    )
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    return directory


@pytest.fixture(scope='module')
def stopped_together(data, tmp_path_factory):
    """Return (root, stderr of both) of two workers of which the second got SIGTERM."""
    root = tmp_path_factory.mktemp('workers') / 'stopped'
    more = [*FLAGS, '--distribute', 'multi_worker', '--sync_batch_norm']
    more += ['--train_iterations', '100000', '--decay_start_iteration', '-1']
    more += validate(data)
    workers = launch_workers(tiny_run.flags(data, root, *more))
    wait_for(root / 'checkpoint-4.index', workers)
    workers[1].send_signal(signal.SIGTERM)
    outputs = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    return root, outputs


def validate(data):
    """Return the flags of a validation after each other iteration."""
    csv_file = str(data / 'train.csv')
    return ['--val_set', csv_file, '--val_excluder', 'diagonal', '--val_every', '2']


def launch(num_devices, *argv, **env):
    """Start distributed_run.py; return its process, its stderr being a pipe."""
    return subprocess.Popen(
        [sys.executable, distributed_run.__file__, str(num_devices), *argv],
        env=os.environ | {'PYTHONPATH': str(tiny_run.ROOT)} | env,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch_workers(argv):
    """Start two workers with the same flags; return their processes."""
    addresses = [f'127.0.0.1:{port}' for port in free_ports(2)]
    return [
        launch(1, *argv, TF_CONFIG=describe_cluster(index, worker=addresses))
        for index in range(2)
    ]


def wait_for(path, processes):
    """Wait until a file is there, or a process has ended too early."""
    while not path.exists():
        assert all(process.poll() is None for process in processes), [
            process.communicate()[1] for process in processes
        ]
        time.sleep(0.1)


def read_losses(root, steps):
    """Return the losses of --detailed_logs, [steps, B]."""
    return np.fromfile(root / 'losses', np.float32).reshape(-1, 4)[:steps]


def assert_close_states(ours, expected, step):
    """Compare losses, weights, moving averages, and as Adam's moments the gradients."""
    np.testing.assert_allclose(
        read_losses(ours, step), read_losses(expected, step), rtol=1e-5
    )
    ours, expected = (tiny_run.read_checkpoint(r, step) for r in (ours, expected))
    assert set(ours) == set(expected)
    # Adding a constant to all embeddings changes no distance: this gradient is noise,
    # which Adam scales up.
    for name in set(ours) - {'emb/biases'}:
        slot = name.rpartition('/')[2]
        # Where terms cancel, as in a gradient through batch norm, the digits of the
        # sum are those of the terms: the measure is the largest gradient of all.
        atol = 1e-6
        if slot.startswith('Adam'):
            moments = [np.abs(expected[n]).max() for n in expected if n.endswith(slot)]
            atol = 1e-5 * max(moments)
        np.testing.assert_allclose(
            ours[name], expected[name], rtol=1e-5, atol=atol, err_msg=name
        )


# --- two devices of one process ----------------------------------------------------


def test_with_frozen_batch_norm_adamw_learns_on_two_devices_what_it_learns_on_one(
    mirrored, frozen
):
    assert_close_states(mirrored / 'frozen', frozen, 4)


def test_with_synchronised_batch_norm_two_devices_learn_what_one_learns(
    mirrored, single
):
    assert_close_states(mirrored / 'together', single, 4)


def test_batch_norm_of_each_device_sees_its_own_images(mirrored, single):
    losses, others = (read_losses(r, 1) for r in (mirrored / 'apart', single))
    assert np.abs(losses - others).max() > 1e-3


def test_moving_averages_are_the_mean_over_the_devices(data, mirrored, single):
    # The mean of the first layer's inputs over two halves of a batch is that over the
    # whole of it; the mean of their variances is not that of the whole.
    layer = 'MobilenetV1/Conv2d_0/BatchNorm'
    ours, one = (
        tiny_run.read_checkpoint(root, 1) for root in (mirrored / 'apart', single)
    )
    for name, is_same in (('moving_mean', True), ('moving_variance', False)):
        a, b = ours[f'{layer}/{name}'], one[f'{layer}/{name}']
        assert np.allclose(a, b, rtol=1e-5, atol=1e-7) == is_same


def test_validation_goes_with_several_devices(mirrored, stopped_together):
    for root in (mirrored / 'apart', stopped_together[0]):
        log = (root / 'train.log').read_text()
        # PIDs that are trained on are warned of, and scored.
        assert 'validation PIDs are also trained on' in log
        assert json.loads((root / 'best.json').read_text())['mAP'] > 0
        assert checkpoints.exists(checkpoints.find(str(root), 'best'))


def test_names_in_checkpoints_do_not_depend_on_the_devices(mirrored, single):
    names = [set(tiny_run.read_checkpoint(r, 4)) for r in (mirrored / 'apart', single)]
    assert names[0] == names[1]


def test_run_on_two_devices_goes_on_on_one(mirrored, single, tmp_path):
    root = tmp_path / 'exp'
    copy_run(mirrored / 'together', root, 2)
    tiny_run.resume(root, '--distribute', 'none')
    assert json.loads((root / 'args.json').read_text())['distribute'] == 'none'
    assert_close_states(root, single, 4)


def copy_run(source, root, step):
    """Copy a run as it was after `step` iterations."""
    shutil.copytree(source, root)
    for path in root.glob('checkpoint-*'):
        if int(path.name.split('-')[1].split('.')[0]) > step:
            path.unlink()
    (root / 'checkpoint').write_text(f'model_checkpoint_path: "checkpoint-{step}"\n')


def test_one_device_is_told_that_nothing_changes(data, single, tmp_path):
    tiny_run.start(data, tmp_path / 'exp', *FLAGS, '--distribute', 'mirrored')
    log = (tmp_path / 'exp' / 'train.log').read_text()
    assert '--distribute mirrored changes nothing: there is one device only' in log
    assert_close_states(tmp_path / 'exp', single, 4)


def test_batch_that_cannot_be_split_evenly_is_refused():
    replicas = Replicas()
    replicas.num_replicas = 3
    replicas.check_batch_size(6)
    with pytest.raises(
        ValueError, match=r'8 images .* evenly over 3 devices; choose a'
    ):
        replicas.check_batch_size(8)


def test_float16_is_refused_on_several_devices(capsys, data, tmp_path):
    more = ['--distribute', 'mirrored', '--precision', 'float16']
    with pytest.raises(SystemExit):
        train.main(tiny_run.flags(data, tmp_path / 'exp', *more))
    assert 'float16 cannot be trained with --distribute mirrored; choose bfloat16' in (
        capsys.readouterr().err
    )


def test_processes_read_consecutive_parts_of_a_batch():
    parts = [
        Replicas.part(
            types.SimpleNamespace(num_replicas=4, num_local=2, first_local=first), 12
        )
        for first in (0, 2)
    ]
    assert parts == [slice(0, 6), slice(6, 12)]


# --- two processes -----------------------------------------------------------------


def test_sigterm_to_one_worker_stops_both_with_one_checkpoint(stopped_together):
    root, outputs = stopped_together
    last = int(checkpoints.latest(str(root)).rpartition('-')[2])
    assert f'stopped after iteration {last}; continue with' in outputs[0]
    assert len(list(root.glob('checkpoint-*.index'))) == last + 1  # Step 0 included.


def test_only_the_first_worker_reports_and_writes(stopped_together):
    root, outputs = stopped_together
    assert 'iter:     1, loss' in outputs[0]
    assert 'iter:' not in outputs[1]
    assert 'variables' not in outputs[1]
    assert len(list(root.glob('events.out.*'))) == 1
    lines = (root / 'train.log').read_text().splitlines()
    assert len([line for line in lines if 'iter:     1,' in line]) == 1
    assert not list(root.glob('*temp*'))


def test_two_workers_learn_what_one_device_learns(stopped_together, single):
    root, _ = stopped_together
    # Both rates are those before the decay.
    assert_close_states(root, single, 2)


@pytest.mark.parametrize('victim', [0, 1])
def test_loss_of_a_worker_ends_the_other_and_spares_the_checkpoints(
    frozen, tmp_path, victim
):
    root = tmp_path / 'exp'
    copy_run(frozen, root, 2)
    argv = ['--experiment_root', str(root), '--resume', '--distribute', 'multi_worker']
    argv += ['--train_iterations', '100000']
    workers = launch_workers(['--freeze', *argv])
    # The file `checkpoint` names the newest only after that has been written: with the
    # fifth there, it names the fourth at least.
    wait_for(root / 'checkpoint-5.index', workers)
    workers[victim].kill()
    stderr = workers[1 - victim].communicate(timeout=60)[1]
    workers[victim].communicate()
    assert workers[1 - victim].returncode == 1
    line = stderr.splitlines()[-1]
    assert f'error: worker {victim} (127.0.0.1:' in line
    assert line.endswith(
        'is gone; its own output may say why. Start all workers again and continue '
        'with --resume from the last checkpoint'
    )
    assert not any('Traceback' in line for line in stderr.splitlines())
    # Resumed on two workers after one device: the same losses; and what the killed
    # ones left behind can be resumed on one device.
    np.testing.assert_allclose(read_losses(root, 3), read_losses(frozen, 3), rtol=1e-5)
    latest = checkpoints.latest(str(root))
    step = int(latest.rpartition('-')[2])
    assert step >= 4
    stored = json.loads((root / 'args.json').read_text())
    (root / 'args.json').write_text(json.dumps(stored | {'train_iterations': step + 1}))
    tiny_run.resume(root, '--distribute', 'none')
    assert (root / f'checkpoint-{step + 1}.index').is_file()


def test_image_that_one_worker_cannot_read_costs_no_iteration(monkeypatch, tmp_path):
    distributed_run.freeze_batch_norm(monkeypatch)
    images = tmp_path / 'images'
    images.mkdir()
    tiny_run.write_dataset(images, num_images=(2,) * 20)
    pids, fids = datasets.read(images / 'train.csv')[:2]
    tiny_run.start(images, tmp_path / 'whole', *FLAGS)
    # Of the last of four batches the second worker reads the second PID, which is in no
    # other batch.
    row = batches.Sampler(pids, 2, 2, seed=1).draw(3)[2]
    bad = images / fids[row]
    content = bad.read_bytes()
    bad.write_bytes(b'no image')
    root = tmp_path / 'exp'
    more = [*FLAGS, '--checkpoint_frequency', '0', '--distribute', 'multi_worker']
    pair = launch_workers(['--freeze', *tiny_run.flags(images, root, *more)])
    outputs = [worker.communicate(timeout=300)[1] for worker in pair]
    assert [worker.returncode for worker in pair] == [1, 1], outputs
    last = [output.splitlines()[-1] for output in outputs]
    said = f'{bad} is not a readable image ('
    assert last[1].startswith(f'distributed_run.py: error: {said}')
    assert re.match(
        r'distributed_run\.py: error: worker 1 \(127\.0\.0\.1:\d+\) has failed: '
        + re.escape(said),
        last[0],
    )
    assert not any('Traceback' in output for output in outputs)
    assert list_names(root, 'checkpoint-*.index') == [
        *('checkpoint-0.index', 'checkpoint-3.index'),
    ]
    assert_close_states(root, tmp_path / 'whole', 3)
    bad.write_bytes(content)
    tiny_run.resume(root, '--distribute', 'none')
    assert_close_states(root, tmp_path / 'whole', 4)


def test_failure_of_another_worker_is_told_and_our_own_stays_what_it_is():
    def end(index, failure, reasons):
        def exchange(reason):
            assert reason == reasons[index]
            return reasons

        process = object.__new__(workers.Workers)
        cluster = workers.Cluster(['a:1', 'b:2', 'c:3'], index)
        process.watchdog = watchdog.Watchdog(cluster)
        process.exchange = exchange
        process.end_together(failure)
        return process.ends_together

    unknown = 'its own output says why'
    assert not end(0, None, [None, None, None])
    with pytest.raises(workers.WorkerError) as told:
        end(0, None, [None, unknown, 'x.png'])
    assert str(told.value) == f'worker 1 (b:2) has failed: {unknown}'
    with pytest.raises(common.InputError, match=r'^x\.png$'):
        end(2, common.InputError('x.png'), [None, unknown, 'x.png'])
    with pytest.raises(ZeroDivisionError):
        end(1, ZeroDivisionError(), [None, unknown, 'x.png'])


def test_worker_with_other_flags_is_named():
    cluster = workers.Cluster(['a:1', 'b:2'], 0)
    others = {'--batch_k': 4, '--batch_p': 10}
    process = types.SimpleNamespace(
        cluster=cluster, exchange=lambda values: [values, others]
    )
    with pytest.raises(
        ValueError,
        match='^--batch_p is 18 on worker 0 and 10 on worker 1; use the same$',
    ):
        workers.Workers.check_same(
            process, lambda: {'--batch_k': 4, '--batch_p': 18}, 'use the same'
        )


def test_flags_are_compared_without_directories_and_data_by_content(data, tmp_path):
    shared = []
    for directory in (data, shutil.copytree(data, tmp_path / 'copy')):
        argv = tiny_run.flags(directory, tmp_path / 'exp')
        args = flags.parse_args(train.__doc__, argv).args
        pids, fids = datasets.read(directory / 'train.csv')[:2]
        shared.append(resuming.to_share(vars(args), pids, fids))
    assert shared[0] == shared[1]
    assert {'--seed', '--batch_p', '--train_set', '--resume'} <= set(shared[0])
    fids[0] = 'other.png'
    assert resuming.to_share(vars(args), pids, fids) != shared[0]


# --- TF_CONFIG and ports -----------------------------------------------------------


def test_chief_and_workers_are_numbered_in_order():
    jobs = {'chief': ['a:1'], 'worker': ['b:2', 'c:3']}
    cluster = workers.read_cluster(describe_cluster(1, **jobs))
    assert cluster == (['a:1', 'b:2', 'c:3'], 2)
    assert not cluster.is_chief
    assert workers.read_cluster(describe_cluster(0, 'chief', **jobs)).is_chief


@pytest.mark.parametrize(
    'config, message',
    [
        (
            None,
            'needs the environment variable TF_CONFIG, .* for the first of two: {"c',
        ),
        ('{', r"TF_CONFIG is '\{' \(JSONDecodeError: .*; expected something like"),
        ('{"cluster": {}}', r"\(KeyError: 'task'\); expected something like {"),
        (describe_cluster(0, worker=['here']), 'ValueError: .* expected something'),
        (describe_cluster(2, worker=['a:1', 'b:2']), 'makes this process worker 2; '),
        (describe_cluster(0, worker=['a:1'], ps=['b:2']), 'has the jobs worker, ps'),
    ],
)
def test_bad_tf_config_is_refused_with_an_example(
    capsys, monkeypatch, data, tmp_path, config, message
):
    monkeypatch.delenv('TF_CONFIG', raising=False)
    if config is not None:
        monkeypatch.setenv('TF_CONFIG', config)
    argv = tiny_run.flags(data, tmp_path / 'exp', '--distribute', 'multi_worker')
    with pytest.raises(SystemExit) as stop:
        train.main(argv)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert '"worker": ["10.0.0.1:2222"' in line
    assert not (tmp_path / 'exp').exists()


def test_port_in_use_is_named():
    with socket.create_server(('', 0)) as server:
        port = server.getsockname()[1]
        cluster = workers.Cluster([f'127.0.0.1:{port}'], 0)
        with pytest.raises(OSError, match=f'cannot listen on port {port} .* choose an'):
            workers.check_port(cluster)


def test_watchdog_tells_who_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(watchdog, 'SECS_BETWEEN_PROBES', 1)
    there, free = (f'127.0.0.1:{port}' for port in free_ports(2))
    server = tf.distribute.Server({'worker': [there]}, protocol='grpc')
    # The system accepts connections for a process that is stopped, and all is silent.
    with socket.create_server(('127.0.0.1', 0)) as listening:
        stopped = f'127.0.0.1:{listening.getsockname()[1]}'
        own = '127.0.0.1:1'  # Not probed.
        dog = watchdog.Watchdog(workers.Cluster([there, own, stopped, free], 1))
        assert dog.find_missing() == [2, 3]
        assert dog.find_first_gone() == 2
        todo = 'Start all workers again and continue with --resume from the last che'
        assert dog.describe(2).startswith(
            f'worker 2 ({stopped}) does not answer: it is stopped, or hangs; end it. '
            f'{todo}'
        )
        assert dog.describe(3).startswith(
            f'worker 3 ({free}) is gone; its own output may say why. {todo}'
        )
        dog.say_who_is_missing()
        assert capsys.readouterr().err == (
            f'waiting for worker 2 ({stopped}), worker 3 ({free})\n'
        )
    del server


def test_watchdog_ends_a_process_whose_tensorflow_notices_nothing(monkeypatch):
    said = []
    monkeypatch.setattr(watchdog, 'SECS_BETWEEN_PROBES', 0.01)
    monkeypatch.setattr(watchdog, 'GRACE_SECS', 0.01)
    cluster = workers.Cluster([f'127.0.0.1:{port}' for port in free_ports(2)], 0)
    dog = watchdog.Watchdog(cluster)
    monkeypatch.setattr(
        watchdog, 'leave', lambda message: (said.append(message), dog.stop())
    )
    dog.watch()
    assert len(said) == 1
    assert said[0].startswith('worker 1 (127.0.0.1:')


LEAVE = """
import sys, common
from training import watchdog

sys.argv[0] = 'train.py'
common.setup_logging(sys.argv[1])
watchdog.leave('worker 1 (10.0.0.2:2222) is gone')
"""


def test_watchdog_says_in_the_log_too_why_it_ends_a_process(tmp_path):
    process = subprocess.run(
        [sys.executable, '-c', LEAVE, str(tmp_path / 'train.log')],
        cwd=tiny_run.ROOT,
        capture_output=True,
        text=True,
    )
    message = 'worker 1 (10.0.0.2:2222) is gone'
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == f'train.py: error: {message}'
    log = (tmp_path / 'train.log').read_text(encoding='utf-8')
    assert log.splitlines()[-1].endswith(f' ERROR {message}')
