"""export.py: every format embeds as the checkpoint does, or is not kept."""

import contextlib
import errno
import importlib.metadata
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import cv2
import numpy as np
import packaging.requirements
import pytest

import common
import deployment
import embed
import embedder
import evaluate
import export
import tiny_run
import train
from deployment import _parity, _sidecar

ROOT = pathlib.Path(export.__file__).parent
HEIGHT, WIDTH, DIM = 32, 16, 12

# How far an embedding may be from the checkpoint's, relative to their rms: the formats'
# own bounds are what a user is promised, these are what the arithmetic allows.
FLOAT32 = 1e-4  # Some hundred roundings of 2**-24.
BOUNDS = {'litert_float16': 0.02, 'litert_int8': 0.5}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return the experiment root of a run on 24 images of noise, some of them JPEGs."""
    directory = tmp_path_factory.mktemp('run')
    tiny_run.write_dataset(directory, (4,) * 6)
    train.main(
        [
            *('--experiment_root', str(directory / 'exp'), '--seed', '1'),
            *('--train_set', str(directory / 'train.csv')),
            *('--image_root', str(directory), '--metric', 'sqeuclidean'),
            *('--model_name', 'small_stripes', '--head_name', 'fc512'),
            *('--embedding_dim', str(DIM), '--batch_p', '4', '--batch_k', '2'),
            *('--net_input_height', str(HEIGHT), '--net_input_width', str(WIDTH)),
            *('--train_iterations', '5', '--flip_augment'),
        ]
    )
    return directory / 'exp'


def names_of(run):
    """Return the image files of the run, sorted."""
    return sorted(str(path) for path in run.parent.glob('*.png'))


@pytest.fixture(scope='module')
def exported(run):
    """Return {format: file} of all formats, written by one command, and its output."""
    files = {
        name: run / f'all{importlib.import_module(f"deployment.{name}").SUFFIX}'
        for name in deployment.FORMAT_CHOICES
    }
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = export.main(
            [
                *('--experiment_root', str(run), '--filename', 'all'),
                *('--format', *deployment.FORMAT_CHOICES, '--licence', 'cc-by-4.0'),
            ]
        )
    assert code == 0
    return files, printed.getvalue()


@pytest.fixture(scope='module')
def truth(run):
    """Return the checkpoint's embeddings of the run's images."""
    return embedder.Embedder.load(run).embed(names_of(run))


@pytest.mark.parametrize('name', deployment.FORMAT_CHOICES)
def test_every_format_embeds_as_the_checkpoint_does(run, exported, truth, name):
    files, table = exported
    ours = embedder.Embedder.load(files[name])
    embs = ours.embed(names_of(run), batch_size=7)
    rms = np.sqrt((truth**2).mean())
    assert np.abs(embs - truth).max() <= BOUNDS.get(name, FLOAT32) * rms
    assert (ours.metric, ours.embedding_dim) == ('sqeuclidean', DIM)
    # Its file tells the same, measured in the other process.
    told = json.loads(pathlib.Path(f'{files[name]}.json').read_text())
    assert told['parity']['difference'] <= BOUNDS.get(name, FLOAT32)
    assert told['parity']['num_images'] == 24
    assert told['checkpoint']['name'].endswith('checkpoint-5')
    (row,) = (line for line in table.splitlines() if line.split()[0] == name)
    assert f'{told["parity"]["difference"]:.1e}' in row
    megabytes = _parity.count_bytes(files[name]) / 1e6
    assert f'{megabytes:.1f} MB' in row


def test_half_and_quarter_precision_are_smaller(exported):
    files, _ = exported
    sizes = {name: _parity.count_bytes(file) for name, file in files.items()}
    assert 0.45 < sizes['litert_float16'] / sizes['litert'] < 0.6
    assert 0.2 < sizes['litert_int8'] / sizes['litert'] < 0.4
    assert sizes['saved_model'] < 1.3 * sizes['onnx']  # Weights are there once.


def test_mirror_images_are_embedded_by_exported_networks(run, exported):
    files, _ = exported
    flip = {'flip': True, 'aggregator': 'mean'}
    expected = embedder.Embedder.load(run).embed(names_of(run), **flip)
    embs = embedder.Embedder.load(files['onnx']).embed(names_of(run), **flip)
    np.testing.assert_allclose(embs, expected, atol=FLOAT32 * np.abs(expected).max())


# --- the contract of the files ----------------------------------------------------

# What somebody writes who has onnxruntime and no TensorFlow.
WITHOUT_TENSORFLOW = """
import importlib.util
import sys
assert importlib.util.find_spec('tensorflow') is None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
(place,), (result,) = session.get_inputs(), session.get_outputs()
assert (place.name, place.type) == ('images', 'tensor(float)')
assert place.shape[1:] == [32, 16, 3]
assert (result.name, result.shape[1:]) == ('embeddings', [12])
assert not isinstance(place.shape[0], int)
for count in (1, 5):
    images = np.load(sys.argv[2])[:count]
    np.save(f'{sys.argv[3]}{count}', session.run(None, {'images': images})[0])
