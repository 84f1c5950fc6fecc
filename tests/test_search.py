"""search.py from end to end: a run's gallery, its queries, exports, no TensorFlow.

What a search finds is compared with the ranking of the embeddings that embed.py writes.
"""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import h5py
import numpy as np
import PIL.Image
import pytest

import common
import embed
import embedding_files
import evaluate
import export
import search
import tiny_run
from evaluation import ranking
from searching import gallery, queries

ROOT = pathlib.Path(search.__file__).parent
pytestmark = pytest.mark.usefixtures('one_block_net')


@pytest.fixture(scope='module')
def run(tmp_path_factory, one_block_net):
    """Return the root of a run with embeddings of its 12 images, and thresholds."""
    directory = tmp_path_factory.mktemp('run')
    tiny_run.write_dataset(directory)
    root = directory / 'exp'
    tiny_run.start(directory, root, '--metric', 'cityblock')
    csv_file = str(directory / 'train.csv')
    embed.main(['--experiment_root', str(root), '--dataset', csv_file, '--quiet'])
    embs = str(root / 'train_embeddings.h5')
    flags = [
        *('--query_dataset', csv_file, '--query_embeddings', embs),
        *('--gallery_dataset', csv_file, '--gallery_embeddings', embs),
        *('--excluder', 'diagonal', '--metric', 'cityblock', '--quiet'),
    ]
    thresholds = str(root / 'thresholds.json')
    evaluate.main([*flags, '--thresholds', '--filename', thresholds])
    return root


@pytest.fixture(scope='module')
def exported(run):
    """Return the name of the run's ONNX file."""
    csv_file = str(run.parent / 'train.csv')
    flags = ['--experiment_root', str(run), '--format', 'onnx', '--filename', 'net']
    assert export.main([*flags, '--check_images', csv_file, '--quiet']) == 0
    return str(run / 'net.onnx')


@pytest.fixture
def call(run, capsys):
    """Return a function of flags that returns the objects that --json prints."""

    def call(*flags):
        search.main([*flags, '--json'])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def gallery_flags(run):
    """Return the flags of the run and its gallery."""
    embeddings = str(run / 'train_embeddings.h5')
    return ['--gallery', embeddings, '--experiment_root', str(run)]


def image(run, name):
    """Return the path of an image of the run."""
    return str(run.parent / name)


def rank_by_hand(run, row):
    """Return (FIDs, distances) of all images, nearest to one of them first."""
    with h5py.File(run / 'train_embeddings.h5') as file:
        embs = file['emb'][:].astype(np.float64)
        fids = [fid.decode() for fid in file['fid'][:]]
    dists = np.abs(embs - embs[row]).sum(axis=1)
    order = np.argsort(dists, kind='stable')
    return [fids[i] for i in order], dists[order]


def test_images_are_ranked_by_the_metric_of_the_run(run, call):
    found = call(image(run, '1_0.png'), image(run, '2_2.png'), *gallery_flags(run))
    for answer, row in zip(found, (3, 8), strict=True):
        fids, dists = rank_by_hand(run, row)
        assert [one['fid'] for one in answer['found']] == fids[:10]
        assert [one['pid'] for one in answer['found']] == [fid[0] for fid in fids[:10]]
        distances = [one['distance'] for one in answer['found']]
        # Embedded alone, an image has other last bits than in a batch.
        np.testing.assert_allclose(distances, dists[:10], atol=1e-4 * dists.max())
        assert answer['found'][0]['path'] == str(run.parent / fids[0])
        assert [one['rank'] for one in answer['found']] == list(range(1, 11))


def test_verdict_is_that_of_the_threshold(run, call):
    told = json.loads((run / 'thresholds.json').read_text())
    equal = next(r for r in told['thresholds'] if r['rule'] == 'equal error rate')
    (answer,) = call(image(run, '0_0.png'), *gallery_flags(run), '--top', '12')
    assert answer['threshold']['distance'] == equal['threshold']
    assert answer['threshold']['fpr'] == pytest.approx(equal['fpr'])
    assert answer['verdict'] == 'same'
    for one in answer['found']:
        assert one['is_same'] == (one['distance'] <= equal['threshold'])
    assert {one['is_same'] for one in answer['found']} == {True, False}
    # Nothing else is as near as that.
    flags = [*gallery_flags(run), '--without', '0', '--threshold', '0.0001']
    (answer,) = call(image(run, '0_0.png'), *flags)
    assert answer['verdict'] == 'unknown'
    assert {one['pid'] for one in answer['found']} == {'1', '2', '3'}


