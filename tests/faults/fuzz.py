#!/usr/bin/env python3
"""Feed rubbish to every reader of files: what is read, what is refused, and the rest.

    PYTHONPATH=.:tests python tests/faults/fuzz.py DIRECTORY KIND:FIRST:LAST...

Spoils files of each KIND (of KINDS), those numbered from FIRST to LAST - 1, in an
existing DIRECTORY, and reads each as the commands do. A number is a seed: it makes the
same file everywhere. Writes [kind, number, what became of it] to results.txt there, a
line each: 'read', 'refused', or what should not be. A C library may crash, and a reader
that takes SECONDS is ended by SIGPROF: at_work.txt has what was being read.
"""

import contextlib
import functools
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import typing
import zlib

import h5py
import keras
import numpy as np
import spoilers
import tensorflow as tf

import checkpoints
import common
import datasets
import embed
import embedder
import embedding_files
import model
import plot
import run_args
import tiny_run
import train
from deployment import _parity, _run, _sidecar
from embedding import blocks, outputs, shards
from searching import gallery, index, verdicts
from training import flags, journal, resuming, settings, validation
from visuals import score_curves

SECONDS = 10  # Of processor that a reader may take: a thousand times what it needs.
PATIENCE = 60  # Seconds that it may wait, such as for a FIFO, on a busy machine.
MEMORY = 2**30  # That it may take; the files have kilobytes.
DRAWN = 25  # Of so many evaluations and curves that are read, one is drawn.

POINTS = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
FIDS = [f'{pid}_{i}.png' for pid in range(4) for i in range(3)]
PIDS = [fid[0] for fid in FIDS]
CSV = ''.join(f'{pid},{fid}\n' for pid, fid in zip(PIDS, FIDS, strict=True))


class Kind(typing.NamedTuple):
    """A kind of file that is read.

    Attributes:
        filename: in the directory, what is spoilt.
        make: function of a directory that writes sound files to it, what is read with
            them included, and returns the contents [bytes] of sound ones of the kind.
        read: function of the directory and a number; reads as the commands do.
        ways: of spoilers, beside those that change bytes.
    """

    filename: str
    make: typing.Callable
    read: typing.Callable
    ways: tuple = ()


# --- data sets and flags ---------------------------------------------------------


def make_csv(directory):
    named = 'camera,fid,pid\n1,"a ""b"",c.jpg",0001\n2,d.jpg,#7\n'
    cameras = ''.join(f'{line},{i}\n' for i, line in enumerate(CSV.split()))
    return [text.encode() for text in (CSV, named, cameras, '\ufeff' + CSV)]


def read_csv(directory, number):
    has_header = bool(number % 2)
    datasets.read(str(directory / 'set.csv'), has_header)


def make_args(directory):
    (directory / 'train.csv').write_text(CSV)
    both = []
    for more in ([], ['--val_set', 'x.csv', '--val_excluder', 'diagonal']):
        args = train.build_parser().parse_args(
            [*tiny_run.flags(directory, directory, '--pad_crop', '2'), *more]
        )
        values = resuming.to_json(vars(args) | {resuming.CHECKSUM: 1})
        both.append(json.dumps(values, indent=2).encode())
    return both


def read_args(directory, number):
    trained = embedder.read_trained_net(str(directory))
    embedder.choose_image_root(None, str(directory))
    stored = run_args.read(str(directory)).get('crop_augment')
    embed.describe_scale('center', stored, trained)
    resume = ['--experiment_root', str(directory), '--resume']
    args = flags.parse_args('', resume).args
    settings.group(args)
    resuming.check_rows(vars(args), 1)


# --- JSON ------------------------------------------------------------------------


def make_scores(directory):
    plain = {'mAP': 0.5, 'CMC': [0.25, 0.75, 1.0], 'aps': [0.5, 0.5]}
    full = plain | {
        'equal_error_rate': 0.25,
        'thresholds': [{'rule': 'equal error rate', 'threshold': 1.5, 'tpr': 0.75}],
        'roc': {'fpr': [0, 0.001, 1], 'tpr': [0, 0.5, 1], 'threshold': [-1, 0, 2]},
        'distance_histogram': {
            'edges': [0, 1, 3.5],
            'same': [3, 1],
            'different': [0, 2],
        },
        'args': {'metric': 'euclidean', 'rerank': False},
    }
    return [json.dumps(scores).encode() for scores in (full, plain)]


