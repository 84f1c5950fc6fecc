"""What is done to commands here, and what must hold after they have been disturbed."""

import hashlib
import json
import pathlib
import re
import shutil
import time
import typing

import doomed
import numpy as np

import checkpoints
import common
import deployment
import embedding_files
import tiny_run
import trinet_recipe
from deployment import _sidecar
from run_files import assert_same_state
from searching import index

NUM_STEPS = 2

# What grows while a run lives: its last line may be torn, and no other. Then the arrays
# of --detailed_logs, whose rows are the same whenever they are written.
STREAMS = ('train.log', 'events.out.tfevents')
ARRAYS = ('embeddings', 'losses', 'fids')

# Endings of files that have the same bytes each time.
EXACT = (
    *('.h5', '.npy', '.txt', '.npz', '.csv', '.parquet', '.html', '.png', '.faiss'),
    *('.jpg', '.bytes', '.tsv', '.pbtxt'),
)

# Random parts of the names of temporary files, and of TensorBoard's.
RANDOM = re.compile(
    r'(?<=\.)[a-z0-9_]{8}(?=\.partial)|(?<=tempstate)\d+|(?<=\.tmp)[0-9a-f]+'
    r'|(?<=tfevents\.).*'
)


class Story(typing.NamedTuple):
    """A command, the files it begins with, and those of a run that nothing disturbed.

    Attributes:
        name: what happens.
        command: a module with `main`.
        argv: list of str, its flags.
        root: pathlib.Path that it writes below.
        before: pathlib.Path of a copy of what is there before, or None: nothing.
        after: pathlib.Path of a copy of what is there afterwards.
        synced: pathlib.Path of a directory with what was synced of files, the first
            one as 1.
        calls: list of doomed.Call, of the undisturbed run.
        secs: that it took.
    """

    name: str
    command: str
    argv: list
    root: pathlib.Path
    before: pathlib.Path | None
    after: pathlib.Path
    synced: pathlib.Path
    calls: list = ()
    secs: float = 0.0


def tell(name, command, argv, root, copies, before=None):
    """Return a Story, having run its command undisturbed.

    Args:
        name, command, argv, root, before: see Story.
        copies: pathlib.Path of a directory for Story.after and Story.synced.
    """
    synced = copies / f'{name}, synced'
    synced.mkdir()
    story = Story(name, command, argv, root, before, copies / name, synced)
    restart(story)
    # Where no faults can be injected, there are still those that need no library.
    fault = None if doomed.find_reason() else doomed.Fault(root)
    started = time.perf_counter()
    outcome = doomed.run(command, argv, fault, kept=synced)
    assert outcome.code == 0, outcome.said
    secs = time.perf_counter() - started
    shutil.copytree(root, story.after)
    return story._replace(calls=outcome.calls, secs=secs)


def restart(story):
    """Let everything be as it was before a story."""
    shutil.rmtree(story.root, ignore_errors=True)
    if story.before is not None:
        shutil.copytree(story.before, story.root)


def find(told, name, fault, reliability):
    """Return the Story of a name; skip the test if nothing can be injected here.

    Args:
        told: {name: Story}.
        name: of one.
        fault: to be injected, as the table calls it.
        reliability: the fixture.
    """
    reason = doomed.find_reason()
    if reason is not None:
        reliability.skip(fault, reason)
    return told[name]


