"""Number formats: what is rounded, what is not, and what happens without hardware."""

import json

import h5py
import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import embed
import evaluate
import layers
import make_csv
import model
import precision
import tiny_run
import train
from drawn_people.files import write_dataset
from training import diagnosis, optimizers
from training.replicas import Replicas
from training.step import Outcome, make_train_step


@pytest.mark.parametrize('name', ['bfloat16', 'float16'])
def test_products_are_half_and_embeddings_and_variables_float32(name):
    network = model.build_model('small_stripes', 'fc1024', 8, name)
    conv = network.layers[1].chained[1]
    assert conv.compute_dtype == name
    assert {variable.dtype for variable in network.variables} == {'float32'}
    images = tf.random.stateless_uniform((2, 32, 16, 3), [1, 2], 0, 255)
    assert network(images)['emb'].dtype == tf.float32
    assert tf.keras.config.dtype_policy().name == 'float32'  # As it was before.


@pytest.mark.parametrize(
    'name, digits',
    # Seven layers round weights and activations, 14 times by at most half a unit in the
    # last place, 2**-8 and 2**-11. Independent errors add up like their squares: at
    # most sqrt(14) < 4 of these. Over twelve seeds the rms was 0.2 to 0.5 of the bound;
    # bfloat16 in the place of float16 is at 1.5 to 3.
    [('bfloat16', 4 * 2**-8), ('float16', 4 * 2**-11)],
)
def test_half_embeddings_are_as_near_as_their_digits(name, digits):
    embedders = [
        model.build_model('small_stripes', 'fc1024', 8, each)
        for each in ('float32', name)
    ]
    embedders[1].set_weights(embedders[0].get_weights())
    images = tf.random.stateless_uniform((4, 64, 32, 3), [1, 2], 0, 255)
    exact, rounded = (network(images)['emb'].numpy() for network in embedders)
    error = np.sqrt(np.mean((rounded - exact) ** 2) / np.mean(exact**2))
    assert 0 < error < digits


def test_images_keep_their_low_bits_until_the_mean_colour_is_subtracted():
    network = model.build_model('resnet_v1_50', 'direct', 8, 'bfloat16')
    normalise = network.layers[1].chained[0]
    # Near 123.68, bfloat16 has steps of a half: 123.75 - 123.68 would become 0.
    pixel = tf.constant([[[[123.75, 116.78, 103.94]]]])
    np.testing.assert_allclose(normalise(pixel)[0, 0, 0, 0], 0.07, atol=1e-4)


def test_products_without_hardware_are_summed_in_float32(monkeypatch):
    monkeypatch.setattr(layers, 'is_native', lambda name: name == 'float32')
    ones = tf.ones((1, 300), tf.bfloat16)
    # 300 ones: a sum kept in bfloat16 would stop at 256, where its steps are 2.
    total = layers.in_native_precision(tf.matmul, ones, tf.transpose(ones))
    assert total.dtype == tf.bfloat16
    assert float(total[0, 0]) == 300


@pytest.mark.parametrize(
    'flags, name, expected',
    [
        ('fpu avx2', 'float32', True),
        ('fpu avx2', 'bfloat16', False),
        ('fpu avx2 avx512f', 'bfloat16', True),
        ('fpu avx2 avx512f', 'float16', False),
        ('fpu avx512_fp16', 'float16', True),
        ('', 'bfloat16', True),
    ],
)
def test_processor_flags_say_what_is_native(monkeypatch, flags, name, expected):
    monkeypatch.setattr(precision, 'processor_flags', lambda: set(flags.split()))
    assert precision.is_native(name) == expected


def test_processor_flags_are_read_or_unknown(tmp_path):
    file = tmp_path / 'cpuinfo'
    file.write_text('processor : 0\nflags\t\t: fpu avx2\n')
    assert precision.processor_flags(file) == {'fpu', 'avx2'}
    assert precision.processor_flags(tmp_path / 'none') == set()