def read_scores(directory, number):
    scores = {'ours': score_curves.read_scores(str(directory / 'scores.json'))}
    figures = [score_curves.draw_cmc(scores, 50)]
    if 'roc' in scores['ours']:
        figures.append(score_curves.draw_roc(scores))
    if 'distance_histogram' in scores['ours']:
        figures.append(score_curves.draw_distances(scores))
    if number % DRAWN == 0:
        for figure in figures:
            figure.savefig(io.BytesIO(), format='png')


def make_best(directory):
    (directory / 'best-3.index').touch()
    record = {'step': 3, 'last': 4, 'checksum': 123456, 'mAP': 0.25, 'top1': 0.5}
    return [json.dumps({**record, 'checkpoint': 'best-3'}, indent=2).encode()]


def read_best(directory, number):
    state = make_state(str(directory))
    best = validation.read_record(state)
    if best is None:  # Its checkpoint is not there.
        return
    assert best['mAP'] < 0.5 or f'{best["mAP"]:.2%} {best["step"]} {best.get("top1")}'


@functools.cache
def make_state(directory):
    network = model.build_model('mobilenet_v1_1_224', 'direct', 8)
    optimizer = keras.optimizers.Adam()
    optimizer.build(network.trainable_variables)
    return checkpoints.TrainingState(network, optimizer, directory)


def make_header(directory):
    journal.DetailedLogs(str(directory), 3, 4, 2, ['a', 'b']).close()
    return [(directory / 'embeddings.json').read_bytes()]


def read_header(directory, number):
    journal.ArrayFile(str(directory), 'embeddings', 'f4', (5, 4, 2)).file.close()


# --- embeddings ------------------------------------------------------------------


def make_hdf5(directory):
    (directory / 'set.csv').write_text(CSV)
    filename = directory / 'ours.h5'
    embedding_files.write(
        str(filename),
        iter([(range(5), POINTS[None, :5]), (range(5, 12), POINTS[None, 5:])]),
        *(FIDS, ['original'], 8, None, {'args': '{}'}, PIDS),
    )
    return [filename.read_bytes()]


def read_hdf5(directory, number):
    dataset = embedding_files.load(
        *(str(directory / name) for name in ('set.csv', 'embs.h5')),
        streams=bool(number % 2),
    )
    # A sum protects the numbers, unless it lost its own name.
    embs = embedding_files.open_embeddings(str(directory / 'embs.h5')).embs
    if embedding_files.read_checksum(embs) is not None:
        np.testing.assert_array_equal(dataset.embs[:], POINTS)
    else:
        assert number


def make_foreign(directory):
    """Return what embed.py would not write: chunks, filters, texts of fixed width."""
    (directory / 'set.csv').write_text(CSV)
    contents = []
    for options in (
        {},
        {'chunks': (5, 3)},
        {'chunks': (4, 8), 'compression': 'gzip', 'shuffle': True},
        {'chunks': (4, 8), 'compression': 'lzf', 'fletcher32': True},
        {'chunks': (4, 8), 'maxshape': (None, 8)},
    ):
        for version in ('earliest', 'latest'):
            target = io.BytesIO()
            with h5py.File(target, 'w', libver=version) as file:
                file.create_dataset('embs', data=POINTS, **options)
                file['fid'] = np.array(FIDS, 'S')
            contents.append(target.getvalue())
    return contents


def read_embeddings(name):
    def read(directory, number):
        dataset = embedding_files.load(
            *(str(directory / file) for file in ('set.csv', name)),
            streams=bool(number % 2),
        )
        assert np.isfinite(dataset.embs[:]).all()
        assert dataset.embs.shape[0] == 12

    return read


def make_npy(directory):
    (directory / 'set.csv').write_text(CSV)
    contents = []
    for array in (POINTS, np.asfortranarray(POINTS, 'f8'), POINTS.astype('>f4')):
        target = io.BytesIO()
        np.save(target, array)
        contents.append(target.getvalue())
    np.save(target := io.BytesIO(), np.array([{}, None]), allow_pickle=True)
    return [*contents, target.getvalue()]


def make_npz(directory):
    (directory / 'set.csv').write_text(CSV)
    contents = []
    for save in (np.savez, np.savez_compressed):
        for arrays in ({'emb': POINTS, 'fid': np.array(FIDS)}, {'x': POINTS}):
            save(target := io.BytesIO(), **arrays)
            contents.append(target.getvalue())
    return contents