"""


def read_pixels(run):
    """Return the run's images, float32 [24, 32, 16, 3]; they need no resizing."""
    images = [cv2.imread(name)[:, :, ::-1] for name in names_of(run)]
    return np.stack(images).astype(np.float32)


@pytest.fixture
def small_environment(tmp_path):
    """Return a directory of packages with onnxruntime and what it needs: no more."""
    packages = tmp_path / 'packages'
    packages.mkdir()
    waiting, known = ['onnxruntime'], set()
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files:
            top = packages / file.parts[0]
            source = pathlib.Path(distribution.locate_file(file.parts[0]))
            if file.parts[0] != '..' and not top.exists() and source.exists():
                top.symlink_to(source)
        for line in distribution.requires or ():
            needed = packaging.requirements.Requirement(line)
            if needed.marker is None or needed.marker.evaluate():
                waiting.append(needed.name)
    assert 'tensorflow' not in known
    return packages


def test_onnx_needs_no_tensorflow(run, exported, truth, tmp_path, small_environment):
    files, _ = exported
    np.save(tmp_path / 'images.npy', read_pixels(run))
    words = [files['onnx'], tmp_path / 'images.npy', tmp_path / 'embs']
    subprocess.run(
        # -S: without the packages of this environment.
        [sys.executable, '-S', '-c', WITHOUT_TENSORFLOW, *map(str, words)],
        check=True,
        cwd=tmp_path,
        env={'PYTHONPATH': str(small_environment)},
    )
    for count in (1, 5):
        embs = np.load(tmp_path / f'embs{count}.npy')
        atol = FLOAT32 * np.abs(truth).max()
        np.testing.assert_allclose(embs, truth[:count], atol=atol)


@pytest.mark.parametrize('name', [n for n in deployment.FORMAT_CHOICES if 'lite' in n])
def test_litert_has_built_in_operations_and_names(run, exported, name):
    from ai_edge_litert import interpreter

    files, _ = exported
    runtime = interpreter.Interpreter(str(files[name]))
    signature = runtime.get_signature_list()['serving_default']
    assert signature == {'inputs': ['images'], 'outputs': ['embeddings']}
    (place,), (result,) = runtime.get_input_details(), runtime.get_output_details()
    assert place['dtype'] == result['dtype'] == np.float32
    assert place['shape_signature'].tolist() == [-1, HEIGHT, WIDTH, 3]
    operations = {op['op_name'] for op in runtime._get_ops_details()}
    assert not [op for op in operations if 'Flex' in op or 'CUSTOM' in op]


def test_saved_model_takes_pixels_under_its_names(run, exported, truth):
    import tensorflow as tf

    files, _ = exported
    loaded = tf.saved_model.load(str(files['saved_model']))
    embed_images = loaded.signatures['serving_default']
    embs = embed_images(images=tf.constant(read_pixels(run)))['embeddings']
    np.testing.assert_allclose(embs, truth, atol=FLOAT32 * np.abs(truth).max())