def test_unknown_precision_names_the_choices():
    with pytest.raises(ValueError, match='expected one of float32, bfloat16, float16'):
        model.build_model('small_stripes', 'direct', 8, 'int8')


@pytest.fixture(scope='module', params=['bfloat16', 'float16'])
def half(request, tmp_path_factory):
    """Return (directory with data and `whole`, a run of two iterations, its flags)."""
    directory = tmp_path_factory.mktemp(request.param)
    tiny_run.write_dataset(directory)
    more = ('--model_name', 'small_stripes', '--precision', request.param)
    tiny_run.start(directory, directory / 'whole', *more)
    return directory, more


def test_half_run_resumes_bit_for_bit(half):
    directory, more = half
    tiny_run.start(directory, directory / 'parts', *more, '--train_iterations', '1')
    tiny_run.resume(directory / 'parts', '--train_iterations', '2')
    whole = tiny_run.read_checkpoint(directory / 'whole', 2)
    parts = tiny_run.read_checkpoint(directory / 'parts', 2)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)


@pytest.mark.parametrize('name', ['float32', 'bfloat16', 'float16'])
def test_run_is_embedded_in_every_precision(half, name):
    directory, _ = half
    output = directory / f'{name}.h5'
    flags = ('--dataset', directory / 'train.csv', '--filename', output, '--quiet')
    roots = ('--experiment_root', directory / 'whole', '--precision', name)
    embed.main([str(flag) for flag in (*roots, *flags)])
    with h5py.File(output) as file:
        assert np.isfinite(file['emb'][:]).all()


def make_scaled(initial_scale=None):
    """Return (network, optimizer, train step) in float16, the scale being given."""
    network = model.build_model('small_stripes', 'direct', 8, 'float16')
    optimizer = optimizers.build(
        'sgd', network.trainable_variables, 1e-4, precision='float16'
    )
    if initial_scale is not None:
        optimizer.dynamic_scale.assign(initial_scale)
    step = make_train_step(
        network,
        optimizer,
        'batch_hard',
        'sqeuclidean',
        'soft',
        k=1,
        seed=0,
        replicas=Replicas(),
    )
    images = tf.random.stateless_uniform((4, 32, 16, 3), [1, 2], 0, 255)
    pids = tf.constant([0, 0, 1, 1])
    return (
        network,
        optimizer,
        lambda number: step(images, pids, 1.0, tf.constant(number, tf.int64)),
    )


