"""embed.py against the HDF5 files that the original wrote."""

import json
import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import embed
import embedder
import embedding_files
import golden_recipe
import model
import nets._resnet

LAYOUT = golden_recipe.load_json('embed_layout.json')
NETS = sorted(LAYOUT)
COMBOS = [(net, combo) for net in NETS for combo in LAYOUT[net] if combo != '_args']


@pytest.fixture(scope='module')
def golden():
    """Return the golden arrays of embed.npz."""
    with np.load(golden_recipe.GOLDEN / 'embed.npz') as arrays:
        return dict(arrays)


@pytest.fixture(scope='module')
def experiments(tmp_path_factory):
    """Return {net: experiment root} as the original left it, with recipe weights."""
    roots = {}
    for net in NETS:
        root = roots[net] = tmp_path_factory.mktemp(net)
        stored = LAYOUT[net]['_args']
        (root / 'args.json').write_text(
            json.dumps(stored | {'image_root': str(golden_recipe.GOLDEN / 'images')})
        )
        golden_recipe.write_tf1_checkpoint(
            root / 'checkpoint-25', net, stored['head_name']
        )
        (root / 'checkpoint').write_text(
            'model_checkpoint_path: "/elsewhere/run/checkpoint-25"\n'
            'all_model_checkpoint_paths: "/elsewhere/run/checkpoint-25"\n'
        )
    return roots


@pytest.mark.parametrize('net, combo', COMBOS)
def test_file_equals_that_of_the_original(golden, experiments, tmp_path, net, combo):
    expected = LAYOUT[net][combo]
    filename = tmp_path / 'embs.h5'
    embed.main(
        [
            *('--experiment_root', str(experiments[net])),
            *('--dataset', str(golden_recipe.GOLDEN / 'embed_dataset.csv')),
            *('--filename', str(filename)),
            *('--batch_size', '4', '--quiet'),
            *expected['cli'],
        ]
    )
    with h5py.File(filename) as file:
        for name, (shape, dtype) in expected['datasets'].items():
            assert list(file[name].shape) == shape
            assert file[name].dtype == np.dtype(dtype)
        assert ('emb_aug' in file) == ('emb_aug' in expected['datasets'])
        types = [name.decode() for name in file['augmentation_types']]
        assert types == expected['augmentation_types']
        for name in ('emb', 'emb_aug'):
            key = f'{net}/{combo}/{name}'
            if key in golden:
                assert golden_recipe.error_in_rms(file[name], golden[key]) < 1e-4
        assert file['embs'] == file['emb']  # The same object under two names.
        assert file['fid'].asstr()[0] == 'gray_h100_w50.jpg'
        assert file['pid'].asstr()[8] == '0008'
        assert json.loads(file.attrs['args'])['batch_size'] == 4
        assert file.attrs['checkpoint'].endswith('checkpoint-25')


def test_default_file_stands_in_the_experiment_root(experiments, tmp_path):
    root = tmp_path / 'moved'
    shutil.copytree(experiments['mobilenet_v1_1_224'], root)
    dataset = golden_recipe.GOLDEN / 'embed_dataset.csv'
    embed.main(['--experiment_root', str(root), '--dataset', str(dataset)])
    assert (root / 'embed_dataset_embeddings.h5').is_file()


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--flip_augment'], '2 variants of every image need an --aggregator: mean or'),
        (['--crop_augment', 'five'], '5 variants of every image need an --aggregator'),
        (['--aggregator', 'mean'], '--aggregator has nothing to join'),
        (
            ['--aggregator', 'mean', '--crop_augment', 'center'],
            '--aggregator has nothing to join',
        ),
    ],
)
def test_augmentation_and_aggregator_go_together(capsys, experiments, flags, message):
    root = str(experiments['mobilenet_v1_1_224'])
    with pytest.raises(SystemExit) as error:
        embed.main(['--experiment_root', root, '--dataset', 'x.csv', *flags])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_failing_run_leaves_an_old_file_as_it_was(experiments, tmp_path):
    (tmp_path / 'good.png').write_bytes(
        (golden_recipe.GOLDEN / 'images' / 'tiny_h5_w3.png').read_bytes()
    )
    (tmp_path / 'zero.png').write_bytes(b'')
    (tmp_path / 'set.csv').write_text('1,good.png\n2,zero.png\n')
    (tmp_path / 'embs.h5').write_text('old')
    with pytest.raises(ValueError, match=r'zero\.png is not a readable image .*empty'):
        embed.main(
            [
                *('--experiment_root', str(experiments['mobilenet_v1_1_224'])),
                *('--dataset', str(tmp_path / 'set.csv')),
                *('--image_root', str(tmp_path)),
                *('--filename', str(tmp_path / 'embs.h5'), '--batch_size', '1'),
            ]
        )
    assert (tmp_path / 'embs.h5').read_text() == 'old'
    assert not list(tmp_path.glob('.*'))


