"""Checkpoints: what is in them, who reads them, what is said when they differ."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import common
import golden_recipe
import layers
import model
import roundings
from nets import _resnet, mobilenet_v1_1_224, resnet_v1_50


def make_state(directory, net='mobilenet_v1_1_224', head='fc1024', dim=128):
    """Return a model and its TrainingState."""
    network = model.build_model(net, head, dim)
    optimizer = keras.optimizers.Adam(epsilon=1e-8)
    optimizer.build(network.trainable_variables)
    return network, checkpoints.TrainingState(network, optimizer, str(directory))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Return the directory of checkpoint-0 and checkpoint-3, and its state."""
    directory = tmp_path_factory.mktemp('run')
    _, state = make_state(directory)
    golden_recipe.fill(
        v for name, v in state.variables.items() if name != 'global_step'
    )
    state.save(0)
    state.variables['global_step'].assign(3)
    state.save(3)
    return directory, state


def write_one_file_checkpoint(filename, arrays):
    """Write arrays in TensorFlow's old format, as TF-Slim's downloads are."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        variables = [
            v1.get_variable(name, initializer=array, use_resource=False)
            for name, array in arrays.items()
        ]
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(variables, write_version=v1.train.SaverDef.V1)
        saver.save(session, str(filename), write_meta_graph=False)


@pytest.mark.parametrize('net', ['mobilenet_v1_1_224', 'resnet_v1_50'])
def test_keys_are_the_names_of_the_original(tmp_path, net):
    stored = golden_recipe.load_json('variables.json')['nets'][net]
    expected = {
        name
        for name in stored['heads']['fc1024']['checkpoint_variables']
        if 'Logits' not in name and not name.startswith('beta')
    }
    _, state = make_state(tmp_path, net)
    state.save(0)
    written = set(checkpoints.WeightsFile(str(tmp_path / 'checkpoint-0')).shapes)
    ours = {'_CHECKPOINTABLE_OBJECT_GRAPH', checkpoints.ARGS_NAME}
    assert written == expected | ours


def test_key_of_any_name_turns_back_into_the_name():
    for name in ('a/b/c', 'a.S/b', 'a..b', 'x.y/z', 'plain'):
        key = name.replace('.', '..').replace('/', '.S') + checkpoints.KEY_SUFFIX
        assert checkpoints.name_of_key(key) == name
        assert checkpoints.name_of_key(name) == name


def test_saved_state_comes_back_bit_for_bit(saved, tmp_path):
    directory, state = saved
    _, other = make_state(tmp_path)
    report = other.load(checkpoints.latest(str(directory)))
    assert other.step == 3
    assert not report.random
    for name, variable in state.variables.items():
        np.testing.assert_array_equal(other.variables[name], variable, err_msg=name)


def test_run_of_the_original_goes_on_with_its_adam_moments(tmp_path):
    prefix = str(tmp_path / 'checkpoint-25')
    golden_recipe.write_tf1_checkpoint(prefix, 'mobilenet_v1_1_224', 'fc1024')
    _, state = make_state(tmp_path)
    report = state.load(prefix)
    assert not report.random
    assert report.unused == [
        'MobilenetV1/Logits/Conv2d_1c_1x1/biases',
        'MobilenetV1/Logits/Conv2d_1c_1x1/weights',
    ]
    # The run goes on with all other variables of its optimizer.
    assert report.training == ['beta1_power', 'beta2_power']
    assert state.step == 25
    assert sum(name.endswith('/Adam_1') for name in report.loaded) == 86
    for name in set(state.variables) - {'global_step'}:
        expected = golden_recipe.draw(name, state.variables[name].shape)
        np.testing.assert_array_equal(state.variables[name], expected, err_msg=name)


def test_latest_survives_that_the_directory_was_moved(saved, tmp_path):
    directory, _ = saved
    moved = tmp_path / 'moved here'
    moved.mkdir()
    for file in directory.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    (moved / 'checkpoint').write_text(
        f'model_checkpoint_path: "{directory}/checkpoint-3"\n'
    )
    assert checkpoints.latest(str(moved)) == str(moved / 'checkpoint-3')


def test_latest_says_what_is_missing(saved, tmp_path):
    with pytest.raises(
        FileNotFoundError, match='no checkpoint in .*; expected the index'
    ):
        checkpoints.latest(str(tmp_path))
    (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "checkpoint-9"\n')
    with pytest.raises(FileNotFoundError, match='names checkpoint-9, which is not'):
        checkpoints.latest(str(tmp_path))


@pytest.mark.parametrize(
    'content',
    [b'', b'garbage', b'\xff\x00', b'all_model_checkpoint_paths: "checkpoint-9"', None],
)
def test_index_that_is_none_is_named_in_our_words_alone(tmp_path, content, capfd):
    if content is None:
        (tmp_path / 'checkpoint').mkdir()
    else:
        (tmp_path / 'checkpoint').write_bytes(content)
    with pytest.raises(
        FileNotFoundError, match='/checkpoint cannot be read; .* restore it; no other'
    ):
        checkpoints.latest(str(tmp_path))
    assert capfd.readouterr().err == ''


def test_body_loads_from_a_one_file_checkpoint_and_the_head_stays_random(tmp_path):
    scope = 'MobilenetV1'
    network = model.build_model('mobilenet_v1_1_224', 'direct', 128)
    arrays = {
        v.path: golden_recipe.draw(v.path, v.shape)
        for v in network.variables
        if v.path.startswith(scope)
    }
    extra = {
        f'{scope}/Logits/Conv2d_1c_1x1/biases': np.zeros(1001, np.float32),
        f'{scope}/Conv2d_0/weights/RMSProp': arrays[f'{scope}/Conv2d_0/weights'],
        'global_step': np.int64(9),
        'mean_rgb': np.zeros(3, np.float32),
    }
    write_one_file_checkpoint(tmp_path / 'slim.ckpt', arrays | extra)
    before = {v.path: v.numpy().copy() for v in network.variables}
    weights = checkpoints.WeightsFile(str(tmp_path / 'slim.ckpt'))
    report = checkpoints.load_body(network, weights, 'slim.ckpt')
    assert sorted(report.loaded) == sorted(arrays)
    assert report.random == ['emb/biases', 'emb/weights']
    assert report.unused == [f'{scope}/Logits/Conv2d_1c_1x1/biases', 'mean_rgb']
    assert report.training == [f'{scope}/Conv2d_0/weights/RMSProp', 'global_step']
    for variable in network.variables:
        expected = arrays.get(variable.path, before[variable.path])
        np.testing.assert_array_equal(variable, expected)


def test_training_checkpoint_can_start_another_run(saved):
    directory, _ = saved
    other = model.build_model('mobilenet_v1_1_224', 'direct', 16)
    weights = checkpoints.WeightsFile(str(directory / 'checkpoint-3'))
    report = checkpoints.load_body(other, weights, 'checkpoint-3')
    assert report.random == ['emb/biases', 'emb/weights']
    assert len(report.loaded) == 135


def test_report_counts_and_names():
    report = checkpoints.Report(['a'] * 5, ['b', 'c'], ['d', 'e', 'f', 'g'])
    assert str(report) == (
        '5 variables loaded, 2 left random (b, c), 4 in the file unused (d, e, f, ...)'
    )
    report = report._replace(unused=[], training=['a/Adam', 'a/Adam_1', 'global_step'])
    assert str(report).endswith(", 0 in the file unused, 3 the optimizer's")


def test_moments_of_a_run_are_not_unused_and_its_own_restores_use_them(saved, tmp_path):
    directory, _ = saved
    network, state = make_state(tmp_path)
    report = checkpoints.load_weights(network, str(directory / 'checkpoint-3'))
    # Adam has two moments of each, and there is the step.
    assert (len(report.loaded), report.unused) == (len(network.variables), [])
    assert len(report.training) == 2 * len(network.trainable_variables) + 1
    assert state.load(str(directory / 'checkpoint-3')).training == []


@pytest.mark.parametrize(
    'arrays, message',
    [
        ({'w': [1, 2]}, r'x lacks 1 of the 2 variables \(first: b\)'),
        ({'w': [1, 2], 'b': [1], 'v': [1]}, r'has 1 variables .* lacks \(first: v\)'),
        (
            {'w': [1, 2, 3], 'b': [1]},
            r'has w of shape \(3,\), the model expects \(2,\)',
        ),
    ],
)
def test_unexplained_mismatch_is_an_error_and_assigns_nothing(arrays, message):
    variables = {'b': keras.Variable([5.0]), 'w': keras.Variable([6.0, 7.0])}
    weights = checkpoints.WeightsInMemory(
        {name: np.float32(value) for name, value in arrays.items()}
    )
    with pytest.raises(ValueError, match=f'{message}; check .*--model_name'):
        checkpoints.restore(variables, weights, 'x')
    with pytest.raises(ValueError, match=f'{message}; check [^-]* in args.json$'):
        checkpoints.restore(variables, weights, 'x', is_stored=True)
    np.testing.assert_array_equal(variables['b'], [5])
    np.testing.assert_array_equal(variables['w'], [6, 7])


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere is not a checkpoint: no such'):
        checkpoints.WeightsFile(str(tmp_path / 'nowhere'))
    with pytest.raises(
        FileNotFoundError,
        match='is not a checkpoint: a directory; expected a file, or what is common to '
        'the names of several',
    ):
        checkpoints.WeightsFile(str(tmp_path))
    (tmp_path / 'junk').write_bytes(b'junk' * 100)
    with pytest.raises(ValueError, match='junk is not a readable checkpoint'):
        checkpoints.WeightsFile(str(tmp_path / 'junk'))


def test_checkpoint_that_cannot_be_written_is_reported(tmp_path):
    _, state = make_state(tmp_path / 'file' / 'run')
    (tmp_path / 'file').write_text('a file where a directory should be')
    with pytest.raises(OSError, match='cannot write checkpoint-1 to .*unharmed'):
        state.save(1)


def fill_application(application):
    """Give every weight of a Keras application the recipe's value: no 0 and no 1."""
    leaves = {'kernel': 'weights', 'depthwise_kernel': 'weights', 'bias': 'biases'}
    for layer in application.layers:
        names = [f'{layer.name}/{leaves.get(w.name, w.name)}' for w in layer.weights]
        layer.set_weights(
            [
                golden_recipe.draw(name, w.shape)
                for name, w in zip(names, layer.weights, strict=True)
            ]
        )


