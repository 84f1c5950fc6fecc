"""A disk is full, read-only or gone: one line says so, and what was there stays."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import subprocess
import sys

import doomed
import keras
import pytest
import stories
import tensorflow as tf

import bulk_run
import checkpoints
import common
import tiny_run
from training import experiment, journal

FAULTS = (
    'full disk at each write of train.py',
    'full disk at each write of embed.py',
    'full disk at each write of embed.py --shard',
    'full disk at each write of embed.py --merge',
    'full disk at each write of evaluate.py',
    'full disk at each write of visualize.py',
    'full disk at each write of make_csv.py',
    'quota exceeded at each write of train.py',
    'disk that turns read-only at each system call of train.py',
    'disk that turns read-only at each system call of embed.py',
    'full file system under train.py',
    'read-only file system under train.py and embed.py',
    'directory removed while train.py runs',
    'disk that others fill while embeddings are written',
    'full disk at each write of embed.py to .npz',
    'full disk at each write of embed.py to .csv',
    'full disk at each write of embed.py to .parquet',
    'full disk at each write of export.py',
    'full disk at each write of export.py --format saved_model',
    'full disk at each write of search.py --build_index',
    'full disk at each write of embed.py to .npy',
    'full disk at each write of embed.py --resume',
    'full disk at each write of visualize.py curves',
    'full disk at each write of visualize.py projector',
    'full disk at each write of trinet_embed.py',
    'full file system under bulk_embed.py',
    'full disk at each write of search.py --picture',
    'full disk at each write of plot.py',
)

# A format that is a directory, and its story's name.
DIRECTORY = 'saved_model', 'export.py --format saved_model'

# Name of a story, what its calls return, its fault, of how many calls one is taken.
REFUSALS = [
    ('train.py', errno.ENOSPC, FAULTS[0], 1),
    ('embed.py', errno.ENOSPC, FAULTS[1], 1),
    ('embed.py --shard', errno.ENOSPC, FAULTS[2], 1),
    ('embed.py --merge', errno.ENOSPC, FAULTS[3], 1),
    ('evaluate.py', errno.ENOSPC, FAULTS[4], 1),
    ('visualize.py', errno.ENOSPC, FAULTS[5], 1),
    ('make_csv.py', errno.ENOSPC, FAULTS[6], 1),
    ('train.py', errno.EDQUOT, FAULTS[7], 4),
    ('train.py', errno.EROFS, FAULTS[8], 4),
    ('embed.py', errno.EROFS, FAULTS[9], 2),
    ('embed.py to .npz', errno.ENOSPC, FAULTS[14], 1),
    ('embed.py to .csv', errno.ENOSPC, FAULTS[15], 1),
    ('embed.py to .parquet', errno.ENOSPC, FAULTS[16], 1),
    ('export.py', errno.ENOSPC, FAULTS[17], 1),
    (DIRECTORY[1], errno.ENOSPC, FAULTS[18], 1),
    ('search.py --build_index', errno.ENOSPC, FAULTS[19], 1),
    ('embed.py to .npy', errno.ENOSPC, FAULTS[20], 1),
    ('embed.py --resume', errno.ENOSPC, FAULTS[21], 1),
    ('visualize.py curves', errno.ENOSPC, FAULTS[22], 1),
    ('visualize.py projector', errno.ENOSPC, FAULTS[23], 1),
    ('trinet_embed.py', errno.ENOSPC, FAULTS[24], 1),
    ('search.py --picture', errno.ENOSPC, FAULTS[26], 1),
    ('plot.py', errno.ENOSPC, FAULTS[27], 1),
]
ORDINALS = {2: 'second', 4: 'fourth'}

REFUSED = [
    pytest.param(
        *row, marks=pytest.mark.slow_fault(row[2]) if number else (), id=row[2]
    )
    for number, row in enumerate(REFUSALS)  # The first is quick.
]
NEEDS_ROOM = ('write', 'mkdir', 'fallocate')


@pytest.fixture(scope='module')
def told(data, all_stories, formats, tmp_path_factory):
    """Return {name: stories.Story} of all commands that write."""
    directory = tmp_path_factory.mktemp('told').resolve()
    embedded = all_stories['embed.py --merge'].after
    others = stories.write(data, embedded, directory / 'exp', directory)
    trained = all_stories['train.py'].after
    more = (data, trained, directory / 'exp', directory)
    others.append(stories.export_as(*DIRECTORY, *more))
    others += formats.values()
    return all_stories | {story.name: story for story in others}


# Names of what complete_file, directory_beside and checkpoints.write complete.
UNFINISHED = re.compile(r'\.(.+?)(\.[a-z0-9_]{8})?\.partial(\.d)?')

# What --resume keeps of a file: the line names the file.
KEPT = re.compile(r'\.(.+)\.blocks')


def name_refused(calls, n, is_full, root):
    """Return a regular expression for how a message names what was refused first.

    A name that cannot be taken away may be forgiven: the next call may be named, too.
    A run that cannot write its events saves the weights first, and tells of these if
    they cannot be written either.

    Args:
        calls: list of doomed.Call, of the command that was refused something.
        n: which call is the first that may be.
        is_full: whether only those that need room are refused.
        root: pathlib.Path below which.
    """
    names = []
    for call in calls[n - 1 :]:
        if is_full and call.name not in NEEDS_ROOM:
            continue
        path = pathlib.PurePath(call.path)
        is_below = path != root and path.is_relative_to(root)
        name = path.relative_to(root).parts[0] if is_below else ''
        match = UNFINISHED.fullmatch(name) or KEPT.fullmatch(name)
        if match is not None:
            name = match[1]
        is_event = name.startswith('events.out')
        if is_event:  # The name has a random part.
            name = "TensorBoard's events"
        elif name == '.lock':  # The directory's is enough.
            name = ''
        names.append(re.escape(name))
        if call.name not in ('unlink', 'rmdir') and not is_event:
            break
    return '|'.join(names)


def find_bad_message(outcome, command, place, name=''):
    """Return what is wrong with how a command ended, list of str.

    Args:
        outcome: a doomed.Outcome.
        command: such as 'train'.
        place: directory that has the file which cannot be written.
        name: what else the message has to name, a regular expression.
    """
    lines = outcome.said.splitlines()
    errors = [line for line in lines if line.startswith(f'{command}.py: error: ')]
    if (outcome.code, len(errors)) != (1, 1) or 'Traceback' in outcome.said:
        return [f'exit code {outcome.code}, says: {" / ".join(lines[-4:])}']
    is_named = re.search(rf'[/ ]({name})\b', errors[0]) and str(place) in errors[0]
    return [] if is_named else [f'does not name {name} in {place}: {errors[0]}']


def test_message_must_name_the_file_that_was_refused():
    calls = [
        doomed.Call(1, 'write', '/r/.args.json.abcd1234.partial', ''),
        doomed.Call(2, 'unlink', '/r/.args.json.abcd1234.partial', ''),
        doomed.Call(3, 'mkdir', '/r/.best-1.partial/best-1_temp', ''),
        doomed.Call(4, 'write', '/r/events.out.tfevents.1', ''),
    ]
    names = [name_refused(calls, n, False, '/r') for n in (1, 2, 3, 4)]
    args_json = re.escape('args.json')
    best = re.escape('best-1')
    events = re.escape("TensorBoard's events")
    assert names == [args_json, f'{args_json}|{best}', best, events]
    assert name_refused(calls, 2, True, '/r') == best
    for text, is_bad in (
        ('cannot write /r/args.json: Read-only file system', False),
        ('/r/.lock: Read-only file system', True),
        ('/r/.args.json.abcd1234.partial: Read-only file system', True),
        ('cannot write args.json: Read-only file system', True),
    ):
        outcome = doomed.Outcome(1, f'train.py: error: {text}\n', [])
        assert bool(find_bad_message(outcome, 'train', '/r', args_json)) == is_bad


def refuse(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), 'another file')


def test_disk_that_turns_read_only_hides_no_error(tmp_path, monkeypatch):
    root = experiment.ExperimentRoot(str(tmp_path / 'exp'), True, True)
    target = str(tmp_path / 'x.json')
    told = f'cannot write {target}.*: Read-only'
    for context, message in (
        (common.complete_file(target), told),
        (common.directory_beside(target), told),
        (root, r'^\[Errno 30\] Read-only file system$'),
    ):
        with (
            monkeypatch.context() as patch,
            pytest.raises(OSError, match=message),
            context as temporary,
        ):
            patch.setattr(os, 'remove', refuse)
            name = temporary if isinstance(temporary, str) else None
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)


def test_disk_that_turns_read_only_hides_no_error_of_the_best(tmp_path, monkeypatch):
    network = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam()
    optimizer.build(network.trainable_variables)
    state = checkpoints.TrainingState(network, optimizer, str(tmp_path))
    monkeypatch.setattr(checkpoints, 'remove', refuse)
    monkeypatch.setattr(common, 'write_json', refuse)
    with pytest.raises(OSError, match='cannot write best.json'):
        state.save_best({'step': 1})


def test_full_disk_at_the_start_of_the_events_is_told(tmp_path, monkeypatch):
    def fail(directory):
        raise tf.errors.ResourceExhaustedError(None, None, 'No space left on device')

    monkeypatch.setattr(tf.summary, 'create_file_writer', fail)
    message = f"cannot write TensorBoard's events in {tmp_path} [(]No space left"
    with pytest.raises(common.FileError, match=message):
        journal.Journal(None, str(tmp_path), range(2), [])


@pytest.mark.parametrize('name, code, fault, stride', REFUSED)
def test_refused_call_is_told_and_loses_nothing(
    request, name, code, fault, stride, every_fault, reliability
):
    told = request.getfixturevalue('told' if every_fault else 'all_stories')
    story = stories.find(told, name, fault, reliability)
    is_full = code != errno.EROFS
    numbers = [call.n for call in (need_room if is_full else need_disk)(story.calls)]
    faults = []
    numbers = stories.pick(numbers, 1, every_fault)[::stride]
    for n in numbers:
        stories.restart(story)
        refusal = doomed.Fault(story.root, n, 'fail', code)
        outcome = doomed.run(story.command, story.argv, refusal)
        call = ' '.join(story.calls[n - 1][1:]).replace(f'{story.root}/', '')
        name_of_file = name_refused(outcome.calls, n, is_full, story.root)
        found = find_bad_message(outcome, story.command, story.root, name_of_file)
        found += find_changed(story) + stories.find_fault(story)
        faults += [f'{n} {call}: {one}' for one in found]
    assert not faults, '\n'.join(faults)
    which = 'every' if stride == 1 else f'every {ORDINALS[stride]}'
    reliability.add(
        fault=fault,
        times=len(numbers),
        how=f'from the n-th call on, for {which} n, {errno.errorcode[code]} is returned'
        + ' to what needs room, but for what HDF5 writes where room is held' * is_full,
        lost='what had not been written; the same again, once there is room'
        if is_full
        else 'what had not been written; the same again, once the disk is back',
        seen='exit code 1 and one line with the name of the file',
    )


def find_changed(story):
    """Return what was there before a command, and is not now as it was, list of str."""
    if story.before is None:
        return []
    return [
        f'{name} is no longer what it was'
        for name in stories.list_files(story.before)
        if (story.before / name).is_file()
        and not (
            (story.root / name).is_file()
            and (story.before / name).read_bytes() == (story.root / name).read_bytes()
        )
    ]


def need_room(calls):
    """Yield those of a list of doomed.Call that a full disk may refuse.

    HDF5 does not survive that: so embedding_files.create has the room, and the first
    bytes of the file, before HDF5 writes.
    """
    begun = set()
    for call in calls:
        if call.name in NEEDS_ROOM and call.path not in begun:
            yield call
        if call.name == 'write' and '.h5.' in call.path:
            begun.add(call.path)


def need_disk(calls):
    """Return a list of doomed.Call without the last ones that only clear up."""
    calls = list(calls)
    while calls[-1].name in ('unlink', 'rmdir'):
        calls.pop()
    return calls


@contextlib.contextmanager
def mounted(directory, options):
    """Mount a file system in memory for a while; say whether that is permitted."""
    directory.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(directory)]
    is_mounted = shutil.which('mount') is not None and not subprocess.call(
        command, stderr=subprocess.DEVNULL
    )
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(['umount', str(directory)], check=True)


def remount(directory, options):
    command = ['mount', '-o', f'remount,{options}', str(directory)]
    subprocess.run(command, check=True)


NO_MOUNT = 'mount is not permitted'


@pytest.mark.slow_fault(FAULTS[10])
def test_full_file_system_loses_nothing(data, tmp_path, reliability):
    place = tmp_path.resolve() / 'small'
    argv = stories.train_flags(data, place / 'exp', 12)
    whole = stories.train_flags(data, tmp_path.resolve() / 'exp', 12)
    story = stories.tell(
        'train.py', 'train', whole, tmp_path.resolve() / 'exp', tmp_path
    )
    with mounted(place, 'size=300k') as is_mounted:  # Of 550 that the run takes.
        if not is_mounted:
            reliability.skip(FAULTS[10], NO_MOUNT)
        story = story._replace(root=place / 'exp', argv=argv)
        outcome = doomed.run('train', argv)
        faults = find_bad_message(outcome, 'train', story.root)
        assert (story.root / 'checkpoint-1.index').exists(), outcome.said
        faults += stories.find_damage(story.root)
        again = doomed.run('train', stories.resume_flags(story.root))
        faults += find_bad_message(again, 'train', story.root)
        remount(place, 'size=4m')
        faults += stories.find_fault(story)
    assert not faults, '\n'.join(faults)
    reliability.add(
        fault=FAULTS[10],
        times=1,
        how='a tmpfs of 300 kB, later enlarged',
        lost='iterations since the last checkpoint; made again, the same tensors',
        seen='exit code 1 and one line with the name of the file, also when resumed '
        'before there is room',
    )


@pytest.mark.slow_fault(FAULTS[25])
def test_full_file_system_costs_no_finished_part(tmp_path, monkeypatch, reliability):
    monkeypatch.setenv('RAY_memory_monitor_refresh_ms', '0')  # As in test_actors.
    reason = bulk_run.find_reason()
    if reason is not None:
        reliability.skip(FAULTS[25], reason)
    from pyarrow import parquet as pq

    bulk_run.start(tmp_path)
    place = tmp_path.resolve() / 'small'
    output = place / 'parts'
    with mounted(place, 'size=200k') as is_mounted:  # Of 320 that the parts take.
        if not is_mounted:
            reliability.skip(FAULTS[25], NO_MOUNT)
        done = []
        for _ in range(2):
            former = done
            outcome = embed_in_bulk(tmp_path, output)
            faults = find_bad_message(outcome, 'bulk_embed', output, r'part-\d+')
            assert not faults, outcome.said
            done = sorted(path.name for path in output.glob('part-*'))
            assert 0 < len(done) < bulk_run.NUM_PIDS
            assert set(done) >= set(former)
            for name in done:
                pq.read_table(output / name, page_checksum_verification=True)
        remount(place, 'size=4m')
        outcome = embed_in_bulk(tmp_path, output)
        assert outcome.code == 0, outcome.said
        assert f'going on after {len(done)} of {bulk_run.NUM_PIDS}' in outcome.said
        bulk_run.compare(output, bulk_run.embed_alone(tmp_path))
    reliability.add(
        fault=FAULTS[25],
        times=2,
        how='a tmpfs of 200 kB, the same command again, then enlarged',
        lost='what had not been written; the same again, once there is room',
        seen='exit code 1 and one line with the name of the file',
    )


def embed_in_bulk(directory, output):
    """Run a job of bulk_run to its end; return its doomed.Outcome."""
    process = subprocess.run(
        [sys.executable, 'bulk_embed.py', *bulk_run.flags(directory, output)],
        cwd=tiny_run.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return doomed.Outcome(process.returncode, process.stdout, [])


def test_read_only_file_system_is_told(data, all_stories, tmp_path, reliability):
    place = tmp_path.resolve() / 'frozen'
    root = place / 'exp'
    with mounted(place, 'size=8m') as is_mounted:
        if not is_mounted:
            reliability.skip(FAULTS[11], NO_MOUNT)
        shutil.copytree(all_stories['train.py'].after, root)
        before = stories.list_files(root)
        remount(place, 'ro')
        longer = ['--train_iterations', '4']
        faults = []
        for command, argv in (
            ('train', [*stories.resume_flags(root), *longer]),
            ('train', stories.train_flags(data, place / 'new', 2)),
            ('embed', stories.embed_flags(data, root)),
        ):
            outcome = doomed.run(command, argv)
            faults += find_bad_message(outcome, command, place)
        assert stories.list_files(root) == before
    assert not faults, '\n'.join(faults)
    reliability.add(
        fault=FAULTS[11],
        times=3,
        how='a tmpfs that is remounted read-only: a new run, a resumed one, embed.py',
        lost='nothing',
        seen='exit code 1 and one line with the name of the file',
    )


def test_removed_directory_is_told(data, tmp_path, reliability):
    root, said = tmp_path.resolve() / 'exp', tmp_path / 'said'
    process = doomed.start('train', stories.train_flags(data, root, 1000), said=said)
    doomed.wait_for(root / 'checkpoint-2.index', {process: said}, 60)
    root.rename(tmp_path / 'gone')  # At once, unlike rmtree.
    shutil.rmtree(tmp_path / 'gone', ignore_errors=True)
    process.join(60)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail(f'still running; {said.read_text()[-500:]}')
    outcome = doomed.Outcome(process.exitcode, said.read_text(), [])
    assert find_bad_message(outcome, 'train', root) == []
    assert not root.exists()
    reliability.add(
        fault=FAULTS[12],
        times=1,
        how='renamed and removed after the second checkpoint',
        lost='the run, as somebody wished',
        seen='exit code 1 and one line with the name of the directory',
    )


# Writes embeddings, after the first of which somebody else fills the disk.
FILL = """
import pathlib, sys
import h5py, numpy as np
import embedding_files

