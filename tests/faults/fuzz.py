#!/usr/bin/env python3
"""Feed rubbish to every reader of files: what is read, what is refused, and the rest.

    PYTHONPATH=.:tests python tests/faults/fuzz.py DIRECTORY KIND:FIRST:LAST...

Spoils files of each KIND (of KINDS), those numbered from FIRST to LAST - 1, in an
existing DIRECTORY, and reads each as the commands do. A number is a seed: it makes the
same file everywhere. Writes [kind, number, what became of it] to results.txt there, a
line each: 'read', 'refused', or what should not be. Some files are also given to a
command, which must write all of its output or nothing. A C library may crash, and a
reader that takes SECONDS is ended by SIGPROF: at_work.txt has what was being read.
"""

import atexit
import contextlib
import functools
import io
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import traceback
import types
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
import evaluate
import make_csv as make_csv_command
import model
import nets._mobilenet
import plot
import run_args
import tiny_run
import train
from bulk import inputs
from bulk import parts as bulk_parts
from data import _tables
from deployment import _parity, _run, _sidecar
from embedding import blocks, outputs, shards, sources
from nets import _trinet
from searching import gallery, index, verdicts
from training import flags, journal, resuming, settings, validation
from visuals import score_curves

SECONDS = 10  # Of processor that a reader may take: a thousand times what it needs.
PATIENCE = 60  # Seconds that it may wait, such as for a FIFO, on a busy machine.
MEMORY = 2**30  # That it may take; the files have kilobytes.
NO_MEMORY = re.compile(r'memory allocation|bad_alloc|t allocate|out of memory', re.I)
COMMANDED = 100  # Of so many files of some kinds, one is given to a command.
DRAWN = 25  # Of so many evaluations and curves that are read, one is drawn.

# Forks processes that search an index.
SERVER = pathlib.Path(__file__).with_name('serve_index.py')

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


def make_table_with_heading(directory):
    more = '"name, of it";{};"{}";"a ""b"""\n'
    rows = zip(PIDS, FIDS, strict=True)
    wide = 'x;pid;fid;y\n' + ''.join(more.format(*row) for row in rows)
    split = 'fid,pid,split\n' + ''.join(f'{fid},{fid[0]},a\n' for fid in FIDS)
    return [split.encode(), wide.encode()]


def read_table_with_heading(directory, number):
    filename = str(directory / 'table.csv')
    split = 'split' if number % 2 else None
    splits = _tables.read(filename, _tables.Columns('pid', 'fid', None, split))
    _tables.describe_unknown(splits)
    assert all(len(row) == 2 for rows in splits.values() for row in rows)


def make_image_list(directory):
    (directory / 'images').mkdir()
    for fid in FIDS:
        (directory / 'images' / fid).touch()
    return [''.join(f'{fid}\n' for fid in FIDS).encode()]


def read_image_list(directory, number):
    name = str(directory / 'list.txt')
    found = sources.read(name, False, str(directory / 'images'))
    datasets.check_inside(name, found.fids, found.image_root)
    datasets.check_images_exist(name, found.fids, found.image_root, is_csv=False)
    assert {os.path.basename(fid) for fid in found.fids} <= set(FIDS)


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
    assert np.isfinite(best['mAP'])  # It is compared with the next one.
    assert best['step'] == int(best['step'])


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


def make_parts(name):
    def make(directory):
        (directory / 'set.csv').write_text(CSV)
        job = bulk_parts.describe({'batch_size': 5}, 'abc', JOB)
        bulk_parts.begin(str(directory / 'parts'), job)
        for number, (first, last) in enumerate(((0, 5), (5, 12))):
            rows = [(FIDS[i], PIDS[i], None) for i in range(first, last)]
            bulk_parts.write_part(
                *(str(directory / 'parts'), number, rows, POINTS[first:last]),
                {'weights': 'abc', 'args': '{}'},
            )
        return [(directory / 'parts' / name).read_bytes()]

    return make


def read_parts(directory, number):
    dataset = embedding_files.load(str(directory / 'set.csv'), f'{directory}/parts')
    np.testing.assert_array_equal(dataset.embs[:], POINTS)


def read_description(directory, number):
    job = bulk_parts.describe({'batch_size': 5}, 'abc', JOB)
    assert bulk_parts.begin(str(directory / 'parts'), job) == []
    read_parts(directory, number)


def make_tar(directory):
    contents = []
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode='w', format=form) as archive:
            for fid, pid in zip(FIDS[:4], PIDS, strict=False):
                for name, content in ((fid, fid * 9), (f'{fid[:-4]}.cls', pid)):
                    info = tarfile.TarInfo(f'folder/{name}')
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content.encode()))
        contents.append(target.getvalue())
    return contents


def read_tar(directory, number):
    place = str(directory / 'x.tar')
    parts = inputs.list_parts('webdataset', [place], None, False, 5)
    found = [item.read() for part in parts for item in inputs.read(part)]
    assert sum(map(len, found)) <= os.path.getsize(place)