def unstride(net, root):
    """Let no convolution of a ResNet stride but its root, nor what goes beside it."""
    for layer in net._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D) and layer is not root:
            layer.strides = (1, 1)
        if isinstance(layer, layers.Conv) and layer is not root:
            layer.stride = 1
        if isinstance(layer, layers.Residual) and isinstance(
            layer.shortcut, layers.Function
        ):
            layer.shortcut = None


def test_keras_resnet_fits_and_computes_the_same_where_nothing_strides():
    theirs = keras.applications.ResNet50(
        weights=None, include_top=False, pooling='avg', input_shape=(None, None, 3)
    )
    fill_application(theirs)
    network = model.build_model('resnet_v1_50', 'direct', 8)
    weights = checkpoints.WeightsInMemory(resnet_v1_50.from_keras(theirs))
    report = checkpoints.load_body(network, weights, 'imagenet')
    assert len(report.loaded) == 265
    assert report.random == ['emb/biases', 'emb/weights']
    # Keras strides in other places: without strides the two are one function, but for
    # the root's pool, and that of an odd height and width (9 x 5) they pad alike.
    ours = network.layers[1]
    unstride(ours, ours.chained[1])
    unstride(theirs, theirs.get_layer('conv1_conv'))
    images = golden_recipe.images(3, 2, 18, 10)
    # Not keras.applications.resnet.preprocess_input, whose means have a digit more.
    expected = theirs((images - np.float32(_resnet.RGB_MEANS))[..., ::-1])
    error = golden_recipe.error_in_rms(ours(images), expected)
    assert error < roundings.bound_of_net(ours.variables)