def test_identities_are_ranked(run, call):
    fids, dists = rank_by_hand(run, 0)
    of_pid = {}
    for fid, dist in zip(fids, dists, strict=True):
        of_pid.setdefault(fid[0], []).append(dist)
    for how, score in (('best', min), ('mean', np.mean)):
        flags = [*gallery_flags(run), '--group_by_pid', how, '--top', '3']
        (answer,) = call(image(run, '0_0.png'), *flags)
        expected = sorted(of_pid, key=lambda pid: score(of_pid[pid]))[:3]
        assert [one['pid'] for one in answer['found']] == expected


def test_images_of_one_individual_are_pooled(run, call):
    names = [image(run, f'2_{i}.png') for i in range(3)]
    (answer,) = call(*names, *gallery_flags(run), '--pool', 'mean')
    with h5py.File(run / 'train_embeddings.h5') as file:
        embs = file['emb'][:].astype(np.float64)
    dists = np.abs(embs - embs[6:9].mean(axis=0)).sum(axis=1)
    assert answer['query'] == ', '.join(names)
    distances = [one['distance'] for one in answer['found']]
    np.testing.assert_allclose(distances, np.sort(dists)[:10], atol=1e-4 * dists.max())


def test_two_images_are_compared(run, call, capsys):
    names = [image(run, '0_0.png'), image(run, '0_1.png')]
    (told,) = call('--compare', *names, '--experiment_root', str(run))
    fids, dists = rank_by_hand(run, 0)
    expected = dists[fids.index('0_1.png')]
    assert told['distance'] == pytest.approx(expected, rel=1e-4)
    assert told['is_same'] == (told['distance'] <= told['threshold']['distance'])
    for threshold, words in (('1e9', 'same identity'), ('0', 'different identities')):
        flags = ['--experiment_root', str(run), '--threshold', threshold]
        search.main(['--compare', *names, *flags])
        assert words in capsys.readouterr().out