def make_published(directory):
    # As little of the net as there can be: a file of 40 kB.
    _trinet.STAGES, _trinet.EMBEDDING_DIM = ((2, 1, 1, 'a'),), 1
    arrays = [
        np.ones(entry.shape, np.float32) * (1 + np.arange(entry.shape[0] % 7).sum())
        for entry in _trinet.layout()
    ]
    contents = []
    for save in (np.savez, np.savez_compressed):
        save(target := io.BytesIO(), *arrays)
        contents.append(target.getvalue())
    return contents


def read_published(directory, number):
    weights = _trinet.read_weights(str(directory / 'weights.npz'))
    _trinet.published_name(str(directory / 'weights.npz'))
    assert all(np.isfinite(array).all() for array in weights.values())


def make_names(directory):
    np.save(directory / 'embs.npy', POINTS)
    (directory / 'set.csv').write_text(CSV)
    return [''.join(f'{fid}\n' for fid in FIDS).encode()]


JOB = [inputs.Part('files', 'images', FIDS[:5]), inputs.Part('files', 'x', FIDS[5:])]
PART = 'part-000000.parquet'
BLOCKS = '.embs.h5.blocks'


def make_block(directory):
    keeper = blocks.Blocks(str(directory / 'embs.h5'), FLAGS, dict, (1, 12, 8))
    keeper.write([(list(range(5)), POINTS[None, :5])], {})
    keeper.write([(list(range(5, 12)), POINTS[None, 5:])], {})
    keeper.close()
    return [pathlib.Path(keeper.name(0)).read_bytes()]


def make_block_header(directory):
    make_block(directory)
    return [(directory / BLOCKS / blocks.HEADER).read_bytes()]


def read_blocks(directory, number):
    keeper = blocks.Blocks(str(directory / 'embs.h5'), FLAGS, dict, (1, 12, 8))
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


def make_sealed_index(directory):
    contents = []
    for kind in ('ivf', 'hnsw', 'flat'):
        filename = directory / 'x.faiss'
        index.build(kind, str(filename), make_gallery(), 'euclidean', 0.5)
        contents.append(filename.read_bytes())
    index.subprocess = types.SimpleNamespace(PIPE=subprocess.PIPE, Popen=Forked)
    return contents


def read_sealed_index(directory, number):
    """Let FAISS see what is damaged, as if a stranger had made index and sum."""
    told = json.loads((directory / 'x.faiss.json').read_text())
    told['sha256'] = common.hash_file(directory / 'x.faiss')
    (directory / 'x.faiss.json').write_text(json.dumps(told))
    opened = index.Index(str(directory / 'x.faiss'), make_gallery(), [], 'euclidean')
    with opened:
        found = opened.find(POINTS[:2], 5, bool(number % 2))
    for query, one in zip(POINTS, found, strict=False):
        assert len(set(one.rows.tolist())) == len(one.rows)
        np.testing.assert_allclose(
            one.dists, np.linalg.norm(POINTS[one.rows] - query, axis=1), atol=1e-3
        )
        assert (np.diff(one.dists) >= 0).all()