def pick(numbers, how_many, every_fault):
    """Return all, or the first, the last and some between, `how_many` of them."""
    if every_fault or how_many >= len(numbers):
        return numbers
    if how_many == 1:
        return [numbers[len(numbers) // 2]]
    last = len(numbers) - 1
    return [numbers[i * last // (how_many - 1)] for i in range(how_many)]


def train(data, root, copies):
    """Return the Story of a new run: store, two iterations, checkpoint and best."""
    argv = train_flags(data, root, NUM_STEPS)
    story = tell('train.py', 'train', argv, root, copies)
    best = json.loads((story.after / 'best.json').read_text(encoding='utf-8'))
    assert best['step'] == NUM_STEPS, 'choose another seed: best is never replaced'
    return story


def train_flags(data, root, num_steps):
    """Return the flags of a run that writes a checkpoint and validates every time."""
    return tiny_run.flags(
        # Of this seed the second iteration is better than the first: best is replaced.
        *(data, root, '--train_iterations', str(num_steps), '--seed', '2'),
        *('--checkpoint_frequency', '1', '--val_every', '1'),
        *('--val_set', str(data / 'train.csv'), '--val_excluder', 'diagonal'),
        '--detailed_logs',
    )


def resume_flags(root):
    """Return the flags that go on with a run."""
    return ['--experiment_root', str(root), '--resume']


def embed_flags(data, root):
    """Return the flags of embed.py, with two variants and several batches."""
    return [
        *('--experiment_root', str(root), '--dataset', str(data / 'train.csv')),
        *('--flip_augment', '--aggregator', 'mean', '--batch_size', '4', '--quiet'),
    ]


def embed(data, trained, root, copies):
    """Return the Stories of embed.py, of a part, and of joining the parts.

    Args:
        data: pathlib.Path of a directory with train.csv.
        trained: pathlib.Path of a finished run.
        root: pathlib.Path that the experiment root will have.
        copies: pathlib.Path of a directory for copies.
    """
    argv = embed_flags(data, root)
    whole = tell('embed.py', 'embed', argv, root, copies, trained)
    flags = [*argv, '--shard', '1/2']
    part = tell('embed.py --shard', 'embed', flags, root, copies, trained)
    last = [*argv, '--shard', '2/2']
    parts = tell('embed.py --shard 2', 'embed', last, root, copies, part.after)
    flags = [*argv, '--merge']
    joined = tell('embed.py --merge', 'embed', flags, root, copies, parts.after)
    return [whole, part, joined]


# Endings of the files that `formats` tells of.
SUFFIXES = ('.npy', '.npz', '.csv', '.parquet')


def formats(data, trained, root, copies):
    """Return the Stories of embed.py that writes no HDF5, or keeps what it has done.

    See embed. What is kept has a file for each batch; see doomed.be.
    """
    flags = {
        f'embed.py to {end}': ['--filename', f'train_embeddings{end}']
        for end in SUFFIXES
    }
    # Two batches, and a file of few calls.
    few = ['--batch_size', '6', '--filename', 'train_embeddings.csv', '--resume']
    flags['embed.py --resume'] = few
    return [
        tell(name, 'embed', embed_flags(data, root) + more, root, copies, trained)
        for name, more in flags.items()
    ]


def export(data, trained, root, copies):
    """Return the Story of export.py in the place of an older export; see embed."""
    return export_as('onnx', 'export.py', data, trained, root, copies)


def export_as(kind, name, data, trained, root, copies):
    """Return the Story of export.py likewise, of a --format, under a name."""
    flags = [
        *('--experiment_root', str(root), '--format', kind, '--filename', 'net'),
        *('--check_images', str(data / 'train.csv'), '--quiet'),
    ]
    older = tell(
        *(f'{name} older', 'export', [*flags, '--checkpoint', 'checkpoint-1']),
        *(root, copies, trained),
    )
    return tell(name, 'export', flags, root, copies, older.after)


def build_index(data, embedded, root, copies):
    """Return the Story of search.py --build_index in the place of an older index.

    Args:
        data, root, copies: see embed.
        embedded: pathlib.Path of a run with embeddings.
    """
    flags = ['--gallery', str(root / 'train_embeddings.h5')]
    flags += ['--index', str(root / 'gallery.faiss'), '--build_index']
    older = tell('search.py older', 'search', [*flags, 'hnsw'], root, copies, embedded)
    return tell(
        *('search.py --build_index', 'search', [*flags, 'flat'], root, copies),
        older.after,
    )


def score_flags(data, root):
    """Return the flags of what reads embeddings: evaluate.py and visualize.py."""
    embeddings = str(root / 'train_embeddings.h5')
    return [
        *('--query_dataset', str(data / 'train.csv'), '--query_embeddings', embeddings),
        *('--gallery_dataset', str(data / 'train.csv')),
        *('--gallery_embeddings', embeddings, '--excluder', 'diagonal', '--quiet'),
    ]


def write(data, embedded, root, copies):
    """Return the Stories of the other commands that write files.

    Args:
        data: pathlib.Path of a directory with train.csv.
        embedded: pathlib.Path of a run with embeddings.
        root, copies: see embed.
    """
    scores = score_flags(data, root)
    json_flags = [*scores, '--filename', str(root / 'scores.json'), '--thresholds']
    pages = [str(root / 'page.html'), str(root / 'page.png')]
    page_flags = [*scores, '--image_root', str(data), '--filename', *pages]
    people = data / 'people'
    for pid in ('a', 'b'):
        (people / pid).mkdir(parents=True, exist_ok=True)
        tiny_run.write_noise(people / pid / '1.png', seed=1)
    csv_flags = ['folder', str(people), '--output_dir', str(root), '--quiet']
    scored = tell('evaluate.py', 'evaluate', json_flags, root, copies, embedded)
    curves = ['curves', str(root / 'scores.json'), '--output_dir', str(root)]
    picture = [
        *(str(data / '0_0.png'), '--gallery', str(root / 'train_embeddings.h5')),
        *('--experiment_root', str(root), '--picture', str(root / 'found.png')),
    ]
    plot = [str(root), '--filename', str(root / 'training.png')]
    projector = [
        *('projector', '--dataset', str(data / 'train.csv'), '--image_root', str(data)),
        *('--embeddings', str(root / 'train_embeddings.h5')),
        *('--output_dir', str(root)),
    ]
    return [
        scored,
        tell('visualize.py', 'visualize', page_flags, root, copies, embedded),
        tell('visualize.py curves', 'visualize', curves, root, copies, scored.after),
        tell('visualize.py projector', 'visualize', projector, root, copies, embedded),
        tell('search.py --picture', 'search', picture, root, copies, embedded),
        tell('plot.py', 'plot', plot, root, copies, embedded),
        tell('make_csv.py', 'make_csv', csv_flags, root, copies),
        embed_with_published(data, root, copies),
    ]


def embed_with_published(data, root, copies):
    """Return the Story of trinet_embed.py, with weights of the tests; see write."""
    weights, images = copies / 'weights.npz', copies / 'images.txt'
    np.savez(weights, *trinet_recipe.make_arrays())
    images.write_text(''.join(f'{path.name}\n' for path in sorted(data.glob('*.png'))))
    flags = [str(images), str(weights), '--image_root', str(data), '--no_augment']
    flags += ['--output', str(root / 'trinet_embeddings.h5'), '--quiet']
    return tell('trinet_embed.py', 'trinet_embed', flags, root, copies)


# --- what must hold --------------------------------------------------------------


def is_final(path):
    """Say whether a path, relative to the root, is one that results have."""
    return not any(
        part.startswith('.') or part.endswith(('_temp', '.partial')) or '.tmp' in part
        for part in pathlib.PurePath(path).parts
    )


def is_stream(path):
    """Say whether a path is that of a file that grows while a run lives."""
    name = pathlib.PurePath(path).name
    return name in ARRAYS or name.startswith(STREAMS)


def list_files(root):
    """Return the relative paths of all files and folders below a directory, sorted."""
    return sorted(str(path.relative_to(root)) for path in root.rglob('*'))


def find_damage(root):
    """Return what is wrong with the files under final names, list of str."""
    damage = []
    for name in list_files(root):
        if not is_final(name) or (root / name).is_dir():
            continue
        try:
            check_file(root / name)
        except Exception as error:  # Each reader has its own.
            damage.append(f'{name} is damaged: {" ".join(str(error).split())[:200]}')
    return damage


def check_file(path):
    """Raise an exception if a file is damaged, or what belongs to it is missing."""
    if path.name.endswith(('.onnx.json', '_saved_model.json')):
        _sidecar.check(
            str(path.with_suffix('')), _sidecar.read(str(path.with_suffix('')))
        )
    elif path.name.endswith('.faiss.json'):
        target = str(path.with_suffix(''))
        assert index.read_described(target).sha256 == common.hash_file(target)
    elif path.suffix == '.json':
        json.loads(path.read_text(encoding='utf-8'))
    elif path.suffix == '.index' and path.stem != 'variables':  # Of a SavedModel.
        read_checkpoint(path.parent, path.stem)
    elif path.suffix == '.onnx':
        deployment.load('onnx').load(str(path))
    elif path.suffix == '.faiss':
        import faiss

        assert faiss.read_index(str(path)).ntotal
    elif '_embeddings.' in path.name and path.suffix in ('.h5', *SUFFIXES):
        check_embeddings(path)
    elif path.name == 'checkpoint':
        checkpoints.latest(str(path.parent))
    if path.name == 'best.json':
        record = json.loads(path.read_text(encoding='utf-8'))
        told = record['step']
        step = int(read_checkpoint(path.parent, record['checkpoint'])['global_step'])
        assert step == told, f'weights of step {step}, but it tells of step {told}'


def check_embeddings(path):
    """Raise an exception if a file of embeddings is damaged, as far as it can tell."""
    opened = embedding_files.open_embeddings(str(path))
    assert len(opened.embs) == len(opened.fids) > 0
    # A list of images, and what stands beside .npy, have no PIDs.
    has_pids = path.suffix != '.npy' and not path.name.startswith('trinet_')
    assert not has_pids or len(opened.pids) == len(opened.fids)
    embedding_files.check_numbers(opened.embs, opened.fids, str(path), opened.skipped)
    if path.suffix != '.h5':
        return
    with opened.embs.file as file:
        assert embedding_files.read_checksum(opened.embs) is not None
        assert file['embs'] == file['emb']
        if 'emb_aug' not in file:  # One variant alone.
            return
        stored = embedding_files.read_checksum(file['emb_aug'])
        checksum = embedding_files.update_checksum(0, file['emb_aug'][:])
        embedding_files.check_checksum(stored, checksum, str(path))


def find_torn(story):
    """Return which results are neither the former ones nor the new ones, list of str.

    Of the kinds that have the same bytes each time.
    """
    places = [place for place in (story.before, story.after) if place is not None]
    return [
        f'{name} is neither the former one nor the new one'
        for name in list_files(story.root)
        if is_final(name)
        and pathlib.PurePath(name).suffix in EXACT
        and (story.root / name).read_bytes()
        not in [(p / name).read_bytes() for p in places if (p / name).is_file()]
    ]


def read_checkpoint(root, name):
    """Return {name: array} of a checkpoint but for its flags, all of them read."""
    weights = checkpoints.WeightsFile(str(root / name))
    arrays = {name: weights.read(name) for name in weights.shapes}
    assert json.loads(arrays.pop(checkpoints.ARGS_NAME))['train_iterations']
    return {name: array for name, array in arrays.items() if name[0] != '_'}


def find_difference(story):
    """Return how the files differ from those of the undisturbed run, list of str."""
    found, expected = (
        {RANDOM.sub('*', name): name for name in list_files(root)}
        for root in (story.root, story.after)
    )
    differences = [f'{found[name]} is left over' for name in found.keys() - expected]
    differences += [f'{name} is missing' for name in expected.keys() - found]
    for name in sorted(found.keys() & expected):
        try:
            compare(story.root / found[name], story.after / expected[name])
        except (AssertionError, ValueError, OSError, common.InputError) as error:
            lines = str(error).split('\n')
            differences.append(f'{name} is another: {" ".join(lines)[:200]}')
    return differences


def compare(path, expected):
    """Raise an exception if a result is not that of the undisturbed run."""
    if path.suffix == '.json':
        ours, others = (json.loads(p.read_text('utf-8')) for p in (path, expected))
        different = {k for k in ours | others if ours.get(k) != others.get(k)}
        # How it was called at last; what differs between any two exports; how long it
        # took.
        free = {'resume', 'experiment_root', 'parity', 'sha256'}
        free |= {'build_secs', 'queries_per_s'}
        assert different <= free, different
    elif path.suffix == '.index' and path.stem.startswith('best'):
        ours, others = (read_checkpoint(p.parent, p.stem) for p in (path, expected))
        assert ours.keys() == others.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], others[name], err_msg=name)
    elif path.suffix == '.index' and path.stem != 'variables':
        assert_same_state(
            *(read_checkpoint(p.parent, p.stem) for p in (path, expected))
        )
    elif path.suffix == '.onnx' or path.name == 'saved_model.pb':
        # Its nodes have other names each time; so have the variables of the latter.
        kind = path.suffix.removeprefix('.')
        if kind == 'pb':
            kind, path, expected = 'saved_model', path.parent, expected.parent
        height, width = _sidecar.read(str(path)).net_size
        noise = np.random.default_rng(0).uniform(0, 255, (2, height, width, 3))
        runs = [deployment.load(kind).load(str(p)) for p in (path, expected)]
        np.testing.assert_array_equal(*(run(noise.astype('f4')) for run in runs))
    elif path.suffix in EXACT or path.name in ARRAYS:
        assert path.read_bytes() == expected.read_bytes()


def repeat(story):
    """Do what a user does about a command that was stopped; return the doomed.Outcome.

    A run is resumed. One that had not got as far as its first checkpoint may as well be
    started again, whichever works.
    """
    if story.command != 'train':
        return doomed.run(story.command, story.argv)
    resume = resume_flags(story.root)
    if (story.root / 'checkpoint').exists():
        return doomed.run('train', resume)
    again = doomed.run('train', story.argv)
    if again.code == 0:
        return again
    outcome = doomed.run('train', resume)
    return outcome._replace(said=f'{again.said}\n{outcome.said}')


def find_fault(story):
    """Return what is wrong after a command was disturbed, list of str.

    Looks at the files, does what a user does, and compares with the undisturbed run.
    """
    faults = find_damage(story.root) + find_torn(story)
    outcome = repeat(story)
    if outcome.code:
        lines = [line for line in outcome.said.splitlines() if 'error' in line.lower()]
        return [*faults, f'a dead end: {" / ".join(lines)}']
    return faults + find_difference(story)


def fingerprint(root):
    """Return a number of all files below a directory, but for what logs say.

    Two interrupted commands that leave the same files are continued alike.
    """
    digest = hashlib.sha256()
    for name in list_files(root):
        path = root / name
        digest.update(f'{RANDOM.sub("*", name)}\n'.encode())
        if path.is_file() and not path.name.startswith(STREAMS):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def find_unsynced(calls, root):
    """Return which results a power failure could take, list of str.

    A file must be synced after its last write and before it is given its name, and the
    directory of a name that was given, taken or made before the next such change in it:
    the disk may have them in any order. What a run tells must be synced before it goes
    on from a later checkpoint.

    Args:
        calls: list of doomed.Call, of an undisturbed command.
        root: pathlib.Path that it writes below.
    """

    def relative(path):
        return str(pathlib.PurePath(path).relative_to(root))

    found = []
    written = {}  # {path: call}, not synced since.
    named = {}  # {directory: what happened to which name}, likewise.

    def change(path, how):
        directory = str(pathlib.PurePath(path).parent)
        if directory in named:
            found.append(f'{named[directory]} is not synced before {path} is {how}')
        named[directory] = f'{path}, {how},'

    for call in calls:
        if call.name in ('write', 'truncate', 'fallocate'):
            written[call.path] = call
            if is_final(relative(call.path)) and not is_stream(call.path):
                found.append(f'{relative(call.path)} is written in its place')
        elif call.name == 'fsync':
            written.pop(call.path, None)
            named.pop(call.path, None)
        elif call.name == 'rename':
            is_named = is_final(relative(call.to))
            if relative(call.to) == checkpoints.INDEX_FILE:
                found += [
                    f'{relative(path)} is not synced before {call.n}, a checkpoint'
                    for path in written
                    if is_stream(path)
                ]
            for path in [p for p in written if f'{p}/'.startswith(f'{call.path}/')]:
                moved = call.to + path.removeprefix(call.path)
                written[moved] = written.pop(path)
                if is_named:
                    found.append(f'{relative(moved)} is not synced before its rename')
            if is_named:
                change(call.to, 'named')
        elif call.name in ('unlink', 'rmdir'):
            written.pop(call.path, None)
            if is_final(relative(call.path)):
                change(call.path, 'removed')
        elif call.name == 'mkdir' and is_final(relative(call.path)):
            change(call.path, 'made')
    found += [f'{name} is never synced' for name in named.values()]
    return [one.replace(f'{root}/', '') for one in dict.fromkeys(found)]