def test_near_images_of_other_pids_are_listed(run, tmp_path, capsys):
    with h5py.File(run / 'train_embeddings.h5') as file:
        embs = file['emb'][:]
    embs[5] = embs[2]  # 1_2.png is a copy of 0_2.png.
    pids = np.array([str(i // 3) for i in range(12)])
    fids = np.array([f'{i // 3}_{i % 3}.png' for i in range(12)])
    np.savez(tmp_path / 'x.npz', emb=embs, pid=pids, fid=fids)
    search.main(['--gallery', str(tmp_path / 'x.npz'), '--duplicates', '0', '--json'])
    told = capsys.readouterr()
    assert json.loads(told.out) == {
        'distance': 0.0,
        'images': [{'pid': '0', 'fid': '0_2.png'}, {'pid': '1', 'fid': '1_2.png'}],
    }
    assert '1 pairs of different PIDs among 12 images are at most 0 apart' in told.err


def test_picture_shows_the_query_and_what_it_finds(run, tmp_path, capsys):
    filename = tmp_path / 'x.png'
    names = [image(run, '0_0.png'), image(run, '3_1.png')]
    search.main([*names, *gallery_flags(run), '--top', '4', '--picture', str(filename)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('threshold ')
    assert lines[1].startswith(f'{names[0]}: 0, ')
    assert lines[2].split() == ['rank', 'PID', 'distance', 'verdict', 'FID']
    assert lines[3].split()[1::2] == ['0', 'same']
    assert lines[3].endswith('0_0.png')
    picture = cv2.imread(str(filename))
    # The border of what is the same is green, in both rows.
    green = (picture == (50, 205, 50)).all(axis=2)
    assert green[: len(green) // 2].any()
    assert green[len(green) // 2 :].any()


def test_gallery_of_another_network_is_refused(run, tmp_path):
    for name in ('args.json', 'checkpoint', *(p.name for p in run.glob('checkp*-2.*'))):
        shutil.copy(run / name, tmp_path)
    for suffix in ('index', 'data-00000-of-00001'):
        shutil.copy(run / f'checkpoint-0.{suffix}', tmp_path)
    flags = ['--gallery', str(run / 'train_embeddings.h5'), '--checkpoint']
    query = image(run, '0_0.png')
    search.main([query, *flags, 'checkpoint-2', '--experiment_root', str(tmp_path)])
    with pytest.raises(common.InputError, match=r'embedded by .*checkpoint-2, which'):
        search.main([query, *flags, 'checkpoint-0', '--experiment_root', str(tmp_path)])


def test_query_is_looked_at_as_the_gallery_was(run, tmp_path, call):
    filename = str(tmp_path / 'flipped.h5')
    flags = ['--flip_augment', '--aggregator', 'mean', '--quiet']
    embed.main(
        [
            *('--experiment_root', str(run), '--filename', filename, *flags),
            *('--dataset', str(run.parent / 'train.csv')),
        ]
    )
    network = ['--experiment_root', str(run)]
    (answer,) = call(image(run, '1_1.png'), '--gallery', filename, *network)
    assert answer['found'][0]['fid'] == '1_1.png'
    # Its own embedding; that of the image alone would be elsewhere.
    assert answer['found'][0]['distance'] < 1e-4 * answer['found'][-1]['distance']


def test_index_answers_as_the_exact_search_does(run, tmp_path, call, capsys):
    names = [image(run, '0_0.png'), image(run, '2_1.png')]
    flat = ['--index', str(tmp_path / 'x.index')]
    embeddings = gallery_flags(run)[:2]
    search.main([*embeddings, '--build_index', 'flat', *flat])
    assert 'flat of 12 images' in capsys.readouterr().out
    exact = call(*names, *gallery_flags(run), '--metric', 'euclidean', '--without', '3')
    found = call(
        *names, *gallery_flags(run), '--metric', 'euclidean', '--without', '3', *flat
    )
    assert found == exact


# --- an exported network, without TensorFlow --------------------------------------

HIDE = """
import importlib.abc, runpy, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition('.')[0] in ('tensorflow', 'keras', 'tensorboard'):
            raise ModuleNotFoundError(f'{name} is not here')
sys.meta_path.insert(0, Hidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_exported_network_is_searched_with_where_there_is_no_tensorflow(
    run, exported, call
):
    flags = [image(run, '1_0.png'), *gallery_flags(run)[:2], '--model', exported]
    flags += ['--threshold', str(run / 'thresholds.json'), '--json']
    done = subprocess.run(
        [sys.executable, '-c', HIDE, str(ROOT / 'search.py'), *flags],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    (expected,) = call(image(run, '1_0.png'), *gallery_flags(run))
    found = json.loads(done.stdout)
    assert found['threshold'] == expected['threshold']
    assert found['verdict'] == expected['verdict']
    for one, other in zip(found['found'], expected['found'], strict=True):
        assert one['fid'] == other['fid']
        assert one['distance'] == pytest.approx(other['distance'], abs=1e-3)


@pytest.mark.parametrize('size', [(40, 30), (32, 16), (21, 50), (7, 3)])
def test_images_are_resized_as_tensorflow_resizes_them(size, tmp_path):
    import images as ours

    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    filename = str(tmp_path / 'x.png')
    cv2.imwrite(filename, pixels)
    expected = ours.read_image(filename, 32, 16).numpy()
    content = pathlib.Path(filename).read_bytes()
    found = queries.resize(queries.decode(content), 32, 16)
    assert found.dtype == np.float32
    # Two products and two sums of numbers below 256 on each side.
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * 256 * 2**-24)


def test_rotation_of_exif_is_ignored_as_everywhere():
    pixels = np.random.default_rng(1).integers(0, 256, (16, 8, 3), np.uint8)
    plain, turned = io.BytesIO(), io.BytesIO()
    image = PIL.Image.fromarray(pixels)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned by 90 degrees.
    image.save(plain, 'PNG')
    image.save(turned, 'PNG', exif=exif)
    np.testing.assert_array_equal(queries.decode(plain.getvalue()), pixels)
    np.testing.assert_array_equal(queries.decode(turned.getvalue()), pixels)


def test_export_refuses_a_gallery_of_augmented_images(exported):
    view = embedding_files.PLAIN | {'flip_augment': True, 'aggregator': 'mean'}
    with pytest.raises(common.InputError, match='--flip_augment --aggregator mean, w'):
        queries.load_export(exported, view)


def test_export_of_another_network_is_refused(run, exported):
    network = queries.load_export(exported, embedding_files.PLAIN)
    images = gallery.load([str(run / 'train_embeddings.h5')])
    queries.check(network, images)
    with pytest.raises(common.InputError, match='which has other weights than'):
        other = images.origin._replace(weights='other')
        queries.check(network, images._replace(origin=other))
    with pytest.raises(common.InputError, match='has 8 dimensions but .* embeds into'):
        queries.check(network._replace(embedding_dim=9), images)
    assert network.metric == 'cityblock'
    dists = ranking.compute_distances(
        network.embed([image(run, '0_0.png')]), images.embs, 'cityblock'
    )
    assert dists.argmin() == 0
