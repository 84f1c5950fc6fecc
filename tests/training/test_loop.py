"""A run that is stopped, or diverges."""

import signal

import numpy as np
import pytest

import checkpoints
import common
import tiny_run
from run_files import (
    list_names,
    log_of,
)
from training import journal, loop, optimizers

pytestmark = pytest.mark.usefixtures('one_block_net')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
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


def test_second_ctrl_c_stops_at_once():
    # A shell lets its background jobs ignore SIGINT, and with them the tests in one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with loop.StopRequest() as stop:
            assert not stop.is_made
            signal.raise_signal(signal.SIGINT)
            assert stop.is_made
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_infinite_loss_stops_the_run_and_names_the_iteration(data, tmp_path):
    # One PID only: every anchor's nearest negative is infinitely far.
    more = ['--batch_p', '1', '--margin', 'none']
    with pytest.raises(
        common.InputError,
        match=r'^the loss became -inf in iteration 1; the last good checkpoint is '
        r'.*/exp/checkpoint-0\. Start anew with a lower --learning_rate, or with that',
    ):
        tiny_run.start(data, tmp_path / 'exp', *more)
    assert list_names(tmp_path / 'exp', 'checkpoint-*.index') == ['checkpoint-0.index']


@pytest.mark.parametrize(
    'frequency, message, kept',
    [
        # The third update ruins the weights; the fourth loss shows it.
        ('0', 'the loss became nan in iteration 4; .*checkpoint-0. Start anew', [0]),
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
