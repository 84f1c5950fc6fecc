"""What a run needs does not grow, and a clock that jumps does not matter."""

import pathlib
import re
import time
import typing

import doomed
import pytest
import stories
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.summary.writer import record_writer

import checkpoints
import tiny_run
import train
from event_files import read_steps
from run_files import assert_same_state, log_of

FAULTS = ('long run of train.py', 'clock that jumps by a day')

NUM_STEPS = 50_000
DAY = 86_400

# Memory that a run may gain after its first fifth, MB: 0.7 kB per iteration would be
# noticed, as tensors of a step and a rate take that are kept. Over some minutes, the
# allocator's own noise is about 10.
MOST_GROWTH = 20


class Needs(typing.NamedTuple):
    """What a process has: memory in MB, open files, threads."""

    megabytes: float
    files: int
    threads: int


def measure(pid):
    """Return the Needs of a process, or None if it has ended."""
    process = pathlib.Path('/proc', str(pid))
    try:
        status = (process / 'status').read_text()
        files = len(list((process / 'fd').iterdir()))
        memory = re.search(r'VmRSS:\s+(\d+) kB', status)
        threads = re.search(r'Threads:\s+(\d+)', status)
    except OSError:
        return None
    if memory is None or threads is None:
        return None
    return Needs(int(memory[1]) / 1024, files, int(threads[1]))


@pytest.mark.slow_fault(FAULTS[0])
def test_needs_of_a_long_run_stay(data, tmp_path, reliability):
    flags = [
        *tiny_run.flags(data, tmp_path / 'exp', '--train_iterations', str(NUM_STEPS)),
        *('--checkpoint_frequency', '500', '--keep_checkpoints', '2', '--quiet'),
        *('--val_set', str(data / 'train.csv'), '--val_excluder', 'diagonal'),
        *('--val_every', '500', '--histogram_frequency', '50'),
    ]
    process = doomed.start('train', flags, said=tmp_path / 'said')
    needs = []  # In iterations: what is measured at the same moment.
    while process.exitcode is None:
        process.join(0.5)
        needs.append((count_iterations(tmp_path / 'exp'), measure(process.pid)))
    assert process.exitcode == 0, (tmp_path / 'said').read_text()
    needs = [(step, one) for step, one in needs if one is not None and step > 0]
    # Images are read meanwhile: the fewest files of a fifth are those that stay open.
    first, last = (
        least([one for step, one in needs if first <= step * 5 // NUM_STEPS <= last])
        for first, last in ((1, 1), (4, 5))
    )
    growth = last.megabytes - first.megabytes
    assert growth < MOST_GROWTH, (first, last)
    assert last.files <= first.files, (first, last)
    assert last.threads <= first.threads, (first, last)
    reliability.add(
        fault=FAULTS[0],
        times=NUM_STEPS,
        how='iterations of a tiny net with validation, histograms and checkpoints',
        lost='nothing',
        seen=f'memory grows by {growth:.0f} MB from the second fifth to the last, '
        f'{last.files} files and {last.threads} threads stay',
    )


def least(needs):
    """Return the Needs of which each is the least of several."""
    return Needs(
        min(one.megabytes for one in needs),
        min(one.files for one in needs),
        min(one.threads for one in needs),
    )


def count_iterations(root):
    """Return the last iteration that the log of a run tells of."""
    try:
        with (root / 'train.log').open('rb') as log:
            log.seek(max(0, log.seek(0, 2) - 2000))
            found = re.findall(rb'iter: *(\d+),', log.read())
    except OSError:
        return 0
    return int(found[-1]) if found else 0


def set_ahead(events, secs):
    """Make a file of events what a process would have left whose clock was ahead.

    Args:
        events: pathlib.Path.
        secs: by which it was.
    """
    *start, began, host, process, number, suffix = events.name.split('.')
    later = '.'.join([*start, f'{int(began) + secs}', host, process, number, suffix])
    with (events.parent / later).open('wb') as file:
        writer = record_writer.RecordWriter(file)
        for event in event_file_loader.LegacyEventFileLoader(str(events)).Load():
            event.wall_time += secs
            writer.write(event.SerializeToString())
    events.unlink()


def test_clock_that_is_set_back_between_stop_and_resume_harms_no_curve(
    data, tmp_path, one_block_net, reliability
):
    root = tmp_path / 'exp'
    more = ('--train_iterations', '4', '--checkpoint_frequency', '1')
    tiny_run.start(data, root, *more)
    checkpoints_left = ('checkpoint-2', 'checkpoint-3')
    for name in checkpoints_left:
        set_ahead(max(root.glob('events.out.*')), DAY)
        tiny_run.resume(root, '--checkpoint', name)
    assert len(list(root.glob('events.out.*'))) == 3
    steps = read_steps(root)
    assert steps['loss'] == [1, 2, 3, 4]
    reliability.add(
        fault=FAULTS[1],
        times=len(checkpoints_left),
        how='back, between a stop and --resume',
        lost='nothing',
        seen='each iteration once in TensorBoard',
    )


def test_clock_that_jumps_harms_neither_eta_nor_checkpoints(
    monkeypatch, data, tmp_path, one_block_net, reliability
):
    save, now = checkpoints.TrainingState.save, time.time
    jumps = {}  # {step: seconds}

    def save_and_jump(state, step):
        save(state, step)
        ahead = jumps.get(step, 0)
        monkeypatch.setattr(time, 'time', lambda: now() + ahead)

    monkeypatch.setattr(checkpoints.TrainingState, 'save', save_and_jump)
    roots = [tmp_path / name for name in ('steady', 'jumping')]
    for root in roots:
        train.main(stories.train_flags(data, root, 6))
        jumps |= {2: DAY, 3: DAY, 4: -DAY, 5: -DAY}
    steady, jumping = (tiny_run.read_checkpoint(root, 6) for root in roots)
    assert_same_state(steady, jumping)
    bests = [(root / 'best.json').read_text() for root in roots]
    assert bests[0] == bests[1]
    etas = re.findall(r'iter: *[2-6],.* ETA: (\S+)', log_of(roots[1]))
    assert len(etas) == 5
    # An iteration takes seconds at most; with a day in it, the ETA would be days.
    assert all(re.fullmatch(r'0:0\d:\d\d', eta) for eta in etas), etas
    reliability.add(
        fault=FAULTS[1],
        times=2,
        how='time.time() jumps ahead after iteration 2, and back after iteration 4',
        lost='nothing: the same tensors, the same best',
        seen='an ETA as before; lines of train.log with the new time',
    )