place = pathlib.Path(sys.argv[1])

def embs():
    for row in range(1000):
        yield [row], np.full([1, 1, 256], row, np.float32)
        if row == 0:
            with open(place / 'others', 'wb', buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass

fids = [f'{row}.png' for row in range(1000)]
embedding_files.write(place / 'x.h5', embs(), fids, ['original'], 256, None, {})
with h5py.File(place / 'x.h5') as file:
    assert (file['emb'][:] == np.arange(1000)[:, None]).all()
"""


def test_room_for_embeddings_is_held(tmp_path, reliability):
    place = tmp_path.resolve() / 'small'
    with mounted(place, 'size=4m') as is_mounted:
        if not is_mounted:
            reliability.skip(FAULTS[13], NO_MOUNT)
        process = subprocess.run(
            [sys.executable, '-c', FILL, str(place)],
            cwd=tiny_run.ROOT,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        assert sorted(path.name for path in place.iterdir()) == ['others', 'x.h5']
        stat = (place / 'x.h5').stat()
        assert stat.st_blocks * 512 < stat.st_size + 4096, 'room is not given back'
    reliability.add(
        fault=FAULTS[13],
        times=1,
        how='a tmpfs of 4 MB, filled after the first of 1,000 embeddings of 1 kB',
        lost='nothing',
        seen='-',
    )