def make_table(suffix):
    def make(directory):
        (directory / 'set.csv').write_text(CSV)
        contents = []
        for pids in (PIDS, None):
            filename = directory / f'ours{suffix}'
            batches = iter(
                [(range(5), POINTS[None, :5]), (range(5, 12), POINTS[None, 5:])]
            )
            outputs.write(
                *(str(filename), batches, FIDS, ['original'], 8, None, {'args': '{}'}),
                *(pids, {}),
            )
            contents.append(filename.read_bytes())
        return contents

    return make


def read_csv_embeddings(directory, number):
    dataset = embedding_files.load(
        *(str(directory / name) for name in ('set.csv', 'embs.csv'))
    )
    # Its numbers have no sums. What says nan was skipped.
    assert np.isfinite(dataset.embs[:]).all()
    assert len(dataset.embs) + dataset.num_skipped == 12


def read_parquet(directory, number):
    dataset = embedding_files.load(
        *(str(directory / name) for name in ('set.csv', 'embs.parquet'))
    )
    # Its pages have sums.
    np.testing.assert_array_equal(dataset.embs[:], POINTS)


def make_names(directory):
    np.save(directory / 'embs.npy', POINTS)
    (directory / 'set.csv').write_text(CSV)
    return [''.join(f'{fid}\n' for fid in FIDS).encode()]


BLOCKS = '.embs.h5.blocks'


def make_block(directory):
    keeper = blocks.Blocks(str(directory / 'embs.h5'), FLAGS, dict, 12)
    keeper.write([(list(range(5)), POINTS[None, :5])], {})
    keeper.write([(list(range(5, 12)), POINTS[None, 5:])], {})
    keeper.close()
    return [pathlib.Path(keeper.name(0)).read_bytes()]


def make_block_header(directory):
    make_block(directory)
    return [(directory / BLOCKS / blocks.HEADER).read_bytes()]


def read_blocks(directory, number):
    keeper = blocks.Blocks(str(directory / 'embs.h5'), FLAGS, dict, 12)
    with contextlib.closing(keeper):
        keeper.find(True)
        for rows, embs in keeper.replay():
            assert embs.shape == (1, len(rows), 8)
        assert keeper.done in (0, 5, 12)


def make_thresholds(directory):
    return make_scores(directory)[:1]


def read_thresholds(directory, number):
    limit = verdicts.choose(
        str(directory / 'thresholds.json'),
        0.01 if number % 2 else None,
        *(None, 'euclidean', embedding_files.Origin()),
    )
    assert limit.distance <= np.inf, limit
    assert 0 <= limit.fpr <= 1, limit


@functools.cache
def make_gallery():
    columns = (datasets.to_object_array(texts) for texts in (PIDS, FIDS, FIDS))
    return gallery.Gallery(POINTS, *columns, embedding_files.Origin(), ['x.h5'])


def make_index(name):
    def make(directory):
        filename = str(directory / 'x.faiss')
        index.build('flat', filename, make_gallery(), 'euclidean', 0.9)
        return [(directory / name).read_bytes()]

    return make


def read_index(directory, number):
    index.Index(str(directory / 'x.faiss'), make_gallery(), [], 'euclidean')


def make_sidecar(directory):
    ours = embedder.Embedder(None, 8, (12, 6), (14, 7), 'cityblock', 1.5)
    run = _run.Run('exp', 'exp/checkpoint-3', 3, {}, ours, 'abc', 'exp', None, None)
    parity = _parity.Parity(100, 2, 1e-6, 1.0, 5.0, 6.0)
    return [
        json.dumps(_run.describe(run, 'onnx', kind, parity, 'abc'), indent=2).encode()
        for kind in ('pixels', 'encoded')
    ]


def read_sidecar(directory, number):
    sidecar = _sidecar.read(str(directory / 'x.onnx'))
    np.empty(sidecar.net_size[:1])  # Numbers that mean something.
    assert sidecar.threshold is None or sidecar.threshold >= 0


FLAGS = {'batch_size': 5, 'dataset': 'set.csv', 'crop_augment': 'five'}
SHARD = 'embs.shard-1-of-2.h5'


