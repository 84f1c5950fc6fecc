"""A terminal that is gone costs the lines on it, and nothing else."""

import contextlib
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import checkpoints
import common
import tiny_run
from run_files import log_of
from training import journal

FAULTS = (
    'terminal of train.py closed',
    'terminal of evaluate.py closed',
    'no room for messages (2>/dev/full)',
    'no room for results (>/dev/full)',
    'standard streams closed (<&- >&- 2>&-)',
    'image that disappears while train.py runs',
    'bug in train.py',
    'Ctrl+C before a command has begun',
)

pytestmark = pytest.mark.usefixtures('one_block_net')

needs_full = pytest.mark.skipif(
    not os.path.exists('/dev/full'), reason='needs /dev/full'
)


@pytest.fixture
def same_signals():
    """Leave pytest its handlers of signals, and its standard streams."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    streams = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = streams
    for number, handler in before.items():
        signal.signal(number, handler)
    common.setup_logging()  # Closes the log file.


def end(main):
    """Return the exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as stop:
        common.run(main)
    return stop.value.code


def run_python(code, redirections='', **more):
    """Run code whose files may be redirected by a shell, in the root of the code."""
    return subprocess.run(
        ['bash', '-c', f'exec "$0" -c "$1" {redirections}', sys.executable, code],
        cwd=tiny_run.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        **more,
    )


# --- messages ----------------------------------------------------------------------


def test_run_whose_terminal_is_closed_goes_on_and_its_log_is_whole(
    data, tmp_path, monkeypatch, same_signals, reliability
):
    master, slave = pty.openpty()  # It controls no process.
    write = journal.Journal.write

    def write_and_close(self, iteration):
        write(self, iteration)
        if iteration.step == 1:
            os.close(master)

    monkeypatch.setattr(journal.Journal, 'write', write_and_close)
    terminal = os.fdopen(slave, 'w')
    monkeypatch.setattr(sys, 'stderr', terminal)
    assert sys.stderr.isatty()  # There is a progress bar.
    assert end(lambda: tiny_run.start(data, tmp_path / 'exp')) is None  # Exit code 0.
    assert 'finished after 2 iterations' in log_of(tmp_path / 'exp')
    with contextlib.suppress(OSError):
        terminal.close()
    reliability.add(
        fault=FAULTS[0],
        times=1,
        how='master of its pseudoterminal closed after iteration 1',
        lost='lines on the terminal; train.log has them',
        seen='-',
    )


# The script itself, with a net that takes no half minute to build.
TRAIN = """
import runpy, sys
import nets._mobilenet

nets._mobilenet.SEPARABLE = ((8, 2),)
sys.argv = ['train.py', *{argv!r}]
runpy.run_path('train.py', run_name='__main__')
"""


def check_whole_log(root, num_steps):
    """Fail unless the log of a run has each iteration once, and its end."""
    log = log_of(root)
    steps = [int(step) for step in re.findall('INFO iter: *([0-9]+),', log)]
    assert steps == list(range(1, num_steps + 1))
    assert f'finished after {num_steps} iterations' in log.splitlines()[-1]


@pytest.mark.slow_fault(FAULTS[0])
def test_detached_run_trains_on_when_its_terminal_is_closed(
    data, tmp_path, reliability
):
    root = tmp_path / 'exp'
    argv = tiny_run.flags(data, root, '--train_iterations', '200')
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, '-c', TRAIN.format(argv=argv)],
        cwd=tiny_run.ROOT,
        **dict.fromkeys(('stdin', 'stdout', 'stderr'), slave),
        start_new_session=True,  # As setsid does.
    )
    os.close(slave)
    said = b''
    while b'iter:     1,' not in said:
        said += os.read(master, 4096)  # Fails once the process has ended.
    os.close(master)
    assert process.wait(300) == 0
    assert b'iter:   200,' not in said
    check_whole_log(root, 200)
    reliability.add(
        fault=FAULTS[0],
        times=1,
        how='setsid, and master of its pseudoterminal closed after iteration 1',
        lost='lines on the terminal; train.log has them',
        seen='-',
    )