def test_keras_mobilenet_computes_the_same_but_for_the_padding_of_its_root():
    theirs = keras.applications.MobileNet(
        (64, 32, 3), weights=None, include_top=False, pooling='avg'
    )
    fill_application(theirs)
    ours = model.build_model('mobilenet_v1_1_224', 'direct', 8)
    weights = checkpoints.WeightsInMemory(mobilenet_v1_1_224.from_keras(theirs))
    report = checkpoints.load_body(ours, weights, 'imagenet')
    assert len(report.loaded) == 135
    images = golden_recipe.images(3, 2, 64, 32)
    normalise, conv, *_ = ours.layers[1].chained
    root = np.asarray(conv(normalise(images)))
    bound = roundings.bound_of_net(ours.layers[1].variables)
    inner = theirs.get_layer('conv1_relu').output
    expected = np.asarray(keras.Model(theirs.input, inner)(images / 127.5 - 1))
    # Strided 'SAME' pads the last row and column only: black here, grey there.
    inside = np.s_[:, :-1, :-1]
    assert golden_recipe.error_in_rms(root[inside], expected[inside]) < bound
    expected = keras.Model(inner, theirs.output)(root)
    assert golden_recipe.error_in_rms(ours.layers[1](images), expected) < bound


def test_net_without_a_keras_application_says_so():
    with pytest.raises(ValueError, match='no Keras application has the architecture'):
        checkpoints.imagenet_weights(object(), 'lunet')


