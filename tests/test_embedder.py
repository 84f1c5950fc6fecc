"""The Python API: images of any kind to embeddings, distances and verdicts."""

import concurrent.futures
import json
import os
import pathlib
import shutil

import cv2
import h5py
import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import common
import embed
import embedder
import images
import tiny_run

SIZES = ((40, 30), (32, 16), (21, 50))  # Heights and widths, pixels.


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return the experiment root of a run that cuts 32x16 out of 36x18 pixels."""
    directory = tmp_path_factory.mktemp('run')
    with tiny_run.trained(
        directory,
        *('--crop_augment', '--pre_crop_height', '36', '--pre_crop_width', '18'),
        *('--metric', 'cityblock'),
    ):
        yield directory / 'root'


@pytest.fixture(scope='module')
def loaded(run):
    """Return the Embedder of the run."""
    return embedder.Embedder.load(run)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Return the names of three PNG images of different sizes."""
    directory = tmp_path_factory.mktemp('files')
    rng = np.random.default_rng(3)
    names = []
    for i, size in enumerate(SIZES):
        names.append(str(directory / f'{i}.png'))
        cv2.imwrite(names[-1], rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return names


def read_rgb(filename):
    """Return the pixels of a PNG image, uint8 [H, W, 3], RGB."""
    return cv2.imread(filename)[:, :, ::-1]


@pytest.mark.parametrize(
    'flags, arguments',
    [
        ([], {}),
        (['--crop_augment', 'avgpool'], {'crop': 'avgpool'}),
        (
            ['--flip_augment', '--crop_augment', 'five', '--aggregator', 'mean'],
            {'flip': True, 'crop': 'five', 'aggregator': 'mean'},
        ),
        (
            ['--flip_augment', '--aggregator', 'normalized_mean'],
            {'flip': True, 'aggregator': 'normalized_mean'},
        ),
    ],
)
def test_embeddings_are_those_of_the_command(run, loaded, flags, arguments):
    directory = run.parent
    embed.main(
        [
            *('--experiment_root', str(run), '--dataset', str(directory / 'train.csv')),
            *('--filename', 'embs.h5', '--batch_size', '5', '--quiet', *flags),
        ]
    )
    with h5py.File(run / 'embs.h5') as file:
        expected, fids = file['emb'][:], file['fid'].asstr()[:]
    paths = [directory / fid for fid in fids]
    embs = loaded.embed(paths, batch_size=5, **arguments)
    assert embs.dtype == np.float32
    np.testing.assert_array_equal(embs, expected)
    # One by one, the products are summed in another order.
    one = loaded.embed(str(paths[7]), **arguments)
    np.testing.assert_allclose(one, expected[7:8], atol=1e-5 * np.abs(expected).max())


def test_an_image_is_a_path_its_bytes_or_its_pixels(loaded, files):
    expected = loaded.embed(files)
    assert expected.shape == (3, loaded.embedding_dim)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()
    contents = [pathlib.Path(name).read_bytes() for name in files]
    pixels = [read_rgb(name) for name in files]
    for kind in (contents, pixels, [files[0], contents[1], pixels[2]], tuple(files)):
        np.testing.assert_array_equal(loaded.embed(kind), expected)
    for image in (files[0], contents[0], memoryview(contents[0]), pixels[0]):
        assert loaded.embed(image).shape == (1, loaded.embedding_dim)
        np.testing.assert_array_equal(loaded.embed(image), loaded.embed(files[:1]))
    batch = np.stack([pixels[0]] * 4)
    np.testing.assert_array_equal(loaded.embed(batch), loaded.embed([files[0]] * 4))


def test_nothing_is_compiled_for_a_second_image(loaded, files, monkeypatch):
    content = pathlib.Path(files[0]).read_bytes()
    expected = [loaded.embed(image) for image in (files[0], content)]

    def fail(*_):
        raise AssertionError('compiled again')

    # Of TensorFlow's own: each pipeline and each function is traced.
    monkeypatch.setattr(images, 'decode_content', fail)
    for image, embs in zip((files[0], content), expected, strict=True):
        np.testing.assert_array_equal(loaded.embed(image), embs)


def test_colours_are_red_green_blue(loaded, files):
    pixels = read_rgb(files[0])
    error = np.abs(loaded.embed(pixels[:, :, ::-1]) - loaded.embed(files[0]))
    assert error.max() > 1e-3 * np.abs(loaded.embed(pixels)).max()


def test_few_images_of_a_generator_are_held(loaded):
    asked, most_ahead = [], 0

    def draw():
        for i in range(60):
            asked.append(i)
            yield np.full((32, 16, 3), i, np.uint8)

    network = loaded.network
    done = 0

    def count(images, training):
        nonlocal done, most_ahead
        most_ahead = max(most_ahead, len(asked) - done)
        done += 4
        return network(images, training=training)

    ours = embedder.Embedder(network, loaded.embedding_dim, loaded.net_size)
    ours.embed_variant = lambda batch: count(batch, training=False)['emb']
    embs = ours.embed(draw(), batch_size=4, loading_threads=2)
    assert embs.shape == (60, loaded.embedding_dim)
    # A batch, two ahead, and one that has just been asked for.
    assert most_ahead <= 4 + 2 * 4 + 1
    assert loaded.embed(iter([])).shape == (0, loaded.embedding_dim)
    assert loaded.embed([]).shape == (0, loaded.embedding_dim)


def test_order_is_kept_by_many_threads(loaded, files):
    expected = loaded.embed(files)
    mixed = (read_rgb(files[i % 3]) for i in range(30))
    embs = loaded.embed(mixed, batch_size=3, loading_threads=8)
    for i in range(0, 30, 3):
        np.testing.assert_array_equal(embs[i : i + 3], expected)


def test_several_threads_may_embed_at_once(run, files):
    ours = embedder.Embedder.load(run)
    views = [{}, {'crop': 'center'}, {'crop': 'avgpool'}] * 4
    with concurrent.futures.ThreadPoolExecutor(len(views)) as pool:
        together = list(pool.map(lambda view: ours.embed(files, **view), views))
    for view, embs in zip(views, together, strict=True):
        np.testing.assert_array_equal(embs, ours.embed(files, **view))


NEITHER = 'expected a path, the bytes of an image file, or uint8 [H, W, 3] in RGB'


@pytest.mark.parametrize(
    'image, message',
    [
        (np.zeros((4, 4, 3)), f'of shape [4, 4, 3] and type float64; {NEITHER}'),
        (np.zeros((4, 4), np.uint8), f'of shape [4, 4] and type uint8; {NEITHER}'),
        (
            np.zeros((4, 4, 4), np.uint8),
            f'of shape [4, 4, 4] and type uint8; {NEITHER}',
        ),
        (
            np.zeros((0, 4, 3), np.uint8),
            f'of shape [0, 4, 3] and type uint8; {NEITHER}',
        ),
        (b'rubbish', 'image 0 is not readable (7 bytes)'),
        ([None], 'image 0 is a NoneType; expected a path, '),
        ('/no/such/file.jpg', '/no/such/file.jpg is not a readable image (the file '),
        ([{'a': 1}], 'image 0 is a dict; expected a path, '),
    ],
)
def test_what_is_no_image_is_named(loaded, image, message):
    with pytest.raises(common.InputError) as error:
        loaded.embed(image)
    assert message in str(error.value)


def test_bad_image_of_many_is_named(loaded, files, tmp_path):
    (tmp_path / 'cut.png').write_bytes(pathlib.Path(files[0]).read_bytes()[:90])
    for several in (
        [*files, tmp_path / 'cut.png'],
        [files[0], read_rgb(files[1]), b'x'],
    ):
        with pytest.raises(common.InputError, match='cut.png is not|image 2 is not'):
            loaded.embed(several)


def test_no_image_waits_for_a_pipe(loaded, files, tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    pipe = tmp_path / 'pipe.png'
    for several in (pipe, [*files, pipe], iter([pipe])):
        with pytest.raises(common.InputError, match=r'pipe.png is not .*it is no file'):
            loaded.embed(several)


@pytest.mark.parametrize(
    'arguments, message',
    [
        ({'flip': True}, 'aggregator is None and an image has 2 variant.* for several'),
        ({'aggregator': 'mean'}, "aggregator is 'mean' and an image has 1 variant"),
        ({'crop': 'five', 'aggregator': 'max'}, "aggregator is 'max' .* 5 variant"),
        (
            {'crop': 'six'},
            "crop 'six' is unknown; expected one of center, avgpool, five",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(loaded, files, arguments, message):
    with pytest.raises(common.InputError, match=message):
        loaded.embed(files, **arguments)


def test_diverged_weights_are_not_embedded_with():
    def network(images, training):
        return {'emb': images[:, 0, 0] / (images[:, 0, 0] - 7)}

    ours = embedder.Embedder(network, 3, (2, 2))
    batch = np.uint8([5, 6, 7])[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    with pytest.raises(common.InputError, match='embedding of image 2 is not finite'):
        ours.embed(batch)


def test_distances_are_those_of_the_metric():
    points, others = np.float32([[0, 0], [3, 4]]), np.float32([[0, 1], [3, 0], [1, 1]])
    expected = {
        'euclidean': [[1, 3, 2**0.5], [18**0.5, 4, 13**0.5]],
        'cityblock': [[1, 3, 2], [6, 4, 5]],
    }
    for metric, dists in expected.items():
        ours = embedder.Embedder(None, 2, (2, 2), metric=metric, threshold=3)
        np.testing.assert_allclose(ours.distances(points, others), dists)
        np.testing.assert_allclose(ours.distances(points[1], others), dists[1])
        np.testing.assert_allclose(
            ours.distances(points, others[0]), np.transpose(dists)[0]
        )
        assert ours.distances(points[0], others[1]) == 3
        assert ours.is_same(points[0], others[1])  # Just.
        is_same = ours.is_same(points, others)
        assert is_same.tolist() == (np.asarray(dists) <= 3).tolist()
    with pytest.raises(common.InputError, match=r'shape \[3\]; expected \[N, D\] or'):
        ours.distances(points, np.zeros(3))


def test_metric_is_that_of_the_training(run, loaded):
    assert loaded.metric == 'cityblock'
    assert (loaded.input_size, loaded.pre_crop_size) == ((32, 16), (36, 18))
    (run / 'args.json').rename(run / 'kept.json')
    args = json.loads((run / 'kept.json').read_text())
    try:
        for stored, message in (
            ('manhattan', 'metric is "manhattan", expected one of'),
        ):
            (run / 'args.json').write_text(json.dumps({**args, 'metric': stored}))
            with pytest.raises(common.InputError, match=message):
                embedder.Embedder.load(run)
        del args['metric']  # As the original's, in its first versions.
        (run / 'args.json').write_text(json.dumps(args))
        assert embedder.Embedder.load(run).metric == 'euclidean'
    finally:
        (run / 'kept.json').rename(run / 'args.json')


def test_checkpoint_tells_what_its_network_is(run, loaded, files):
    alone = embedder.Embedder.from_checkpoint(run / 'checkpoint-2')
    assert (alone.metric, alone.pre_crop_size) == ('cityblock', (36, 18))
    np.testing.assert_array_equal(alone.embed(files), loaded.embed(files))


def test_checkpoint_of_others_is_embedded_with_a_network_that_is_named(
    run, loaded, files, tmp_path
):
    weights = checkpoints.WeightsFile(str(run / 'checkpoint-2'))
    arrays = {
        name: weights.read(name)
        for name in weights.shapes
        if not name.startswith((checkpoints.MEMORY_SCOPE, '_'))
    }
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / 'old.ckpt'),
        tensor_names=list(arrays),
        shape_and_slices=[''] * len(arrays),
        tensors=list(arrays.values()),
    )
    with pytest.raises(common.InputError, match=r'old.ckpt does not .* give `trained`'):
        embedder.Embedder.from_checkpoint(tmp_path / 'old.ckpt')
    trained = embedder.read_trained_net(str(run))
    theirs = embedder.Embedder.from_checkpoint(tmp_path / 'old.ckpt', trained)
    np.testing.assert_array_equal(theirs.embed(files), loaded.embed(files))


def test_lost_args_are_those_of_the_newest_checkpoint(
    run, loaded, files, tmp_path, capsys
):
    root = tmp_path / 'lost'
    shutil.copytree(run, root)
    (root / 'args.json').unlink()
    common.setup_logging()
    ours = embedder.Embedder.load(root)
    said = f'no args.json in {root}; its flags are those that {root}/checkpoint-2 holds'
    assert capsys.readouterr().err.splitlines() == [f'warning: {said}']
    np.testing.assert_array_equal(ours.embed(files), loaded.embed(files))


def test_args_of_an_older_run_are_lost_for_good(run, tmp_path):
    shutil.copytree(run, tmp_path / 'lost')
    (tmp_path / 'lost' / 'args.json').unlink()
    variables = {'global_step': tf.Variable(2)}
    tf.train.Checkpoint(**variables).write(str(tmp_path / 'lost' / 'checkpoint-2'))
    with pytest.raises(FileNotFoundError, match='checkpoint-2 has none of the flags'):
        embedder.Embedder.load(tmp_path / 'lost')


def write_thresholds(filename, metric='cityblock', rule='equal error rate'):
    """Write what counts of the JSON file of evaluate.py --thresholds."""
    rows = [
        {'rule': 'FPR at most 0.1', 'threshold': 9.5},
        {'rule': rule, 'threshold': 2},
    ]
    filename.write_text(json.dumps({'args': {'metric': metric}, 'thresholds': rows}))


def test_threshold_is_a_number_or_that_of_the_equal_error_rate(run, tmp_path):
    root = str(run)
    assert embedder.find_threshold(root, 'cityblock') is None
    assert embedder.find_threshold(root, 'cityblock', 4.5) == 4.5
    write_thresholds(tmp_path / 'thresholds.json')
    found = embedder.find_threshold(root, 'cityblock', tmp_path / 'thresholds.json')
    assert found == 2
    assert embedder.find_threshold(str(tmp_path), 'cityblock') == 2


def test_threshold_of_something_else_is_refused(tmp_path):
    filename = tmp_path / 'scores.json'
    write_thresholds(filename)
    message = '--metric cityblock, but the network was trained with euclidean; evaluate'
    with pytest.raises(common.InputError, match=message):
        embedder.find_threshold('', 'euclidean', filename)
    write_thresholds(filename, rule='other')
    for text in (filename.read_text(), '{"mAP": 0.5}', '{"thresholds": [3]}'):
        filename.write_text(text)
        with pytest.raises(
            common.InputError, match='no thresholds; expected what eval'
        ):
            embedder.find_threshold('', 'euclidean', filename)


def test_without_a_threshold_there_is_no_verdict(loaded, files):
    embs = loaded.embed(files)
    with pytest.raises(common.InputError, match='no threshold tells .*thresholds.json'):
        loaded.is_same(embs, embs)


def test_threshold_of_other_weights_is_none(run, tmp_path):
    root = tmp_path / 'root'
    shutil.copytree(run, root)
    filename = root / 'thresholds.json'
    found = embedder.Embedder.load(root)
    weights = checkpoints.fingerprint(checkpoints.variables_by_name(found.network))
    for told, expected in (
        (None, 2),
        ({'weights': weights}, 2),
        ({'weights': 'other', 'checkpoint': 'checkpoint-1'}, None),
    ):
        write_thresholds(filename)
        stored = json.loads(filename.read_text()) | {'embeddings': told}
        filename.write_text(json.dumps(stored))
        assert embedder.Embedder.load(root).threshold == expected
    with pytest.raises(common.InputError, match=r'of other weights \(checkpoint-1\)'):
        embedder.Embedder.load(root).is_same(np.zeros(8), np.zeros(8))
    # Who names it takes the blame.
    assert embedder.Embedder.load(root, threshold=filename).threshold == 2
    assert embedder.Embedder.load(root, threshold='0.75').threshold == 0.75


def test_missing_run_or_sidecar_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match='x does not exist; expected the dire'):
        embedder.Embedder.load(tmp_path / 'x')
    (tmp_path / 'x.onnx').touch()
    (tmp_path / 'x_saved_model').mkdir()
    (tmp_path / 'x_saved_model' / 'saved_model.pb').touch()
    for name in ('x.onnx', 'x_saved_model'):
        message = f'{name}.json is missing; export.py .*: copy both, or export again'
        with pytest.raises(FileNotFoundError, match=message):
            embedder.Embedder.load(tmp_path / name)