def make_shard(directory):
    contents = []
    for first, last in ((0, 5), (5, 12)):
        part = shards.Shard(1 + bool(first), 2)
        attributes = {
            'args': embedding_files.dump_args(FLAGS),
            'checkpoint': 'exp/checkpoint-3',
            'versions': json.dumps({'tensorflow': '2.21.0'}),
        } | shards.describe(part, {'model_name': 'x'}, 'float32', 'abc')
        filename = directory / shards.name_of('embs.h5', part)
        embedding_files.write(
            str(filename),
            iter([(range(last - first), np.stack([POINTS, -POINTS])[:, first:last])]),
            *(FIDS[first:last], ['a', 'b'], 8, lambda embs: embs.mean(axis=0)),
            *(attributes, PIDS[first:last]),
        )
        contents.append(filename.read_bytes())
    return contents[:1]


def read_shard(directory, number):
    parts = [str(directory / f'embs.shard-{i}-of-2.h5') for i in (1, 2)]
    shards.check(parts, FLAGS, FIDS, (2, 12, 8))
    embs = np.concatenate([e for _, e in shards.read(parts, 5, True)], axis=1)
    np.testing.assert_array_equal(embs, np.stack([POINTS, -POINTS]))


# --- TensorFlow's files ----------------------------------------------------------

CHECKPOINT_DATA = 'checkpoint-1.data-00000-of-00001'


def make_checkpoint(name):
    def make(directory):
        variables = {
            'net/weights': tf.Variable(POINTS),
            'net/biases': tf.Variable(POINTS[0]),
            'global_step': tf.Variable(1, dtype=tf.int64),
        }
        manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(**variables),
            *(str(directory), None),
            checkpoint_name='checkpoint',
        )
        manager.save(checkpoint_number=1)
        return [(directory / name).read_bytes()]

    return make


def read_checkpoint(directory, number):
    weights = checkpoints.WeightsFile(checkpoints.latest(str(directory)))
    for name, shape in weights.shapes.items():
        value = weights.read(name)
        assert name.startswith('_') or value.shape == shape


def make_old_checkpoint(directory):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        variables = [
            v1.get_variable(name, initializer=array, use_resource=False)
            for name, array in (('net/weights', POINTS), ('net/biases', POINTS[0]))
        ]
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(variables, write_version=v1.train.SaverDef.V1)
        saver.save(session, str(directory / 'old.ckpt'), write_meta_graph=False)
    return [(directory / 'old.ckpt').read_bytes()]


def read_old_checkpoint(directory, number):
    weights = checkpoints.WeightsFile(str(directory / 'old.ckpt'))
    for name, shape in weights.shapes.items():
        assert weights.read(name).shape == shape


def make_events(directory):
    scalars, histograms = plot.CURVES[:5], plot.CURVES[5:]
    inner = directory / 'made'
    writer = tf.summary.create_file_writer(str(inner))
    with writer.as_default():
        for step in (1, 2, 3):
            for tag in (*scalars, *plot.VALIDATION):
                tf.summary.scalar(tag, 0.5 * step, step=step)
            for tag in histograms:
                tf.summary.histogram(tag, POINTS[step], step=step, buckets=5)
            old = tf.raw_ops.ScalarSummary(tags='loss', values=0.25 * step)
            tf.summary.experimental.write_raw_pb(old, step + 3)
            old = tf.raw_ops.HistogramSummary(tag=histograms[0], values=POINTS[step])
            tf.summary.experimental.write_raw_pb(old, step + 3)
    writer.close()
    (name,) = inner.iterdir()
    content = name.read_bytes()
    shutil.rmtree(inner)
    return [content]


def read_events(directory, number):
    run = plot.read_events(str(directory))
    if number % DRAWN == 0:
        plot.plot_runs({'run': run}).savefig(io.BytesIO(), format='png')


JSON_WAYS = (spoilers.change_json,) * 8 + (spoilers.repeat_key,)
HDF5_WAYS = (spoilers.change_dataset,) * 2