def test_saved_model_takes_image_files(run, truth, tmp_path):
    import tensorflow as tf

    words = ['--experiment_root', str(run), '--filename', 'bytes', '--quiet']
    words += ['--format', 'saved_model', '--input', 'encoded']
    assert export.main(words) == 0
    embed_files = tf.saved_model.load(str(run / 'bytes_saved_model'))
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.jpg'), image)
    names = [*names_of(run)[:2], str(tmp_path / 'a.jpg')]
    contents = [pathlib.Path(name).read_bytes() for name in names]
    embs = embed_files.signatures['serving_default'](images=tf.constant(contents))
    expected = embedder.Embedder.load(run).embed(names)
    atol = FLOAT32 * np.abs(expected).max()
    np.testing.assert_allclose(embs['embeddings'], expected, atol=atol)
    with pytest.raises(
        common.InputError, match='takes encoded images; an Embedder needs'
    ):
        embedder.Embedder.load(run / 'bytes_saved_model')


def test_hub_folder_tells_what_it_is_and_nothing_of_this_machine(run, exported):
    files, _ = exported
    folder = files['hub_folder']
    args = json.loads((folder / 'args.json').read_text())
    assert args['embedding_dim'] == DIM
    for file in folder.iterdir():
        assert str(run.parent).encode() not in file.read_bytes(), file
    card = (folder / 'README.md').read_text()
    heading = re.match(r'---\n(.*?)\n---\n', card, re.DOTALL)[1].splitlines()
    assert heading[0] == 'license: cc-by-4.0'
    assert heading[heading.index('datasets:') + 1] == '- "train"'
    assert f'images, {HEIGHT}\npixels high and {WIDTH} wide, to {DIM} numbers' in card
    assert 'for 5 iterations of 8 images' in card
    code = re.search(r'```python\n(.*?)```', card, re.DOTALL)[1]
    assert "Embedder.load('all')" in code
    assert sum(f.stat().st_size for f in folder.glob('*.data*')) < 1.2 * (
        _parity.count_bytes(files['onnx'])
    )  # Without the optimizer's moments.


def test_card_has_the_scores_of_evaluate(run, tmp_path):
    scores = {'mAP': 0.1234, 'CMC': [0.5, 0.6, 0.7, 0.8, 0.875]}
    scores['args'] = {'gallery_dataset': 'data/market1501_test.csv'}
    (tmp_path / 'scores.json').write_text(json.dumps(scores))
    words = ['--experiment_root', str(run), '--format', 'hub_folder', '--licence', 'x']
    words += ['--filename', 'scored', '--scores', str(tmp_path / 'scores.json')]
    assert export.main([*words, '--quiet', '--num_check_images', '4']) == 0
    card = (run / 'scored_hub' / 'README.md').read_text()
    assert 'On `market1501_test`: mAP 12.34%, rank-1 50.00%, rank-5 87.50%.' in card
    assert '    - type: mAP\n      value: 12.34\n' in card
    assert '      name: "market1501_test"\n' in card


def test_scores_are_those_of_evaluate(run, tmp_path):
    csv = str(run.parent / 'train.csv')
    embed.main(['--experiment_root', str(run), '--dataset', csv, '--quiet'])
    embs = str(run / 'train_embeddings.h5')
    evaluate.main(
        [
            *('--excluder', 'diagonal', '--metric', 'sqeuclidean', '--quiet'),
            *('--query_dataset', csv, '--query_embeddings', embs),
            *('--gallery_dataset', csv, '--gallery_embeddings', embs),
            *('--filename', str(tmp_path / 'scores.json')),
        ]
    )
    expected = json.loads((tmp_path / 'scores.json').read_text())['mAP']
    words = ['--experiment_root', str(run), '--filename', 'ranked']
    words += ['--format', 'onnx', 'litert', '--num_check_images', '7']
    words += ['--query_dataset', csv, '--gallery_dataset', csv]
    assert export.main([*words, '--excluder', 'diagonal', '--quiet']) == 0
    for suffix in ('onnx', 'tflite'):
        parity = json.loads((run / f'ranked.{suffix}.json').read_text())['parity']
        assert parity['num_images'] == 7
        assert parity['tensorflow_mean_ap'] == pytest.approx(expected, abs=1e-6)
        assert parity['mean_ap'] == pytest.approx(expected, abs=0.01)  # Ties may turn.