def test_failed_download_is_one_clear_error(monkeypatch):
    def offline(**_):
        raise Exception('URL fetch failure')  # The type keras.utils.get_file raises.

    monkeypatch.setattr(keras.applications, 'ResNet50', offline)
    with pytest.raises(ValueError, match=r'cannot be downloaded \(URL fetch failure\)'):
        checkpoints.imagenet_weights(resnet_v1_50, 'resnet_v1_50')


def test_later_checkpoints_are_none_of_a_run_that_goes_on_from_an_earlier_one(tmp_path):
    _, state = make_state(tmp_path)
    for step in (1, 2, 9):
        state.save(step)
    state.keep = 1
    state.go_on_from('checkpoint-2')
    assert checkpoints.numbered(str(tmp_path)) == ['checkpoint-2', 'checkpoint-9']
    assert (tmp_path / 'checkpoint').read_text() == (
        'model_checkpoint_path: "checkpoint-2"\n'
        'all_model_checkpoint_paths: "checkpoint-2"\n'
    )


# --- a state of one weight -------------------------------------------------------


def make_small(directory, keep=0):
    """Return a TrainingState of one weight."""
    images = keras.Input((1,))
    network = keras.Model(images, keras.layers.Dense(1, name='fc')(images))
    optimizer = keras.optimizers.Adam()
    optimizer.build(network.trainable_variables)
    return checkpoints.TrainingState(network, optimizer, str(directory), keep=keep)


def test_checkpoint_is_found_by_its_name_or_the_others_are_named(tmp_path):
    state = make_small(tmp_path)
    for step in (8, 9, 10):
        state.save(step)
    directory = str(tmp_path)
    assert checkpoints.find(directory, 'checkpoint-9') == f'{directory}/checkpoint-9'
    with pytest.raises(
        common.MissingFileError,
        match='no checkpoint checkpoint-7; expected one of checkpoint-8, checkpoint-9, '
        'checkpoint-10$',
    ):
        checkpoints.find(directory, 'checkpoint-7')


@pytest.mark.parametrize('keep, kept', [(0, [1, 2, 3, 4]), (1, [4]), (3, [2, 3, 4])])
def test_newest_are_kept(tmp_path, keep, kept):
    state = make_small(tmp_path, keep)
    for step in (1, 2, 3, 4):
        state.save(step)
    names = [f'checkpoint-{step}' for step in kept]
    assert checkpoints.numbered(str(tmp_path)) == names
    index = (tmp_path / 'checkpoint').read_text()
    assert re.findall('all_model_checkpoint_paths: "(.+)"', index) == names


def test_size_on_disk_is_known_before(tmp_path):
    _, state = make_state(tmp_path)
    state.save(1)
    size = (tmp_path / 'checkpoint-1.data-00000-of-00001').stat().st_size
    assert state.num_bytes == pytest.approx(size, rel=0.01)


def test_no_memory_is_taken_for_what_the_end_of_an_index_claims(tmp_path):
    prefix = tf.train.Checkpoint(x=tf.Variable(1.0)).write(str(tmp_path / 'x'))
    index = tmp_path / 'x.index'
    content = index.read_bytes()
    claim = b'\x00\x08\x00' + b'\xff' * 5 + b'\x3f'  # 2 TB at byte 0.
    index.write_bytes(content[:-48] + claim.ljust(40, b'\0') + content[-8:])
    with pytest.raises(checkpoints.DamagedError) as error:
        checkpoints.WeightsFile(prefix)
    assert not isinstance(error.value.__cause__, MemoryError)
