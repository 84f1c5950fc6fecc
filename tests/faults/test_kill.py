"""A command that is killed loses nothing but its own work, wherever it was.

A run is resumed, an embedding repeated: the results are those of one that nothing
disturbed, bit for bit, and nothing under a final name was damaged at any time.
"""

import os
import random
import shutil
import signal

import doomed
import h5py
import numpy as np
import power
import pytest
import stories

from embedding import outputs

FAULTS = (
    'SIGKILL at each system call of train.py',
    'SIGKILL at each system call of embed.py',
    'SIGKILL at each system call of embed.py --shard',
    'SIGKILL at each system call of embed.py --merge',
    'SIGKILL at each system call of export.py',
    'SIGKILL at each system call of search.py --build_index',
    'SIGKILL in the middle of each write of train.py',
    'SIGKILL in the middle of each write of embed.py',
    'SIGKILL in the middle of each write of embed.py --shard',
    'SIGKILL in the middle of each write of embed.py --merge',
    'SIGKILL in the middle of each write of export.py',
    'SIGKILL in the middle of each write of search.py --build_index',
    'power failure after each rename of train.py',
    'power failure after each rename of embed.py',
    'power failure after each rename of embed.py --shard',
    'power failure after each rename of embed.py --merge',
    'power failure after each rename of export.py',
    'power failure after each rename of search.py --build_index',
    'SIGKILL of train.py at a random moment',
    'SIGKILL at each system call of embed.py to .npy',
    'SIGKILL at each system call of embed.py to .npz',
    'SIGKILL at each system call of embed.py to .csv',
    'SIGKILL at each system call of embed.py to .parquet',
    'SIGKILL at each system call of embed.py --resume',
)
AT_RANDOM, OF_FORMATS = FAULTS[-6], FAULTS[-5:]

NAMES = (
    *('train.py', 'embed.py', 'embed.py --shard', 'embed.py --merge'),
    *('export.py', 'search.py --build_index'),
)
AT_CALL = 'a seccomp filter counts what changes files'
OF_A_RUN = 'iterations since the last checkpoint; made again, the same tensors and best'
OF_A_COMMAND = 'what it had computed so far; repeated, the same bytes'
AGAIN = 'nothing; the same command again, or --resume, goes on'


def for_each_command(first):
    """Return the mark of a test of each command; its faults begin at FAULTS[first]."""
    faults = FAULTS[first : first + len(NAMES)]
    pairs = list(zip(NAMES, faults, strict=True))
    return pytest.mark.parametrize('name, fault', pairs, ids=NAMES)


def disturb(story, action, numbers):
    """Kill a story's command at some calls.

    Returns:
        (how often it was killed, what is wrong then, list of str).

    Args:
        story: a stories.Story.
        action: of doomed.Fault.
        numbers: list of int, which calls.
    """
    times, faults, seen = 0, [], set()
    for n in numbers:
        stories.restart(story)
        fault = doomed.Fault(story.root, n, action)
        outcome = doomed.run(story.command, story.argv, fault)
        if outcome.code != -signal.SIGKILL:  # It had fewer calls this time.
            assert (outcome.code, len(outcome.calls) < n) == (0, True), outcome
            continue
        times += 1
        state = stories.fingerprint(story.root)
        if state not in seen:
            seen.add(state)
            call = ' '.join(outcome.calls[-1][1:]).replace(f'{story.root}/', '')
            faults += [f'{n} {call}: {one}' for one in stories.find_fault(story)]
    assert times, f'{story.name} was never killed'
    return times, faults


# How many calls the quick selection takes; a run takes three seconds.
FEW = dict.fromkeys(NAMES, 1)
FEW_TORN = FEW


@for_each_command(0)
def test_kill_before_a_call_loses_nothing(
    all_stories, name, fault, every_fault, reliability
):
    story = stories.find(all_stories, name, fault, reliability)
    numbers = stories.pick([call.n for call in story.calls], FEW[name], every_fault)
    times, faults = disturb(story, 'kill', numbers)
    assert not faults, '\n'.join(faults)
    reliability.add(
        fault=fault,
        times=times,
        how=f'{AT_CALL} and kills before the n-th, for every n',
        lost=OF_A_RUN if name == 'train.py' else OF_A_COMMAND,
        seen=AGAIN,
    )


@pytest.mark.parametrize(
    'fault',
    [pytest.param(fault, marks=pytest.mark.slow_fault(fault)) for fault in OF_FORMATS],
)
def test_kill_of_embeddings_in_another_format_loses_nothing(
    formats, fault, reliability
):
    name = fault.removeprefix('SIGKILL at each system call of ')
    story = stories.find(formats, name, fault, reliability)
    times, faults = disturb(story, 'kill', [call.n for call in story.calls])
    assert not faults, '\n'.join(faults)
    is_kept = name.endswith('--resume')
    reliability.add(
        fault=fault,
        times=times,
        how=f'{AT_CALL} and kills before the n-th, for every n'
        + '; each of two batches is kept' * is_kept,
        lost='the batch that it was at' if is_kept else OF_A_COMMAND,
        seen='nothing; the same command again goes on',
    )