def test_threshold_of_the_run_goes_along(run, exported):
    files, _ = exported
    thresholds = {'args': {'metric': 'sqeuclidean'}}
    thresholds['thresholds'] = [{'rule': 'equal error rate', 'threshold': 0.75}]
    (run / 'thresholds.json').write_text(json.dumps(thresholds))
    try:
        words = ['--experiment_root', str(run), '--format', 'onnx', '--quiet']
        assert export.main([*words, '--filename', 'told']) == 0
    finally:
        (run / 'thresholds.json').unlink()
    assert embedder.Embedder.load(run / 'told.onnx').threshold == 0.75
    assert embedder.Embedder.load(files['onnx']).threshold is None
    assert embedder.Embedder.load(files['onnx'], threshold=2).threshold == 2


def test_threshold_of_another_directory_does_not_count(exported, tmp_path, monkeypatch):
    files, _ = exported
    thresholds = {'args': {'metric': 'cityblock'}}
    thresholds['thresholds'] = [{'rule': 'equal error rate', 'threshold': 0.75}]
    (tmp_path / 'thresholds.json').write_text(json.dumps(thresholds))
    monkeypatch.chdir(tmp_path)
    assert embedder.Embedder.load(files['onnx']).threshold is None


# --- what goes wrong --------------------------------------------------------------


def spoil(factor):
    """Return a function that writes ONNX whose embeddings are multiplied."""

    def write(exported_network, target, calibration):
        import onnx

        from deployment import onnx as module

        original(exported_network, target, calibration)
        model = onnx.load(target)
        last = next(n for n in model.graph.node if 'embeddings' in n.output)
        last.output[:] = ['almost']
        value = onnx.helper.make_tensor('factor', 1, [1], [factor])
        model.graph.initializer.append(value)
        product = onnx.helper.make_node('Mul', ['almost', 'factor'], ['embeddings'])
        model.graph.node.append(product)
        onnx.save(model, target)
        del module

    from deployment import onnx as module

    original = module.write
    return write


@pytest.mark.parametrize('factor', [1.01, float('nan'), 0.0])
def test_file_that_embeds_otherwise_is_not_kept(run, monkeypatch, capsys, factor):
    from deployment import onnx as module

    monkeypatch.setattr(module, 'write', spoil(factor))
    words = ['--experiment_root', str(run), '--format', 'onnx', 'litert']
    assert export.main([*words, '--filename', 'spoilt']) == 1
    told = capsys.readouterr()
    assert 'error: onnx embeds otherwise: the largest difference is' in told.err
    assert 'at most 1e-04 was expected; it is not kept' in told.err
    assert not list(run.glob('spoilt.onnx*'))
    assert not list(run.glob('.*'))
    assert (run / 'spoilt.tflite').exists()  # The other one is fine.
    assert [line.split()[0] for line in told.out.splitlines()] == ['format', 'litert']


def test_older_file_stays_if_the_new_one_is_bad(run, exported, monkeypatch):
    from deployment import onnx as module

    (run / 'old.onnx').write_text('older')
    monkeypatch.setattr(module, 'write', spoil(2.0))
    words = ['--experiment_root', str(run), '--format', 'onnx', '--quiet']
    assert export.main([*words, '--filename', 'old']) == 1
    assert (run / 'old.onnx').read_text() == 'older'


def test_file_that_its_runtime_does_not_load_is_not_kept(run, monkeypatch, capsys):
    from deployment import litert as module

    def write(exported_network, target, calibration):
        pathlib.Path(target).write_bytes(b'TFL3 rubbish')

    monkeypatch.setattr(module, 'write', write)
    words = ['--experiment_root', str(run), '--format', 'litert', '--filename', 'none']
    assert export.main([*words, '--quiet']) == 1
    assert 'the runtime of litert fails with' in capsys.readouterr().err
    assert not list(run.glob('none*'))


