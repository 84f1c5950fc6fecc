"""A run that is stopped, or diverges."""

import logging
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import common
import loss
import tiny_run
import train
from run_files import assert_same_state, list_names, log_of
from training import journal, loop, optimizers

pytestmark = pytest.mark.usefixtures('one_block_net')


@pytest.fixture(autouse=True)
def hangup():
    """Let SIGHUP end a process, even if nohup runs the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_finishes_the_iteration_and_writes_a_checkpoint(
    monkeypatch, data, finished, tmp_path, number
):
    write = journal.Journal.write

    def write_and_interrupt(self, iteration):
        write(self, iteration)
        if iteration.step == 1:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    monkeypatch.setattr(journal.Journal, 'write', write_and_interrupt)
    root = tmp_path / 'an experiment'
    tiny_run.start(data, root, '--checkpoint_frequency', '0')
    assert signal.getsignal(number) == before
    indices = list_names(root, 'checkpoint-*.index')
    assert indices == ['checkpoint-0.index', 'checkpoint-1.index']
    last = log_of(root).splitlines()[-1]
    assert 'stopped after iteration 1; continue with: python ' in last
    assert last.endswith(f"--experiment_root '{root}' --resume")


def test_quiet_run_tells_its_log_alone(data, tmp_path, capsys):
    tiny_run.start(data, tmp_path / 'exp', '--quiet')
    assert capsys.readouterr().err == ''
    log = log_of(tmp_path / 'exp')
    assert 'iter:     2, loss' in log
    assert 'finished after 2 iterations' in log


# A step that does not return to Python, as TensorFlow's on a large net.
STUCK = """
import ctypes, sys
import common
common.start_tensorflow()
from training import loop

