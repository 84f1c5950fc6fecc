"""Several training steps against the original's, forward, backward and Adam."""

import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import golden_recipe
import loss
import model
from training import optimizers
from training.replicas import Replicas
from training.step import make_train_step

RUNS = golden_recipe.load_json('trajectory.json')

# How far we may be from the original, in units of its distance to itself.
SPREADS_ALLOWED = 10

# Two reruns measure a spread by chance small; nothing is expected to agree better.
LEAST_LOSS_SPREAD = 1e-5

# Relative spread of the gradients' norms, says the golden README.
GRADIENT_SPREAD = {'resnet_v1_50': 2e-3, 'mobilenet_v1_1_224': 2.2e-2}

# From fresh Adam at the paper's rate, the signs of tiny gradients decide: chaotic
# after the first step, says the golden README.
NUM_COMPARABLE_STEPS = {'as_train_py_lr3e-4': 1, 'mobilenet_lr3e-4': 1}


def start(config, directory):
    """Return (model, train step, state) as the original's run began."""
    network = model.build_model(config['net'], config['head'], config['embedding_dim'])
    optimizer = optimizers.build('adam', network.trainable_variables, config['lr'])
    state = checkpoints.TrainingState(network, optimizer, str(directory))
    golden_recipe.fill(network.variables)
    if config.get('start') == 'resume':
        for name, variable in state.variables.items():
            if name.endswith(('/Adam', '/Adam_1')):
                variable.assign(golden_recipe.draw(name, variable.shape))
        state.variables['global_step'].assign(config['start_step'])
    step = make_train_step(
        network,
        optimizer,
        'batch_hard',
        config['metric'],
        config['margin'],
        k=1,
        seed=0,
        replicas=Replicas(),
    )
    return network, step, state


@pytest.mark.parametrize('run', RUNS, ids=lambda run: run['config']['name'])
def test_training_steps_equal_the_original(run, tmp_path):
    config, spread = run['config'], run['spread']
    assert config['K'] == 2  # k = 1 above is K - 1.
    _, train_step, state = start(config, tmp_path)
    pids = np.repeat(np.arange(config['P']), config['K'])
    num_steps = NUM_COMPARABLE_STEPS.get(config['name'], len(run['steps']))
    for t, expected in enumerate(run['steps'][:num_steps]):
        images = golden_recipe.blocky_images(config['seed0'] + t, config)
        rate = optimizers.learning_rate_at(
            state.step,
            config['lr'],
            config['decay_start_iteration'],
            config['train_iterations'],
        )
        np.testing.assert_allclose(rate, expected['lr'], rtol=1e-5)
        outcome = train_step(
            images, pids, tf.constant(rate, tf.float32), tf.constant(t, tf.int64)
        )
        allowed = SPREADS_ALLOWED * max(spread['steps'][t]['loss'], LEAST_LOSS_SPREAD)
        assert abs(np.mean(outcome.losses) - expected['loss']) < allowed, t
        if t == 0:
            np.testing.assert_allclose(
                outcome.losses, run['losses_step0'], atol=allowed, rtol=1e-4
            )
            np.testing.assert_allclose(
                np.linalg.norm(outcome.embs), expected['emb_l2'], rtol=1e-4
            )
        # One of eight anchors may change its neighbour, as the original's do, once an
        # update has carried rounding into the weights. In which step it happens
        # depends on the processor's kernels (with AVX2 and with AVX-512, other ones).
        for name, key in (('top1', 'top1'), ('precision_at_k', 'prec_at_k')):
            slack = max(spread['steps'][t][key], (t > 0) / len(pids)) + 1e-6
            assert abs(float(getattr(outcome, name)) - expected[key]) <= slack, (t, key)
        moment = f'after_update_{t + 1}'
        if num_steps > 1 and moment in run['checks']:
            check_state(state, run['checks'][moment], moment)
            check_moves(state, run['checks'][moment], moment, config['net'])
    assert state.step == config.get('start_step', 0) + num_steps


# Relative errors of Adam's moments: gradients, whose spread the golden README gives,
# and which grow apart as the losses do.
MOMENT_TOLERANCE = {'after_update_1': 0.05, 'after_update_5': 0.2}

