"""embed.py against the HDF5 files that the original wrote."""

import functools
import json
import re
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
import embedding_files
import golden_recipe
import model
import nets._resnet
import run_files
import tiny_run
from embedding import shards

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


@pytest.fixture(scope='module')
def build_once():
    """Return a function as model.build_model that builds each network once.

    Whoever gets it loads weights into all of its variables.
    """
    return functools.cache(model.build_model)


@pytest.mark.parametrize('net, combo', COMBOS)
def test_file_equals_that_of_the_original(
    golden, experiments, tmp_path, monkeypatch, build_once, net, combo
):
    monkeypatch.setattr(model, 'build_model', build_once)
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


@pytest.fixture
def small_run(tmp_path, monkeypatch):
    """Return a directory with a run `root` and the 4 images of its `train.csv`."""
    tiny_run.shrink_net(monkeypatch)
    tiny_run.write_dataset(tmp_path, (2, 2))
    tiny_run.start(tmp_path, tmp_path / 'root', '--train_iterations', '1')
    return tmp_path


def embed_small(directory, *flags):
    embed.main(
        [
            *('--experiment_root', str(directory / 'root'), '--quiet'),
            *('--dataset', str(directory / 'train.csv'), *flags),
        ]
    )


def test_file_is_relative_to_the_experiment_root(small_run, monkeypatch):
    root, here = small_run / 'root', small_run / 'here'
    here.mkdir()
    monkeypatch.chdir(here)
    embed_small(small_run, '--filename', 'ten.h5')
    embed_small(small_run, '--filename', 'new/ten.h5')
    embed_small(small_run, '--filename', str(small_run / 'absolute.h5'))
    monkeypatch.setenv('HOME', str(small_run))
    embed_small(small_run, '--filename', '~/home.h5')
    parts = ('--filename', 'ten.h5', '--batch_size', '2')
    for index in '12':
        embed_small(small_run, *parts, '--shard', f'{index}/2')
    before = (root / 'ten.h5').read_bytes()
    embed_small(small_run, *parts, '--merge')
    assert not list(here.iterdir())
    assert {file.name for file in small_run.glob('*.h5')} == {'absolute.h5', 'home.h5'}
    assert {str(file.relative_to(root)) for file in root.rglob('*.h5')} == {
        *('ten.h5', 'new/ten.h5', 'ten.shard-1-of-2.h5', 'ten.shard-2-of-2.h5')
    }
    # It was replaced: the arguments that it names have another batch size.
    assert (root / 'ten.h5').read_bytes() != before


@pytest.mark.parametrize(
    'more, message',
    [
        (['--filename', '.'], r'/root/\. is a directory, a file name was expected$'),
        (['--filename', 'args.json/x.h5'], r'args\.json is a file, a directory was'),
    ],
)
def test_file_that_cannot_be_written_is_refused_before_anything_is_loaded(
    small_run, monkeypatch, more, message
):
    for module, name in ((checkpoints, 'find'), (shards, 'find')):
        monkeypatch.setattr(module, name, None)
    for mode in ([], ['--merge']):
        with pytest.raises(common.FileError, match=message):
            embed_small(small_run, *more, *mode)


def test_part_needs_its_own_images_alone(small_run):
    for name in ('1_0.png', '1_1.png'):  # The second half.
        (small_run / name).rename(small_run / f'{name}.away')
    flags = ('--batch_size', '2', '--shard')
    embed_small(small_run, *flags, '1/2')
    assert (small_run / 'root' / 'train_embeddings.shard-1-of-2.h5').is_file()
    with pytest.raises(FileNotFoundError, match=r'2 of 2 images in .*\(first: .*1_0'):
        embed_small(small_run, *flags, '2/2')
    (small_run / '1_1.png.away').rename(small_run / '1_1.png')
    # The first row of a part is no heading.
    with pytest.raises(FileNotFoundError, match='1 of 2 images in .* are missing'):
        embed_small(small_run, *flags, '2/2')