@pytest.mark.parametrize(
    'redirection, fault',
    [
        pytest.param(*pair, marks=[*marks, pytest.mark.slow_fault(pair[1])], id=pair[0])
        for pair, marks in (
            (('2>/dev/full', FAULTS[2]), [needs_full]),
            (('2>&-', FAULTS[4]), []),
        )
    ],
)
def test_run_that_cannot_speak_trains_to_its_end(
    data, tmp_path, redirection, fault, reliability
):
    argv = tiny_run.flags(data, tmp_path / 'exp')
    process = run_python(TRAIN.format(argv=argv), redirection)
    assert process.returncode == 0, process.stdout
    check_whole_log(tmp_path / 'exp', 2)
    reliability.add(
        fault=fault,
        times=1,
        how=f'train.py {redirection}',
        lost='the messages; train.log has them',
        seen='-',
    )


MESSAGES = """
import logging, pathlib, sys, common

def main():
    logger = common.setup_logging(sys.argv[1] + '.log')
    for _ in common.tqdm.tqdm(range(3)):
        logger.info('a line')
        print('another', file=sys.stderr)
    common.write_json(sys.argv[1], [1])
    if sys.argv[2:]:
        raise common.InputError('so it is')

sys.argv = ['x.py', *{argv!r}]
common.run(main)
"""


@needs_full
@pytest.mark.parametrize('more, code', [([], 0), (['fail'], 1)])
def test_messages_without_room_change_no_result(tmp_path, more, code, reliability):
    target = str(tmp_path / 'x')
    process = run_python(MESSAGES.format(argv=[target, *more]), '2>/dev/full')
    assert process.returncode == code
    assert json.loads((tmp_path / 'x').read_text()) == [1]
    lines = (tmp_path / 'x.log').read_text().splitlines()
    errors = ['ERROR so it is'] * len(more)
    assert [line.split(' ', 2)[2] for line in lines] == ['INFO a line'] * 3 + errors
    reliability.add(
        fault=FAULTS[2], times=1, how='2>/dev/full', lost='the messages', seen='-'
    )


@pytest.mark.parametrize('closed', ['2>&-', '>&-', '<&-', '<&- >&- 2>&-'])
def test_closed_streams_prevent_nothing_and_get_into_no_file(
    tmp_path, closed, reliability
):
    target = str(tmp_path / 'x')
    code = MESSAGES.format(argv=[target]).replace(
        'common.write_json(sys.argv[1], [1])',
        """
    with common.complete_file(sys.argv[1]) as temporary, open(temporary, 'w') as file:
        common.os.write(1, b'stray')
        common.os.write(2, b'stray')  # As C code does.
        file.write('[1]')
""",
    )
    process = run_python(code, closed)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / 'x').read_text() == '[1]'
    assert 'stray' not in (tmp_path / 'x.log').read_text()
    reliability.add(
        fault=FAULTS[4], times=1, how='by the shell', lost='what goes there', seen='-'
    )


# --- results -----------------------------------------------------------------------


def write_embeddings(directory):
    """Write two images' embeddings, and the CSV of them; return evaluate.py's flags."""
    import h5py

    (directory / 'x.csv').write_text('1,a.png\n1,b.png\n')
    with h5py.File(directory / 'x.h5', 'w') as file:
        file['emb'] = np.float32([[0, 1], [1, 1]])
    names = {'dataset': 'x.csv', 'embeddings': 'x.h5'}
    return [
        'evaluate.py',
        *('--excluder', 'diagonal', '--filename', str(directory / 'scores.json')),
        *(
            word
            for side in ('query', 'gallery')
            for kind, name in names.items()
            for word in (f'--{side}_{kind}', str(directory / name))
        ),
    ]