# Every kind of file that is read, but for images.
KINDS = {
    'csv': Kind('set.csv', make_csv, read_csv),
    'args.json': Kind('args.json', make_args, read_args, JSON_WAYS),
    'evaluation': Kind('scores.json', make_scores, read_scores, JSON_WAYS),
    'best.json': Kind('best.json', make_best, read_best, JSON_WAYS),
    'log header': Kind('embeddings.json', make_header, read_header, JSON_WAYS),
    'hdf5': Kind('embs.h5', make_hdf5, read_hdf5),
    'foreign hdf5': Kind(
        'embs.h5', make_foreign, read_embeddings('embs.h5'), HDF5_WAYS
    ),
    'npy': Kind('embs.npy', make_npy, read_embeddings('embs.npy')),
    'npz': Kind(
        'embs.npz',
        make_npz,
        read_embeddings('embs.npz'),
        (spoilers.change_member,) * 8,
    ),
    'csv of embeddings': Kind('embs.csv', make_table('.csv'), read_csv_embeddings),
    'parquet': Kind('embs.parquet', make_table('.parquet'), read_parquet),
    'names beside npy': Kind('embs.txt', make_names, read_embeddings('embs.npy')),
    'block of embeddings': Kind(
        f'{BLOCKS}/rows-0.npz', make_block, read_blocks, (spoilers.change_member,) * 8
    ),
    'header of blocks': Kind(
        f'{BLOCKS}/{blocks.HEADER}', make_block_header, read_blocks, JSON_WAYS
    ),
    'export': Kind('x.onnx.json', make_sidecar, read_sidecar, JSON_WAYS),
    'thresholds': Kind('thresholds.json', make_thresholds, read_thresholds, JSON_WAYS),
    'index': Kind('x.faiss', make_index('x.faiss'), read_index),
    'index json': Kind(
        'x.faiss.json', make_index('x.faiss.json'), read_index, JSON_WAYS
    ),
    'shard': Kind(SHARD, make_shard, read_shard, (spoilers.change_attribute,) * 8),
    'checkpoint state': Kind(
        'checkpoint', make_checkpoint('checkpoint'), read_checkpoint
    ),
    'checkpoint index': Kind(
        'checkpoint-1.index', make_checkpoint('checkpoint-1.index'), read_checkpoint
    ),
    'checkpoint data': Kind(
        CHECKPOINT_DATA, make_checkpoint(CHECKPOINT_DATA), read_checkpoint
    ),
    'old checkpoint': Kind('old.ckpt', make_old_checkpoint, read_old_checkpoint),
    'events': Kind(
        'events.out.tfevents.1.run',
        make_events,
        read_events,
        (spoilers.change_record,) * 8,
    ),
}


# --- running ---------------------------------------------------------------------


def spoil(kind, contents, rng):
    """Return a file of a Kind, spoilt, bytes; `contents` are sound ones."""
    ways = (*spoilers.BYTES, *kind.ways)
    way = ways[rng.integers(len(ways))]
    content, other = (contents[i] for i in rng.integers(len(contents), size=2))
    return way(rng, content, other)


def read_one(kind, directory, number):
    """Return 'read', 'refused', or what else became of reading a spoilt file."""
    before = sorted(os.listdir(directory))
    content = (directory / kind.filename).read_bytes()
    try:
        kind.read(directory, number)
        outcome = 'read'
    except common.InputError as error:
        message = common.describe_error(error)
        outcome = 'refused' if str(directory) in message else f'no file: {message}'
    except SystemExit as error:
        outcome = 'refused' if error.code == 2 else f'exit {error.code}'
    except BaseException as error:
        outcome = f'{type(error).__name__}: {error}'
    if sorted(os.listdir(directory)) != before:
        return f'{outcome}, other files'
    is_changed = (directory / kind.filename).read_bytes() != content
    return f'{outcome}, written to' if is_changed and outcome != 'read' else outcome


def run(directory, name, numbers):
    """Yield (number, what became of it) of spoilt files."""
    kind = KINDS[name]
    directory = directory / name.replace(' ', '_')
    directory.mkdir()
    # Not limited by what the kinds before have left: C code does not survive that.
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    contents = kind.make(directory)
    target = directory / kind.filename
    target.write_bytes(contents[0])
    kind.read(directory, 0)  # What is not spoilt is read.
    limit_memory()
    for number in numbers:
        (directory.parent / 'at_work.txt').write_text(json.dumps([name, number, None]))
        rng = np.random.default_rng([number, zlib.crc32(name.encode())])
        target.write_bytes(spoil(kind, contents, rng))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(PATIENCE)
        outcome = read_one(kind, directory, number)
        yield number, outcome


def limit_memory():
    """Let what allocates much more than the process has now fail."""
    pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def main(argv=None):
    directory, *words = sys.argv[1:] if argv is None else argv
    directory = pathlib.Path(directory)
    with open(directory / 'results.txt', 'w', encoding='utf-8') as results:
        for word in words:
            name, first, last = word.split(':')
            for number, outcome in run(directory, name, range(int(first), int(last))):
                print(json.dumps([name, number, outcome]), file=results, flush=True)


if __name__ == '__main__':
    main()