def spoil_two(directory):
    """Damage a first image in its middle, and leave nothing of a third one."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    noise = cv2.resize(noise, (120, 200))
    content = bytearray(cv2.imencode('.jpg', noise)[1])
    content[2000:2300] = bytes(300)
    (directory / '0_0.png').write_bytes(content)
    (directory / '1_0.png').write_bytes(b'')


def test_images_are_checked_before_anything_is_loaded(small_run, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, 'find', None)
    spoil_two(small_run)
    with pytest.raises(
        common.InputError, match=r'1 of 4 images cannot be read \(first: .*1_0.png\); '
    ):
        embed_small(small_run, '--check_images')
    unreadable, damaged = capsys.readouterr().err.splitlines()
    assert unreadable == f'{small_run}/1_0.png: the file is empty'
    assert damaged.startswith(f'{small_run}/0_0.png: it gives an image, but is damaged')


def test_damaged_images_are_named_and_embedded(small_run, capsys):
    spoil_two(small_run)
    embed_small(small_run, '--check_images', '--on_bad_image', 'skip')
    damaged, *others = capsys.readouterr().err.splitlines()
    assert damaged.startswith(f'{small_run}/0_0.png: it gives an image, but is damaged')
    assert others == [
        '1_0.png is skipped: the file is empty',
        '1 of 4 images skipped (first: 1_0.png); their rows are NaN',
    ]
    with h5py.File(small_run / 'root' / 'train_embeddings.h5') as file:
        assert file['skipped'][:].tolist() == [2]
        assert np.isfinite(file['emb'][:]).all(axis=1).tolist() == [1, 1, 0, 1]


def test_part_checks_its_own_images_alone(small_run, capsys):
    spoil_two(small_run)
    flags = ('--batch_size', '2', '--check_images', '--shard')
    embed_small(small_run, *flags, '1/2')
    (line,) = capsys.readouterr().err.splitlines()
    assert '0_0.png: it gives an image, but is damaged' in line
    with pytest.raises(common.InputError, match='1 of 2 images cannot be read'):
        embed_small(small_run, *flags, '2/2')
    # Nor need all parts be checked.
    (small_run / '1_0.png').write_bytes((small_run / '1_1.png').read_bytes())
    embed_small(small_run, '--batch_size', '2', '--shard', '2/2')
    embed_small(small_run, '--batch_size', '2', '--merge')


def test_merge_checks_no_images(small_run, capsys):
    with pytest.raises(SystemExit):
        embed_small(small_run, '--merge', '--check_images')
    assert '--merge reads no images: leave --check_images' in capsys.readouterr().err


def trained_net(pre_crop):
    return embedder.TrainedNet('lunet', 'direct', 8, 64, 32, *pre_crop)


@pytest.mark.parametrize(
    'trained_on_crops, crop, message',
    [
        (True, None, 'crops of 64x32 pixels out of 72x36 .* --crop_augment center or'),
        (True, 'center', None),
        (True, 'five', None),
        (True, 'avgpool', None),  # In the size that they were cut from.
        (False, None, None),
        (
            False,
            'center',
            '--crop_augment center enlarges them to 72x36; .* leaving it',
        ),
        (False, 'avgpool', '--crop_augment avgpool enlarges them to 72x36'),
        (None, None, None),
        (None, 'five', None),
    ],
)
def test_other_scale_than_in_training_is_told(trained_on_crops, crop, message):
    told = embed.describe_scale(crop, trained_on_crops, trained_net((72, 36)))
    assert (told is None) == (message is None)
    assert message is None or re.search(message, told)
    # Crops of an image's own size are the image.
    same = trained_net((64, 32))
    assert embed.describe_scale(crop, trained_on_crops, same) is None


def test_other_scale_is_a_warning_that_quiet_does_not_hide(small_run, capsys):
    run_files.change_args(small_run / 'root', crop_augment=True, pre_crop_height=40)
    embed_small(small_run)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('warning: the training saw crops of 32x16 pixels out of 40x')


@pytest.mark.parametrize('value', [5, True, {}, [5], ['/a', None]])
def test_image_root_that_is_no_text_is_named(tmp_path, value):
    (tmp_path / 'args.json').write_text(json.dumps({'image_root': value}))
    message = re.escape(f'args.json: image_root is {json.dumps(value)}, expected')
    with pytest.raises(common.InputError, match=message):
        embedder.choose_image_root(None, str(tmp_path))


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
        embedding_files.refuse_diverged(embs, range(2), ['a.jpg', 'b.jpg'], {})


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