@for_each_command(len(NAMES))
def test_kill_in_a_write_loses_nothing(
    all_stories, name, fault, every_fault, reliability
):
    story = stories.find(all_stories, name, fault, reliability)
    writes = [call.n for call in story.calls if call.name == 'write']
    numbers = stories.pick(writes, FEW_TORN[name], every_fault)
    times, faults = disturb(story, 'tear', numbers)
    assert not faults, '\n'.join(faults)
    reliability.add(
        fault=fault,
        times=times,
        how=f'{AT_CALL}, writes half of what the n-th write has and kills, for every n',
        lost=OF_A_RUN if name == 'train.py' else OF_A_COMMAND,
        seen=AGAIN,
    )


@for_each_command(2 * len(NAMES))
def test_results_are_on_the_disk_before_they_have_their_name(
    all_stories, name, fault, every_fault, reliability
):
    story = stories.find(all_stories, name, fault, reliability)
    assert any(call.name == 'rename' for call in story.calls)
    faults = stories.find_unsynced(story.calls, story.root)
    numbers = stories.pick(range(len(list(power.fail(story)))), FEW[name], every_fault)
    for number, state in enumerate(power.fail(story)):
        if number in numbers:
            faults += [f'{state}: {one}' for one in stories.find_fault(story)]
    assert not faults, '\n'.join(faults)
    reliability.add(
        fault=fault,
        times=len(numbers),
        how='the calls are replayed without what was not synced: after each rename of '
        'a result all such names are lost, or each alone, or what such files have; '
        'logs stay',
        lost=OF_A_RUN if name == 'train.py' else OF_A_COMMAND,
        seen=AGAIN,
    )


def test_damage_is_seen_without_the_help_of_other_files(all_stories, tmp_path):
    for name in ('embed.py --merge', 'export.py', 'search.py --build_index'):
        for path in all_stories[name].after.iterdir():
            if path.suffix in ('.h5', '.onnx', '.faiss'):
                shutil.copy(path, tmp_path)
    embs = np.arange(8, dtype=np.float32).reshape(4, 2)
    for suffix in stories.SUFFIXES:
        outputs.write(
            str(tmp_path / f'x_embeddings{suffix}'),
            *([(range(4), embs[None])], list('abcd'), ['original'], 2, None, {}),
            *(list('abcd'), None),
        )
    names = stories.list_files(tmp_path)
    assert len({name.rpartition('.')[2] for name in names}) == 8
    assert stories.find_damage(tmp_path) == []
    paths = [tmp_path / name for name in names]
    # Names beside .npy are checked with it, and come first here.
    for path in sorted(paths, key=lambda path: path.suffix != '.txt'):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        if path.suffix == '.txt':
            (damage,) = stories.find_damage(tmp_path)
            assert damage.startswith('x_embeddings.npy is damaged')
    damage = stories.find_damage(tmp_path)
    checked = [name for name in names if not name.endswith('.txt')]
    assert [one.split(' is damaged')[0] for one in damage] == checked


def test_result_that_is_neither_the_former_nor_the_new_one_is_seen(tmp_path):
    names = ('root', 'before', 'after')
    for name, texts in zip(names, ('xyb', 'axb', 'bbb'), strict=True):
        (tmp_path / name).mkdir()
        for number, text in enumerate(texts):
            (tmp_path / name / f'{number}.png').write_text(text)
    places = {name: tmp_path / name for name in names}
    story = stories.Story('x.py', 'x', [], **places, synced=tmp_path)
    told = 'is neither the former one nor the new one'
    assert stories.find_torn(story) == [f'0.png {told}', f'1.png {told}']


@pytest.mark.parametrize('column', ['emb', 'emb_aug'])
def test_changed_number_of_hdf5_is_seen(all_stories, tmp_path, column):
    path = tmp_path / 'train_embeddings.h5'
    shutil.copy(all_stories['embed.py'].after / path.name, path)
    with h5py.File(path, 'r+') as file:
        file[column][..., 3, 0] += 1
    assert 'checksum' in ''.join(stories.find_damage(tmp_path))


@pytest.mark.slow_fault(AT_RANDOM)
def test_kill_at_random_moments_loses_nothing(data, tmp_path, reliability):
    root, num_kills = tmp_path.resolve() / 'exp', 200
    argv = stories.train_flags(data, root, 6)
    story = stories.tell('train.py', 'train', argv, root, tmp_path)
    rng = random.Random(1)  # How far a process gets until then differs anyway.
    faults, done = [], 0
    while done < num_kills:
        stories.restart(story)
        while done < num_kills and is_killed(story, rng.uniform(0, story.secs)):
            done += 1
            faults += [f'kill {done}: {one}' for one in stories.find_damage(story.root)]
        faults += [f'after kill {done}: {one}' for one in stories.find_fault(story)]
    assert not faults, '\n'.join(faults)
    reliability.add(
        fault=AT_RANDOM,
        times=done,
        how='kill -9 after a random time, again and again until the run has ended',
        lost=OF_A_RUN,
        seen='nothing; --resume goes on',
    )


def is_killed(story, secs):
    """Start or resume a run and kill it after some seconds; say whether it had ended.

    Args:
        story: of train.py.
        secs: from its start.
    """
    has_begun = (story.root / 'checkpoint').exists()
    argv = stories.resume_flags(story.root) if has_begun else story.argv
    process = doomed.start('train', argv)
    process.join(secs)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode == -signal.SIGKILL
