"""docs/python.md and docs/deployment.md, executed as they stand there."""

import io
import json
import pathlib
import shutil

import cv2
import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import embedder
import export
import readme_story
import test_export
import tiny_run
import train

PYTHON, DEPLOYMENT = 'docs/python.md', 'docs/deployment.md'
HEIGHT, WIDTH, DIM = 32, 16, 128


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Return a home directory with a run and images, as the pages expect them."""
    home = tmp_path_factory.mktemp('home')
    images = home / 'images'
    images.mkdir()
    tiny_run.write_dataset(images, (4, 4, 4))
    root = home / 'experiments' / 'trinet'
    with pytest.MonkeyPatch.context() as patch:
        tiny_run.shrink_net(patch)
        train.main(
            [
                *('--experiment_root', str(root), '--seed', '1'),
                *('--train_set', str(images / 'train.csv')),
                *('--image_root', str(images), '--crop_augment'),
                *('--model_name', 'small_stripes', '--head_name', 'fc512'),
                *('--embedding_dim', str(DIM), '--batch_p', '3', '--batch_k', '2'),
                *('--net_input_height', str(HEIGHT), '--net_input_width', str(WIDTH)),
                *('--pre_crop_height', '36', '--pre_crop_width', '18'),
                *('--train_iterations', '2'),
            ]
        )
    rng = np.random.default_rng(0)
    for name in ('query.jpg', 'gallery.jpg'):
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(home / name), image)
    return home


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.chdir(home)


def python_blocks(page):
    """Return the Python code of a page, list of str."""
    blocks = readme_story.read_blocks(page)
    return [block.text for block in blocks if block.language == 'python']


def run_blocks(blocks, names, capsys):
    """Execute code that shares its names; return what it prints, by line."""
    capsys.readouterr()
    for block in blocks:
        exec(compile(block, '<page>', 'exec'), names)
    return capsys.readouterr().out.splitlines()


def test_python_page_embeds_compares_and_judges(home, capsys, monkeypatch):
    blocks = python_blocks(PYTHON)
    trained = next(block for block in blocks if 'TrainedNet' in block)
    names = {}
    # The file is closed by the garbage collector, which tests take for a fault.
    with monkeypatch.context() as patch:
        patch.setattr('builtins.open', lambda n, m: io.BytesIO(read_bytes(n)))
        lines = run_blocks([b for b in blocks if b != trained], names, capsys)
    ours = embedder.Embedder.load(home / 'experiments' / 'trinet')
    embs = ours.embed([str(home / 'query.jpg'), str(home / 'gallery.jpg')])
    distance = float(lines[0])
    assert distance == pytest.approx(np.linalg.norm(embs[0] - embs[1]), rel=1e-5)
    assert lines[1:4] == [f'(1, {DIM})', f'(3, {DIM})', f'(10, {DIM})']
    assert lines[4] == str(distance <= 0.8)
    ten = {'flip': True, 'crop': 'five', 'aggregator': 'mean'}
    np.testing.assert_array_equal(names['ten'], ours.embed('query.jpg', **ten))


def read_bytes(name):
    return pathlib.Path(name).read_bytes()


def test_python_page_takes_old_weights_with_a_description(home, monkeypatch):
    (block,) = (b for b in python_blocks(PYTHON) if 'TrainedNet' in b)
    seen = {}

    class Loader(embedder.Embedder):
        @classmethod
        def from_checkpoint(cls, prefix, trained):
            seen.update(prefix=prefix, trained=trained)

    exec(block, {'Embedder': Loader})
    assert seen['prefix'] == '~/old/checkpoint-25000'
    assert seen['trained'] == embedder.TrainedNet(
        'resnet_v1_50', 'fc1024', 128, 256, 128, 288, 144
    )


def test_readme_has_the_three_lines(home, capsys):
    blocks = [b for b in python_blocks('README.md') if 'Embedder.load' in b]
    (line,) = run_blocks(blocks, {}, capsys)
    assert float(line) > 0


def test_page_embeds_by_onnx(home, capsys):
    (block,) = (b for b in python_blocks(DEPLOYMENT) if 'onnxruntime' in b)
    root = home / 'experiments' / 'trinet'
    words = ['--experiment_root', str(root), '--format', 'onnx', '--quiet']
    export.main([*words, '--filename', 'export/checkpoint-25000'])
    names = {}
    assert run_blocks([block], names, capsys) == [f'(1, {DIM})']
    expected = embedder.Embedder.load(root).embed('query.jpg')
    # Pillow's JPEG decoder is more exact than the one that TensorFlow chooses, by some
    # grey levels.
    error = np.abs(names['embs'] - expected).max() / np.sqrt((expected**2).mean())
    assert error < 0.2


# --- TensorFlow Serving -----------------------------------------------------------


@pytest.fixture(scope='module')
def served(home):
    """Return what the server loads: a SavedModel of encoded images, version 1."""
    root = home / 'experiments' / 'trinet'
    words = ['--experiment_root', str(root), '--format', 'saved_model', '--quiet']
    export.main([*words, '--input', 'encoded', '--filename', 'serving'])
    version = home / 'models' / 'trinet' / '1'
    shutil.copytree(root / 'serving_saved_model', version)
    return tf.saved_model.load(str(version))


class Stub:
    """Answers as the server would, by the signature that a request names."""

    loaded = None

    def __init__(self, channel):
        self.channel = channel

    def Predict(self, request, timeout):  # noqa: N802 (the name is the API's)
        assert (request.model_spec.name, timeout) == ('trinet', 10)
        signature = self.loaded.signatures[request.model_spec.signature_name]
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        inputs = {name: tf.constant(value) for name, value in inputs.items()}
        answer = predict_pb2.PredictResponse()
        for name, value in signature(**inputs).items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return answer


def test_page_asks_the_server_over_grpc(home, served, monkeypatch, capsys):
    (block,) = (b for b in python_blocks(DEPLOYMENT) if 'grpc' in b)
    monkeypatch.setattr(Stub, 'loaded', served)
    monkeypatch.setattr(prediction_service_pb2_grpc, 'PredictionServiceStub', Stub)
    monkeypatch.setattr(grpc, 'insecure_channel', lambda address: address)
    names = {}
    run_blocks([block], names, capsys)
    assert names['stub'].channel == 'localhost:8500'
    ours = embedder.Embedder.load(home / 'experiments' / 'trinet')
    expected = ours.embed('query.jpg')
    atol = test_export.FLOAT32 * np.abs(expected).max()
    np.testing.assert_allclose(names['embs'], expected, atol=atol)


def test_rest_request_of_the_page_fits_the_signature(served):
    text = readme_story.read_page(DEPLOYMENT)
    (line,) = (one for one in text.splitlines() if one.startswith('{"instances"'))
    (instance,) = json.loads(line)['instances']
    # The server decodes Base64 into bytes, and stacks the instances.
    assert list(instance['images']) == ['b64']
    _, signature = served.signatures['serving_default'].structured_input_signature
    assert list(signature) == list(instance)
    assert signature['images'].dtype == tf.string
    assert signature['images'].shape.as_list() == [None]