def test_overflow_leaves_an_update_out_and_halves_the_scale():
    network, optimizer, step = make_scaled(initial_scale=2.0**100)
    before = [variable.numpy() for variable in network.trainable_variables]
    outcome = step(0)
    assert np.isfinite(outcome.losses).all()  # The run has not diverged.
    for variable, value in zip(network.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert float(outcome.loss_scale) == 2.0**99
    assert int(optimizer.iterations) == 1  # An iteration all the same.


def test_scale_does_not_change_the_update():
    # Powers of two: products with them are exact, unless they leave the format's range.
    moves = []
    for scale in (2.0**6, 2.0**8):
        tf.keras.utils.set_random_seed(1)
        network, _, step = make_scaled(scale)
        before = network.trainable_variables[-1].numpy()
        assert float(step(0).loss_scale) == scale
        moves.append(network.trainable_variables[-1].numpy() - before)
    assert np.abs(moves[0]).max() > 0
    error = np.abs(moves[1] - moves[0]).max()
    assert error < 2**-10 * np.abs(moves[0]).max()  # A digit of float16.


def test_scale_is_in_the_checkpoint_under_names_that_tell():
    network, optimizer, _ = make_scaled()
    state = checkpoints.TrainingState(network, optimizer, 'nowhere')
    assert float(state.variables['loss_scale'].numpy()) == 2**15
    assert int(state.variables['loss_scale_steps'].numpy()) == 0
    plain = optimizers.build('sgd', network.trainable_variables, 1e-4)
    names = set(checkpoints.TrainingState(network, plain, 'nowhere').variables)
    assert set(state.variables) - names == {'loss_scale', 'loss_scale_steps'}


def test_gradients_that_overflow_with_any_scale_end_the_run(tmp_path):
    network, optimizer, _ = make_scaled()
    state = checkpoints.TrainingState(network, optimizer, str(tmp_path))
    state.save(0)
    sound = Outcome(tf.ones(4), tf.ones(4), *[None] * 4, loss_scale=2.0**-10)
    diagnosis.check_outcome(sound, 3, state)
    with pytest.raises(ValueError, match=r'a loss scale of 4.9e-04, in iteration 3'):
        diagnosis.check_outcome(sound._replace(loss_scale=2.0**-11), 3, state)


# --- scores on drawn people ---------------------------------------------------------


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Return a directory with drawings, their CSVs and a run in each of two formats."""
    directory = tmp_path_factory.mktemp('drawn')
    write_dataset(
        directory / 'images',
        num_train_pids=24,
        num_test_pids=16,
        num_distractors=8,
        num_junk=4,
    )
    call(make_csv, 'market1501', directory / 'images', '--output_dir', directory)
    for name in ('float32', 'bfloat16'):
        call(
            train,
            *('--experiment_root', directory / name, '--precision', name),
            *('--train_set', directory / 'market1501_train.csv'),
            *('--image_root', directory / 'images', '--seed', '1'),
            *('--model_name', 'small_stripes', '--head_name', 'fc1024'),
            *('--net_input_height', '64', '--net_input_width', '32'),
            *('--pre_crop_height', '72', '--pre_crop_width', '36'),
            *('--batch_p', '8', '--batch_k', '4', '--learning_rate', '1e-3'),
            *('--train_iterations', '60', '--decay_start_iteration', '30'),
            *('--flip_augment', '--checkpoint_frequency', '0'),
        )
    return directory


def call(module, *argv):
    """Run a command in this process."""
    module.main([str(word) for word in argv])


def score(directory, run, checkpoint='checkpoint-60', *more):
    """Return the mAP of a run's checkpoint, 0 to 1, embedded with flags `more`."""
    flags = ['--excluder', 'market1501', '--filename', directory / 'scores.json']
    for role, subset in (('query', 'query'), ('gallery', 'test')):
        dataset = directory / f'market1501_{subset}.csv'
        output = directory / f'{subset}.h5'
        output.unlink(missing_ok=True)
        call(
            embed,
            *('--experiment_root', directory / run, '--checkpoint', checkpoint),
            *('--dataset', dataset, '--filename', output, '--quiet', *more),
        )
        flags += [f'--{role}_dataset', dataset, f'--{role}_embeddings', output]
    call(evaluate, *flags)
    return json.loads((directory / 'scores.json').read_text())['mAP']


drawing = pytest.mark.slow('two runs of 60 iterations, a minute and a half')


@drawing
def test_bfloat16_learns_drawn_people_as_float32_does(drawn):
    assert score(drawn, 'float32', 'checkpoint-0') < 0.25
    float32, bfloat16 = (score(drawn, name) for name in ('float32', 'bfloat16'))
    assert min(float32, bfloat16) > 0.5
    # Roundings lead 60 steps elsewhere, as another seed does: on seeds 1 to 4, float32
    # reached 66 to 74 %, and bfloat16 was 0.2 to 4.3 points above it. What breaks a
    # format breaks more: untrained, it is 11 to 17 %.
    assert bfloat16 == pytest.approx(float32, abs=0.1)


@drawing
def test_the_same_weights_score_alike_in_bfloat16(drawn):
    scores = [
        score(drawn, 'float32', 'checkpoint-60', '--precision', name)
        for name in ('float32', 'bfloat16')
    ]
    # No training in between: only near ties among 64 x 204 distances change places.
    assert scores[1] == pytest.approx(scores[0], abs=0.01)