class Forked:
    """What subprocess.Popen is to an Index, by forks of a process that has FAISS.

    New ones would each have to import it, for a hundred times as long.
    """

    def __init__(self, args, *, stderr, **_):
        theirs, ours = os.pipe()
        self.stdin = os.fdopen(ours, 'w', encoding='utf-8')
        back, answers = os.pipe()
        self.stdout = os.fdopen(back, encoding='utf-8')
        self.code = None
        streams = [theirs, answers, stderr.fileno()]
        socket.send_fds(start_server(), [args[-1].encode()], streams)
        os.close(theirs)
        os.close(answers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.wait()

    def wait(self):
        if self.code is None:
            self.code = int(start_server().recv(100))
        if self.code == -signal.SIGXCPU:
            raise TimeoutError('FAISS does not end')
        return self.code


@functools.cache
def start_server():
    """Return the socket to a process of serve_index.py, which ends with this one."""
    ours, theirs = socket.socketpair()
    words = [theirs.fileno(), SECONDS, MEMORY]
    subprocess.Popen(
        [sys.executable, str(SERVER), *map(str, words)],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    atexit.register(ours.close)
    return ours


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
    'table of a data set': Kind(
        'table.csv', make_table_with_heading, read_table_with_heading
    ),
    'list of images': Kind('list.txt', make_image_list, read_image_list),
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
    'bulk.json': Kind(
        'parts/bulk.json', make_parts('bulk.json'), read_description, JSON_WAYS
    ),
    'part of bulk': Kind(f'parts/{PART}', make_parts(PART), read_parts),
    'tar': Kind('x.tar', make_tar, read_tar, (spoilers.change_header,) * 8),
    'published weights': Kind(
        'weights.npz', make_published, read_published, (spoilers.change_member,) * 8
    ),
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
    'index with its sum': Kind('x.faiss', make_sealed_index, read_sealed_index),
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
        outcome = find_memory_error(error) or outcome
    except SystemExit as error:
        outcome = 'refused' if error.code == 2 else f'exit {error.code}'
        outcome = find_memory_error(error) or outcome
    except BaseException as error:
        outcome = f'{type(error).__name__}: {error}'
    if sorted(os.listdir(directory)) != before:
        return f'{outcome}, other files'
    is_changed = (directory / kind.filename).read_bytes() != content
    return f'{outcome}, written to' if is_changed and outcome != 'read' else outcome


# What HDF5 asks for before it compares a block with the end of the file, and leaves as
# the system gave it: addresses alone. And what FAISS, which limits itself, adds to the
# message that a file ends too early: the C library's last error, of whichever call.
FORGIVEN = re.compile(r'on disk image buffer|read error in .*: \d+ != \d+ \(')


def find_memory_error(error):
    """Return what to say of an error behind which memory was not there, or None.

    Readers tell of that as of any other damage. But only limit_memory kept such a file
    from taking what the machine has.
    """
    found, files = None, set()
    while error is not None:
        # HDF5 tells of it in words alone.
        is_told = NO_MEMORY.search(str(error)) and not FORGIVEN.search(str(error))
        if isinstance(error, MemoryError) or is_told:
            found = f'asked for more memory than the file can claim: {error}'
        frames = traceback.extract_tb(error.__traceback__)
        files |= {os.path.basename(frame.filename) for frame in frames}
        error = error.__cause__ or error.__context__
    # Where an attribute's text is, HDF5 does not say. It takes 4 GB at the most.
    return None if 'attrs.py' in files else found


def make_world(place):
    """Write a data set, a run of a tiny net and embeddings into a new directory."""
    nets._mobilenet.SEPARABLE = ((8, 2),)
    place.mkdir()
    tiny_run.write_dataset(place)
    tiny_run.start(place, place / 'run', '--quiet')
    for suffix in ('.h5', '.npz'):
        embed.main(embed_flags(place, place / f'embs{suffix}'))
    (place / 'out').mkdir()


def embed_flags(place, output):
    words = ['--dataset', str(place / 'train.csv'), '--filename', str(output)]
    return ['--experiment_root', str(place / 'run'), *words, '--quiet']


def evaluate_flags(embeddings):
    def flags_of(place):
        words = ['--excluder', 'diagonal', '--filename', str(place / 'out' / 'x.json')]
        for name in ('query', 'gallery'):
            words += [f'--{name}_dataset', str(place / 'train.csv')]
            words += [f'--{name}_embeddings', str(place / embeddings)]
        return words

    return flags_of


def split_flags(place):
    words = ['split', str(place / 'train.csv'), '--excluder', 'diagonal']
    return [*words, '--val_pids', '1', '--output_dir', str(place / 'out')]


def embed_again(place):
    return embed_flags(place, place / 'out' / 'x.h5')


# What is spoilt of make_world, the command that reads it, and the number of its files.
COMMANDS = {
    'csv': ('train.csv', make_csv_command.main, split_flags, 3),
    'args.json': ('run/args.json', embed.main, embed_again, 1),
    'hdf5': ('embs.h5', evaluate.main, evaluate_flags('embs.h5'), 1),
    'npz': ('embs.npz', evaluate.main, evaluate_flags('embs.npz'), 1),
    'checkpoint index': ('run/checkpoint-2.index', embed.main, embed_again, 1),
    'checkpoint data': (
        'run/checkpoint-2.data-00000-of-00001',
        *(embed.main, embed_again, 1),
    ),
}


def run_command(name, place, rng):
    """Return 'read', 'refused', or what else became of a command with a spoilt file."""
    filename, main_of, flags_of, count = COMMANDS[name]
    content = (place / filename).read_bytes()
    (place / filename).unlink()
    (place / filename).write_bytes(spoil(KINDS[name], [content], rng))
    try:
        main_of(flags_of(place))
        outcome, expected = 'read', count
    except common.InputError as error:
        outcome, expected = find_memory_error(error) or 'refused', 0
    except SystemExit as error:
        outcome, expected = ('refused' if error.code == 2 else f'exit {error.code}'), 0
    except BaseException as error:
        return f'command: {type(error).__name__}: {error}'
    written = sorted(path.name for path in (place / 'out').iterdir())
    for path in (place / 'out').iterdir():
        path.unlink()
    (place / filename).unlink()
    (place / filename).write_bytes(content)
    return outcome if len(written) == expected else f'{outcome}, with files {written}'


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
    world = directory.parent / f'world of {name}'
    if name in COMMANDS:
        make_world(world)
    limit_memory()
    for number in numbers:
        (directory.parent / 'at_work.txt').write_text(json.dumps([name, number, None]))
        rng = np.random.default_rng([number, zlib.crc32(name.encode())])
        # Another file: of this one, HDF5 would show what it may still have open.
        target.unlink()
        target.write_bytes(spoil(kind, contents, rng))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(PATIENCE)
        outcome = read_one(kind, directory, number)
        if name in COMMANDS and number % COMMANDED == 0:
            done = run_command(name, world, rng)
            if done not in ('read', 'refused'):
                outcome = f'{outcome}, command {done}'
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