def test_scores_are_in_their_file_though_the_terminal_is_closed(tmp_path, reliability):
    master, slave = pty.openpty()  # It controls no process.
    argv = write_embeddings(tmp_path)
    os.close(master)
    process = subprocess.run(
        [sys.executable, *argv],
        cwd=tiny_run.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    assert process.returncode == 0
    assert json.loads((tmp_path / 'scores.json').read_text())['mAP'] == 1
    reliability.add(
        fault=FAULTS[1],
        times=1,
        how='master of its pseudoterminal closed',
        lost='lines on the terminal; the file of --filename has the scores',
        seen='-',
    )


@needs_full
def test_scores_without_room_are_an_error_but_in_their_file(tmp_path, reliability):
    argv = write_embeddings(tmp_path)
    with open('/dev/full', 'w') as full:
        process = subprocess.run(
            [sys.executable, *argv],
            cwd=tiny_run.ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.returncode == 1
    line = (
        'evaluate.py: error: cannot write to the standard output: No space left on '
        'device; make room there, or choose another place'
    )
    assert process.stderr.splitlines() == [line]
    assert json.loads((tmp_path / 'scores.json').read_text())['mAP'] == 1
    reliability.add(
        fault=FAULTS[3],
        times=1,
        how='>/dev/full',
        lost='lines on stdout; the file of --filename has the scores',
        seen=line,
    )


# --- the log -----------------------------------------------------------------------


def find_newest_step(root):
    """Return the step that a run's newest checkpoint has."""
    prefix = checkpoints.latest(str(root))
    return int(checkpoints.WeightsFile(prefix).read('global_step'))


def test_error_that_ends_a_run_stands_in_its_log_and_loses_nothing(
    tmp_path, monkeypatch, capsys, same_signals, reliability
):
    monkeypatch.setattr(sys, 'argv', ['train.py'])
    tiny_run.write_dataset(tmp_path)
    root = tmp_path / 'exp'
    write = journal.Journal.write

    def write_and_remove(self, iteration):
        write(self, iteration)
        for image in tmp_path.glob('*.png'):
            image.unlink()

    monkeypatch.setattr(journal.Journal, 'write', write_and_remove)
    flags = ['--train_iterations', '1000', '--checkpoint_frequency', '0']
    assert end(lambda: tiny_run.start(tmp_path, root, *flags)) == 1
    *_, saved, last = log_of(root).splitlines()
    name = re.escape(str(tmp_path))
    told = re.fullmatch(rf'.* ERROR ({name}/\d_\d\.png .*)', last)
    assert told, last
    assert capsys.readouterr().err.splitlines()[-1] == f'train.py: error: {told[1]}'
    steps = re.findall(r'iter: *(\d+),', log_of(root))
    assert find_newest_step(root) == int(steps[-1]) > 0
    assert f'checkpoint-{steps[-1]}. Mend what the error is about' in saved
    reliability.add(
        fault=FAULTS[5],
        times=1,
        how='all images removed after iteration 1; --checkpoint_frequency 0',
        lost='nothing: a checkpoint is written first',
        seen='one line with the name of the image',
    )


def test_error_that_ends_a_resumed_run_stands_in_its_log(
    data, tmp_path, monkeypatch, same_signals
):
    monkeypatch.setattr(sys, 'argv', ['train.py'])
    root = tmp_path / 'exp'
    tiny_run.start(data, root)
    weights = root / 'checkpoint-2.data-00000-of-00001'
    weights.write_bytes(weights.read_bytes()[:100])
    common.setup_logging()  # Another process would know of no log.
    assert end(lambda: tiny_run.resume(root)) == 1
    last = log_of(root).splitlines()[-1]
    assert f' ERROR {root}/checkpoint-2 is damaged: ' in last
    assert '; the newest whole one is checkpoint-0' in last


def test_traceback_of_a_bug_stands_in_the_log(
    data, tmp_path, monkeypatch, same_signals, reliability
):
    write = journal.Journal.write

    def write_and_fail(self, iteration):
        write(self, iteration)
        if iteration.step == 2:
            raise ZeroDivisionError('a bug')

    monkeypatch.setattr(journal.Journal, 'write', write_and_fail)
    flags = ['--checkpoint_frequency', '0']
    assert end(lambda: tiny_run.start(data, tmp_path / 'exp', *flags)) == 1
    log = log_of(tmp_path / 'exp')
    assert ' ERROR this is a bug; please report it\nTraceback (most recent' in log
    assert log.splitlines()[-1] == 'ZeroDivisionError: a bug'
    assert find_newest_step(tmp_path / 'exp') == 2
    reliability.add(
        fault=FAULTS[6],
        times=1,
        how='ZeroDivisionError after the update of iteration 2',
        lost='nothing: a checkpoint is written first',
        seen='a traceback; train.log has it, too',
    )


# --- before common.run -------------------------------------------------------------


def test_ctrl_c_during_imports_is_one_line(tmp_path, reliability):
    root = pathlib.Path(tmp_path, 'clone')
    root.mkdir()
    (root / 'common.py').write_text((tiny_run.ROOT / 'common.py').read_text())
    (root / 'x.py').write_text(
        'import common, signal\nsignal.raise_signal(signal.SIGINT)\n'
    )
    # What runs the tests in the background may ignore Ctrl+C.
    process = subprocess.run(
        [sys.executable, str(root / 'x.py')],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.returncode == -signal.SIGINT
    assert process.stderr == 'x.py: interrupted\n'
    reliability.add(
        fault=FAULTS[7],
        times=1,
        how='SIGINT while modules are imported',
        lost='nothing',
        seen='x.py: interrupted',
    )