def test_unknown_net_in_args_json_is_named(tmp_path):
    stored = LAYOUT['mobilenet_v1_1_224']['_args'] | {'model_name': 'vgg'}
    (tmp_path / 'args.json').write_text(json.dumps(stored))
    with pytest.raises(ValueError, match='model_name is "vgg", expected one of'):
        embedder.read_trained_net(str(tmp_path))


def test_last_stride_is_that_of_the_training_run(tmp_path, monkeypatch):
    monkeypatch.setitem(nets._resnet.NUM_UNITS, 50, (1, 1, 1, 1))
    trained = model.build_model('resnet_v1_50', 'direct', 8, last_stride=1)
    variables = checkpoints.variables_by_name(trained)
    prefix = tf.train.Checkpoint(**variables).write(str(tmp_path / 'weights'))
    images = golden_recipe.images(1, 2, 64, 32)
    training = {
        'model_name': 'resnet_v1_50',
        'head_name': 'direct',
        'embedding_dim': 8,
        **dict.fromkeys(('net_input_height', 'pre_crop_height'), 64),
        **dict.fromkeys(('net_input_width', 'pre_crop_width'), 32),
    }
    # Runs from before the flag have none in args.json, and a stride of 2.
    for stored, is_same in (({'last_stride': 1}, True), ({}, False)):
        (tmp_path / 'args.json').write_text(json.dumps(training | stored))
        flags = embedder.read_trained_net(str(tmp_path))
        ours, _ = embedder.Embedder.restore(flags, prefix)
        error = golden_recipe.error_in_rms(
            ours.embed_batch(images)[0], trained(images)['emb']
        )
        assert (error < 1e-4) == is_same


def test_args_json_without_the_net_is_refused(tmp_path):
    (tmp_path / 'args.json').write_text('{"head_name": "direct"}')
    with pytest.raises(ValueError, match='args.json lacks model_name, embedding_dim'):
        embedder.read_trained_net(str(tmp_path))


def test_diverged_network_is_not_embedded_with():
    embs = np.float32([[1, 2], [np.nan, 1]])
    with pytest.raises(ValueError, match=r'embedding of b\.jpg is not finite'):
        embedding_files.refuse_diverged(embs, ['a.jpg', 'b.jpg'])


def test_checkpoint_of_another_net_names_what_it_lacks(experiments):
    other = model.build_model('resnet_v1_50', 'fc1024', 128)
    prefix = str(experiments['mobilenet_v1_1_224'] / 'checkpoint-25')
    with pytest.raises(ValueError, match='lacks 265 of the 272 variables'):
        checkpoints.load_weights(other, prefix)


def test_missing_checkpoint_names_those_that_are_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='no checkpoint best, nor any other$'):
        checkpoints.find(str(tmp_path), 'best')
    for name in ('checkpoint-10', 'checkpoint-9', 'best'):
        (tmp_path / f'{name}.index').write_bytes(b'')
    assert checkpoints.find(str(tmp_path), 'best') == str(tmp_path / 'best')
    with pytest.raises(
        FileNotFoundError,
        match='no checkpoint worst; expected one of best, checkpoint-9, checkpoint-10$',
    ):
        checkpoints.find(str(tmp_path), 'worst')