logger = common.setup_logging(sys.argv[1])
with loop.StopRequest(logger) as stop:
    stop.work = 'iteration 7'
    print('ready', flush=True)
    ctypes.CDLL(None).pause()
    ctypes.CDLL(None).sleep(600)
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_is_answered_at_once_and_a_second_ends_the_process(tmp_path, number):
    with subprocess.Popen(
        [sys.executable, '-c', STUCK, str(tmp_path / 'train.log')],
        cwd=tiny_run.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == 'ready\n'
        process.send_signal(number)
        answer = process.stderr.readline()
        assert answer == 'finishing iteration 7, then a checkpoint; again to stop now\n'
        process.send_signal(number)
        try:
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    stopped = 'stopped at once; --resume goes on from the last checkpoint'
    assert stopped in rest
    assert log_of(tmp_path).splitlines()[-1].endswith(f' ERROR {stopped}')
    assert process.returncode == 128 + number


def test_infinite_loss_stops_the_run_and_names_the_iteration(data, tmp_path):
    # One PID only: every anchor's nearest negative is infinitely far.
    more = ['--batch_p', '1', '--margin', 'none']
    with pytest.raises(
        common.InputError,
        match=r'^the loss became -inf in iteration 1, before any update: look at the '
        r'weights that the run starts with, at --loss, --margin, --batch_p and --bat',
    ):
        tiny_run.start(data, tmp_path / 'exp', *more)
    assert not (tmp_path / 'exp').exists()


@pytest.mark.parametrize(
    'frequency, message, kept',
    [
        # The third update ruins the weights; the fourth loss shows it.
        (
            '0',
            'embeddings are no longer finite in iteration 4; .*checkpoint-0',
            [0],
        ),
        ('1', 'no longer finite in iteration 3; .*checkpoint-2. Start anew', [0, 1, 2]),
    ],
)
def test_diverged_weights_are_no_checkpoint(
    monkeypatch, data, tmp_path, frequency, message, kept
):
    monkeypatch.setattr(
        optimizers, 'learning_rate_at', lambda step, *_: np.nan if step == 2 else 3e-4
    )
    more = ['--train_iterations', '9', '--checkpoint_frequency', frequency]
    with pytest.raises(ValueError, match=message):
        tiny_run.start(data, tmp_path / 'exp', *more)
    indices = list_names(tmp_path / 'exp', 'checkpoint-*.index')
    assert indices == [f'checkpoint-{step}.index' for step in kept]
    latest = checkpoints.latest(str(tmp_path / 'exp'))
    assert latest == str(tmp_path / 'exp' / f'checkpoint-{kept[-1]}')


@pytest.mark.parametrize('name', loss.LOSS_CHOICES)
def test_divergence_is_seen_with_every_loss(data, tmp_path, name):
    root = tmp_path / 'exp'
    more = ['--loss', name, '--margin', '1.0', '--learning_rate', '1e38']
    more += ['--train_iterations', '9', '--checkpoint_frequency', '0']
    with pytest.raises(common.InputError, match=r' in iteration [2-9]; the last good '):
        tiny_run.start(data, root, *more)
    assert list_names(root, 'checkpoint-*.index') == ['checkpoint-0.index']


def test_error_in_the_first_iteration_leaves_nothing_behind(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / 'data')
    for image in copy.glob('*.png'):
        image.write_bytes(b'no image')
    root = tmp_path / 'exp'
    with pytest.raises(common.InputError, match='is not a readable image') as error:
        tiny_run.start(copy, root)
    assert str(copy) in str(error.value)
    assert not root.exists()
    root.mkdir()  # Empty, and not ours to remove.
    with pytest.raises(common.InputError):
        tiny_run.start(copy, root)
    assert list_names(root, '*') == []


def test_no_tensor_of_an_iteration_is_kept(monkeypatch, data, tmp_path):
    """TensorFlow keeps those of Python's numbers, each value's, for ever."""
    constant, numbers = tf.constant, []

    def note_and_make(value, *args, **kwargs):
        numbers.append(value)
        return constant(value, *args, **kwargs)

    def note_step(self, iteration):
        numbers.append(tf.summary.experimental.get_step())

    monkeypatch.setattr(tf, 'constant', note_and_make)
    monkeypatch.setattr(journal.Histograms, 'report', note_step)
    tiny_run.start(data, tmp_path / 'exp', '--train_iterations', '5')
    steps = [value for value in numbers if isinstance(value, np.integer)]
    assert {1, 2, 3, 4} < set(steps)
    kept = {value for value in numbers if isinstance(value, int | float)}
    assert kept <= {0, 255, float('inf')}


def test_image_that_the_second_iteration_cannot_read_costs_not_the_first(
    monkeypatch, data, tmp_path
):
    read, batches_read = loop.Supply.read, []

    def read_once(self):
        read(self)
        if batches_read:
            self.failure = common.InputError('a.png cannot be read')
        batches_read.append(self.batch)

    monkeypatch.setattr(loop.Supply, 'read', read_once)
    with pytest.raises(common.InputError, match='a.png cannot be read'):
        tiny_run.start(data, tmp_path / 'exp')
    assert tiny_run.read_checkpoint(tmp_path / 'exp', 1)['global_step'] == 1


def test_error_in_the_first_report_leaves_nothing_behind(monkeypatch, data, tmp_path):
    def fail(self, iteration):
        raise common.InputError('a full disk')

    monkeypatch.setattr(journal.Scalars, 'report', fail)
    with pytest.raises(common.InputError, match='a full disk'):
        tiny_run.start(data, tmp_path / 'exp')
    assert not (tmp_path / 'exp').exists()


def fail_at(monkeypatch, step, error):
    """Let the report of an iteration raise an error."""
    write = journal.Journal.write

    def write_and_fail(self, iteration):
        write(self, iteration)
        if iteration.step == step:
            raise error

    monkeypatch.setattr(journal.Journal, 'write', write_and_fail)


@pytest.mark.parametrize('error', [common.InputError('a broken image'), MemoryError()])
def test_error_that_is_not_about_the_weights_saves_them(
    monkeypatch, data, finished, tmp_path, error
):
    root = tmp_path / 'exp'
    flags = ['--train_iterations', '4', '--checkpoint_frequency', '0']
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        fail_at(patch, 3, error)
        tiny_run.start(data, root, *flags)
    assert list_names(root, 'checkpoint-*.index') == [
        *('checkpoint-0.index', 'checkpoint-3.index'),
    ]
    assert 'saved: checkpoint-3' in log_of(root)
    tiny_run.start(data, tmp_path / 'whole', *flags)
    tiny_run.resume(root)
    assert_same_state(
        tiny_run.read_checkpoint(root, 4),
        tiny_run.read_checkpoint(tmp_path / 'whole', 4),
    )


def test_logs_are_synced_before_what_an_error_saves(monkeypatch, data, tmp_path):
    root, found = tmp_path / 'exp', []
    sync = journal.Journal.sync

    def note_and_sync(self):
        found.append(list_names(root, 'checkpoint-*.index'))
        sync(self)

    monkeypatch.setattr(journal.Journal, 'sync', note_and_sync)
    fail_at(monkeypatch, 2, common.InputError('a broken image'))
    with pytest.raises(common.InputError):
        tiny_run.start(data, root, '--checkpoint_frequency', '0')
    assert found == [['checkpoint-0.index']]
    assert list_names(root, 'checkpoint-*.index')[-1] == 'checkpoint-2.index'


def test_image_that_cannot_be_read_costs_no_iteration(tmp_path):
    tiny_run.write_dataset(tmp_path, num_images=(2,) * 20)
    (tmp_path / '7_1.png').write_bytes(b'no image')  # Every PID comes once in ten.
    root = tmp_path / 'exp'
    flags = ['--train_iterations', '10', '--checkpoint_frequency', '0']
    with pytest.raises(common.InputError, match='is not a readable image'):
        tiny_run.start(tmp_path, root, *flags)
    made = log_of(root).count('iter: ')
    assert 0 < made < 10
    assert checkpoints.latest(str(root)) == str(root / f'checkpoint-{made}')


def test_half_an_update_is_not_saved(monkeypatch, data, tmp_path):
    make = train.make_train_step

    def make_fragile(*args):
        train_step = make(*args)

        def step_or_fail(images, pids, learning_rate, step):
            outcome = train_step(images, pids, learning_rate, step)
            if step == 2:
                raise common.InputError('a device is lost')
            return outcome

        return step_or_fail

    monkeypatch.setattr(train, 'make_train_step', make_fragile)
    root = tmp_path / 'exp'
    flags = ['--train_iterations', '4', '--checkpoint_frequency', '0']
    with pytest.raises(common.InputError, match='a device is lost'):
        tiny_run.start(data, root, *flags)
    assert list_names(root, 'checkpoint-*.index') == ['checkpoint-0.index']


def test_hangup_is_ignored_where_it_was_ignored():
    """As after nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with loop.StopRequest(logging.getLogger('test')) as stop:
            signal.raise_signal(signal.SIGHUP)
        assert not stop.is_made
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