# Relative errors of weights and moving averages. Without AVX-512 a moving variance of
# the last unit is 1.4e-4 off after five updates, whichever kernels TensorFlow takes.
VALUE_TOLERANCE = {'after_update_1': 1e-4, 'after_update_5': 5e-4}


def check_state(state, expected, moment):
    """Assert that weights, moving averages and Adam moments are the original's."""
    compared = 0
    for name, (total, l2_norm) in expected.items():
        if name in ('beta1_power', 'beta2_power') or 'Logits' in name:
            continue  # Not state of ours: it follows from the step, or is not built.
        if 'emb/biases' in name:
            continue  # Its gradient is zero but for rounding, says the golden README.
        value = np.asarray(state.variables[name], np.float64)
        if name == 'global_step':
            assert value == total
            continue
        is_moment = name.endswith(('/Adam', '/Adam_1'))
        rtol = (MOMENT_TOLERANCE if is_moment else VALUE_TOLERANCE)[moment]
        np.testing.assert_allclose(
            np.linalg.norm(value), l2_norm, rtol=rtol, err_msg=f'{moment} {name}'
        )
        compared += 1
    assert compared > 30


def allow_flips(net):
    """Return how many standard deviations of a sum's move chance may make up.

    Adam moves a weight by its gradient's sign, at least at first, and rounding decides
    the sign of some: a share e / pi of them where gradients err by e of their rms. A
    flip counts twice, and the others' signs are as good as random: 2 * sqrt(e / pi) of
    the move's norm, of which three deviations are allowed.
    """
    return 3 * 2 * np.sqrt(SPREADS_ALLOWED * GRADIENT_SPREAD[net] / np.pi)


def check_moves(state, expected, moment, net):
    """Assert that the weights' sums moved as the original's did.

    Their norms would not tell: at these rates they stay the same to four digits.
    """
    # After five updates, what rounding decided has reached every gradient: the sums of
    # two runs may differ like two random numbers.
    allowed = allow_flips(net) if moment == 'after_update_1' else 3 * np.sqrt(2)
    clearest = 0
    for name, (total, _) in expected.items():
        if name not in state.variables or name == 'emb/biases':
            continue
        if name.endswith(('/Adam', '/Adam_1', '/moving_mean', '/moving_variance')):
            continue
        if name == 'global_step':
            continue
        variable = np.asarray(state.variables[name], np.float64)
        begun = golden_recipe.draw(name, variable.shape).astype(np.float64)
        norm = np.linalg.norm(variable - begun)
        move = total - begun.sum()
        error = abs(variable.sum() - total)
        assert error <= allowed * norm, (moment, name, error / norm)
        clearest = max(clearest, abs(move) / norm)
    if moment == 'after_update_1':  # Else no move at all would pass.
        assert clearest > 1.2 * allowed


@pytest.mark.parametrize('name', ['small_lr3e-6', 'mobilenet_small_lr3e-6'])
def test_gradients_equal_the_original(name, tmp_path):
    run = next(run for run in RUNS if run['config']['name'] == name)
    config = run['config']
    network, _, _ = start(config, tmp_path)
    images = golden_recipe.blocky_images(config['seed0'], config)
    pids = np.repeat(np.arange(config['P']), config['K'])
    with tf.GradientTape() as tape:
        embs = network(images, training=True)['emb']
        dists = loss.cdist(embs, embs, config['metric'])
        mean = tf.reduce_mean(loss.batch_hard(dists, pids, config['margin']))
    gradients = tape.gradient(mean, network.trainable_variables)
    errors = []
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        _, l2_norm = run['grad_step0'][variable.path]
        if variable.path == 'emb/biases':
            continue  # Zero but for rounding where embeddings are not normalised.
        errors.append(abs(np.linalg.norm(gradient) - l2_norm) / l2_norm)
    worst = GRADIENT_SPREAD[config['net']]
    assert len(errors) > 80
    assert max(errors) < SPREADS_ALLOWED * worst
    assert np.median(errors) < worst