def test_older_export_stays_if_there_is_no_room_for_its_json(run, monkeypatch, capsys):
    words = ['--experiment_root', str(run), '--format', 'litert', '--quiet']
    words += ['--filename', 'full', '--num_check_images', '2']
    assert export.main(words) == 0
    paths = [run / 'full.tflite', run / 'full.tflite.json']
    older = [path.read_bytes() for path in paths]

    def write_text(path, *_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(pathlib.Path, 'write_text', write_text)
    assert export.main(words) == 1
    assert 'full.tflite.json: No space left on device; make' in capsys.readouterr().err
    assert [path.read_bytes() for path in paths] == older
    assert sorted(run.glob('*full*')) == paths


def make_directories(directory):
    """Return the paths of two directories, with a file `new` and a file `old`."""
    paths = [directory / 'partial', directory / 'x_hub']
    for path, name in zip(paths, ('new', 'old'), strict=True):
        path.mkdir()
        (path / name).touch()
    return paths


def test_directories_change_names_in_one_step(tmp_path, monkeypatch):
    partial, target = make_directories(tmp_path)
    # More than one step is not needed here, nor would it do.
    monkeypatch.setattr(os, 'rename', None)
    export.replace(str(partial), str(target))
    assert (target / 'new').exists()
    assert (partial / 'old').exists()


def test_older_directory_is_not_lost_where_there_is_no_such_step(tmp_path, monkeypatch):
    partial, target = make_directories(tmp_path)

    def refuse(*_):
        return -1

    # A C library that does not have it; a file system that refuses, such as NFS.
    for library in (types.SimpleNamespace(), types.SimpleNamespace(renameat2=refuse)):
        monkeypatch.setattr(export.ctypes, 'CDLL', lambda _, library=library: library)
        export.replace(str(partial), str(target))
        assert (target / 'new').exists()
        assert (partial / 'old').exists()
        assert sorted(tmp_path.iterdir()) == [partial, target]
        export.replace(str(partial), str(target))
    original, calls = os.rename, []

    def rename(source, destination):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(source, destination)

    monkeypatch.setattr(os, 'rename', rename)
    with pytest.raises(KeyboardInterrupt):
        export.replace(str(partial), str(target))
    (kept,) = tmp_path.glob('x_hub.*.old')
    assert (kept / 'old').exists()


def test_link_to_an_export_stays_one(run, tmp_path):
    words = ['--experiment_root', str(run), '--format', 'hub_folder', '--quiet']
    words += ['--filename', 'linked', '--num_check_images', '2', '--licence', 'x']
    (tmp_path / 'elsewhere').mkdir()
    (run / 'linked_hub').symlink_to(tmp_path / 'elsewhere')
    assert export.main(words) == 0
    assert (run / 'linked_hub').is_symlink()
    assert (tmp_path / 'elsewhere' / 'README.md').exists()
    assert list(tmp_path.iterdir()) == [tmp_path / 'elsewhere']
    embedder.Embedder.load(run / 'linked_hub')


def test_directories_are_replaced(run):
    words = ['--experiment_root', str(run), '--format', 'hub_folder', '--quiet']
    words += ['--filename', 'twice', '--num_check_images', '2']
    for licence in ('first', 'second'):
        assert export.main([*words, '--licence', licence]) == 0
    assert 'license: second' in (run / 'twice_hub' / 'README.md').read_text()
    assert sorted(path.name for path in run.glob('twice*')) == [
        *('twice_hub', 'twice_hub.json')
    ]


@pytest.mark.parametrize(
    'words, message',
    [
        (
            ['--format', 'onnx', '--input', 'encoded'],
            'saved_model alone: other runtimes',
        ),
        (['--format', 'hub_folder'], 'needs a --licence for the model card'),
        (
            ['--format', 'onnx', '--excluder', 'diagonal'],
            'belong together: give all th',
        ),
        (['--format', 'tensorrt'], "invalid choice: 'tensorrt'"),
    ],
)
def test_flags_that_do_not_fit_are_refused(run, capsys, words, message):
    with pytest.raises(SystemExit) as error:
        export.main(['--experiment_root', str(run), *words])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_what_is_not_installed_is_named(monkeypatch):
    from deployment import onnx as module

    monkeypatch.setattr(module, 'NEEDS', ('no-such-distribution',))
    message = 'needs no-such-distribution; install it: pip install -r requirements-exp'
    with pytest.raises(common.InputError, match=message):
        export.load_formats(['onnx'])


def test_images_to_check_on_are_those_of_the_run(tmp_path):
    csv = tmp_path / 'a.csv'
    csv.write_text('')
    choose = export.choose_check_images
    assert choose('x.csv', {}, 'exp') == 'x.csv'
    assert choose(None, {'val_set': str(csv), 'train_set': 'gone'}, 'exp') == str(csv)
    assert choose(None, {'val_set': None, 'train_set': [str(csv)]}, 'exp') == str(csv)
    with pytest.raises(common.InputError, match='exp/args.json names are not here'):
        choose(None, {'val_set': 'gone', 'train_set': 'gone'}, 'exp')


def test_json_beside_a_file_is_checked(run, exported, tmp_path):
    files, _ = exported
    (tmp_path / 'x.onnx').write_bytes(files['onnx'].read_bytes())
    told = json.loads(pathlib.Path(f'{files["onnx"]}.json').read_text())
    for changed, message in (
        ({'input': 3}, r'x.onnx.json is not what export.py writes beside'),
        ({'format': 'exe'}, r'x.onnx.json is not what export.py writes beside'),
        ({'pre_crop': [2**16, 12]}, r'x.onnx.json is not what export.py writes beside'),
        ({'pre_crop': [20, -12]}, r'x.onnx.json is not what export.py writes beside'),
        ({'threshold': 'far'}, r'x.onnx.json is not what export.py writes beside'),
        ({'threshold': -1.0}, r'x.onnx.json is not what export.py writes beside'),
        ({'metric': 'far'}, r'x.onnx.json is not what export.py writes beside'),
        (
            {'input': {**told['input'], 'kind': 'encoded'}},
            r'x.onnx takes encoded images; an Embedder needs a file',
        ),
    ):
        (tmp_path / 'x.onnx.json').write_text(json.dumps({**told, **changed}))
        with pytest.raises(common.InputError, match=message):
            embedder.Embedder.load(tmp_path / 'x.onnx')
    (tmp_path / 'x.onnx.json').unlink()
    for load in (embedder.Embedder.load, _sidecar.read):
        with pytest.raises(
            FileNotFoundError, match='json is missing; .* or export again'
        ):
            load(tmp_path / 'x.onnx')


def test_file_that_is_damaged_or_another_is_refused(exported, tmp_path):
    files, _ = exported
    for name in ('saved_model', 'onnx'):
        target = tmp_path / files[name].name
        copy = shutil.copytree if files[name].is_dir() else shutil.copy
        copy(files[name], target)
        shutil.copy(f'{files[name]}.json', f'{target}.json')
        _sidecar.check(str(target), _sidecar.read(str(target)))
        file = target / 'saved_model.pb' if target.is_dir() else target
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(
            common.InputError, match=f'{target} is damaged, or {target}'
        ):
            embedder.Embedder.load(target)


def test_thresholds_are_shared_without_paths(run):
    hub_folder = importlib.import_module('deployment.hub_folder')
    roc = {'fpr': [0, 1], 'tpr': [0, 1], 'threshold': [0.5, 2]}
    scores = {
        'thresholds': [{'rule': 'equal error rate', 'threshold': 0.75}],
        'roc': roc,
        'args': {'metric': 'sqeuclidean', 'query_dataset': '/home/me/q.csv'},
        'embeddings': {'weights': 'w', 'checkpoint': '/home/me/checkpoint-5'},
        'queries_without_match': ['/home/me/a.jpg'],
    }
    kept = hub_folder.without_paths(scores)
    assert 'home' not in json.dumps(kept)
    assert kept['roc'] == roc
    assert kept['args']['metric'] == 'sqeuclidean'
    assert kept['embeddings'] == {'weights': 'w', 'checkpoint': 'checkpoint-5'}
    assert kept['thresholds'] == scores['thresholds']
    # Older files, and others, say less.
    assert hub_folder.without_paths({'roc': roc})['roc'] == roc


def test_quiet_prints_nothing(run, capsys):
    words = ['--experiment_root', str(run), '--format', 'onnx', '--filename', 'q']
    assert export.main([*words, '--quiet', '--num_check_images', '2']) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ('', '')


def test_nearest_images_are_compared():
    truth = np.float32([[0], [1], [10], [12]])
    same, other = truth + 0.1, np.float32([[0], [20], [10], [12]])
    assert _parity.compare(same, truth, 'euclidean')[1] == 1
    # 0 is now nearest to 10, and 20 to 12.
    difference, agreement = _parity.compare(other, truth, 'euclidean')
    assert agreement == 0.5
    assert difference == pytest.approx(19 / np.sqrt((0 + 1 + 100 + 144) / 4))
    with pytest.raises(common.InputError, match=r'shape \[4, 2\], expected \[4, 1\]'):
        _parity.compare(np.zeros((4, 2)), truth, 'euclidean')
