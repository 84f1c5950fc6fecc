"""Optimizers against NumPy, their states in checkpoints, and the learning rate."""

import typing

import keras
import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import golden_recipe
from training import optimizers

LEARNING_RATES = golden_recipe.load_json('learning_rate.json')


# --- the learning rate -----------------------------------------------------------


@pytest.mark.parametrize('golden', LEARNING_RATES)
def test_learning_rate_is_that_of_the_original(golden):
    rates = [
        optimizers.learning_rate_at(
            step,
            golden['learning_rate'],
            golden['decay_start_iteration'],
            golden['train_iterations'],
        )
        for step in golden['global_step']
    ]
    # The original's are float32, of which the last underflows to 0.
    np.testing.assert_allclose(rates, golden['lr'], rtol=1e-5, atol=1e-40)


def test_learning_rate_falls_to_a_thousandth():
    rates = [optimizers.learning_rate_at(step, 1.0, 10, 30) for step in (0, 10, 20, 30)]
    np.testing.assert_allclose(rates, [1, 1, np.sqrt(0.001), 0.001])


def test_learning_rate_rises_linearly_to_the_full_one():
    rates = [optimizers.learning_rate_at(step, 1.0, -1, 30, 4) for step in range(6)]
    np.testing.assert_allclose(rates, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1])


def test_warm_up_and_decay_multiply_where_they_overlap():
    rate = optimizers.learning_rate_at(4, 1.0, 2, 6, warmup_iterations=10)
    np.testing.assert_allclose(rate, 5 / 10 * 0.001 ** (2 / 4))


# --- the updates -----------------------------------------------------------------


# What rounding to float32 takes from a number at most, relative to it.
ROUNDING = 2**-24

GRADIENTS = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
START = np.float32([[1, -2, 3], [-4, 5, -6]])


def run(optimizer, variable, gradients, rates=None):
    """Update a variable in graph mode, as train.py does; return its values after."""

    @tf.function
    def update(gradient, rate):
        optimizer.learning_rate.assign(rate)
        optimizer.apply([gradient], [variable])

    values = []
    for i, gradient in enumerate(gradients):
        update(tf.constant(gradient), tf.constant(0.1 if rates is None else rates[i]))
        values.append(variable.numpy())
    return values


class AdamSteps(typing.NamedTuple):
    """What Adam's variable is after each update, and how far rounding may carry it."""

    values: list
    bounds: list

    def assert_equal(self, actual):
        """Compare the values of a variable in float32."""
        for value, bound, other in zip(self.values, self.bounds, actual, strict=True):
            np.testing.assert_array_less(np.abs(other - value), bound)


def numpy_adam(gradients, rates, beta1_of, weight_decay=0.0):
    """Return the AdamSteps of float64.

    The bound adds up, of each update, what float32 makes of it. A moment is rounded
    three times in each update so far, its coefficients by 2**-24 or, as 1 - 0.9, four
    times as much: less than 8 t roundings of the sizes that it adds up. A power of beta
    near 1 errs by 2**-24, which is 2**-24 / (1 - power) of its distance from 1, and
    half of that under the root. The variable itself is rounded up to three times.
    """
    value, first, size, second, bound = START.astype(np.float64), 0.0, 0.0, 0.0, 0.0
    steps = AdamSteps([], [])
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        beta1 = beta1_of(t - 1)
        value = value - rate * weight_decay * value
        first = beta1 * first + (1 - beta1) * gradient
        size = beta1 * size + (1 - beta1) * np.abs(gradient)
        second = 0.999 * second + 0.001 * gradient.astype(np.float64) ** 2
        # Keras takes powers of the betas as float32 has them.
        from_one1, from_one2 = (
            1 - np.float64(np.float32(beta)) ** t for beta in (beta1, 0.999)
        )
        deviation = np.sqrt(second / from_one2)
        # Keras adds epsilon to the biased deviation: next to nothing at 1e-8.
        value = value - rate * first / from_one1 / (deviation + 1e-8)
        num_roundings = 8 * t + 1 / from_one1 + 0.5 / from_one2
        largest_move = rate * size / from_one1 / deviation
        bound = bound + ROUNDING * (num_roundings * largest_move + 3 * np.abs(value))
        steps.values.append(value)
        steps.bounds.append(bound)
    return steps


def test_adam_changes_beta1_when_the_decay_begins():
    variable = keras.Variable(START)
    optimizer = optimizers.build('adam', [variable], 0.1, 0.0, 0.5, decay_start=3)
    rates = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]
    expected = numpy_adam(GRADIENTS, rates, lambda i: 0.9 if i < 3 else 0.5)
    expected.assert_equal(run(optimizer, variable, GRADIENTS, rates))
    other = numpy_adam(GRADIENTS, rates, lambda i: 0.9)
    np.testing.assert_array_equal(expected.values[2], other.values[2])
    assert np.any(np.abs(expected.values[3] - other.values[3]) > 99 * other.bounds[3])


def test_changing_beta1_to_the_same_value_changes_nothing():
    plain, changing = keras.Variable(START), keras.Variable(START)
    kind = optimizers.with_changing_beta1(keras.optimizers.Adam, 0.9, 2)
    optimizer = kind(0.1, epsilon=1e-8)
    optimizer.build([changing])
    expected = run(optimizers.build('adam', [plain], 0.1), plain, GRADIENTS)
    # A first moment that is made with 0.1 and one with 1 - 0.9, in float32, are four
    # roundings apart, of moves of a tenth; and the variable is rounded six times twice.
    np.testing.assert_allclose(
        run(optimizer, changing, GRADIENTS), expected, rtol=16 * ROUNDING
    )


def test_adamw_shrinks_the_weights_by_rate_times_decay():
    variable = keras.Variable(START)
    optimizer = optimizers.build('adamw', [variable], 0.1, weight_decay=0.5)
    rates = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]
    expected = numpy_adam(GRADIENTS, rates, lambda i: 0.9, weight_decay=0.5)
    expected.assert_equal(run(optimizer, variable, GRADIENTS, rates))


@pytest.mark.parametrize('name', optimizers.OPTIMIZER_CHOICES)
def test_weight_decay_leaves_biases_and_batch_norm_alone(name):
    weights = keras.Variable(np.ones((2, 3), np.float32), name='weights')
    offset = keras.Variable(np.ones(3, np.float32), name='beta')
    optimizer = optimizers.build(name, [weights, offset], 0.1, weight_decay=0.5)
    zeros = [tf.zeros(v.shape) for v in (weights, offset)]
    optimizer.apply(zeros, [weights, offset])
    np.testing.assert_allclose(weights, np.full((2, 3), 1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(offset, np.ones(3))


def test_sgd_has_a_momentum():
    variable = keras.Variable(START)
    optimizer = optimizers.build('sgd', [variable], 0.1)
    ones = np.ones((2, 2, 3), np.float32)
    first, second = run(optimizer, variable, ones)
    np.testing.assert_allclose(first, START - 0.1, rtol=1e-6)
    np.testing.assert_allclose(second, START - 0.1 - (0.9 * 0.1 + 0.1), rtol=1e-6)


# --- checkpoints -----------------------------------------------------------------


def make_state(name, directory):
    """Return (optimizer, weights, state) of a layer of six weights and three biases."""
    layer = keras.layers.Dense(3, name='layer')
    inputs = keras.Input((2,))
    small = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(START)
    variables = small.trainable_variables
    optimizer = optimizers.build(name, variables, 0.1, weight_decay=0.01)
    return optimizer, variables, checkpoints.TrainingState(small, optimizer, directory)


SLOTS = {
    'adam': ['Adam', 'Adam_1'],
    'adamw': ['Adam', 'Adam_1'],
    'lamb': ['Lamb', 'Lamb_1'],
    'lion': ['Lion'],
    'rmsprop': ['RMSProp'],
    'sgd': ['Momentum'],
}


@pytest.mark.parametrize('name', optimizers.OPTIMIZER_CHOICES)
def test_run_goes_on_bit_for_bit_from_a_checkpoint(name, tmp_path):
    def go_on(optimizer, variables, steps):
        for step in steps:
            gradients = [tf.constant(GRADIENTS[step]), tf.constant(GRADIENTS[step, 0])]
            optimizer.apply(gradients, variables)

    optimizer, variables, state = make_state(name, str(tmp_path))
    go_on(optimizer, variables, range(3))
    state.save(3)
    go_on(optimizer, variables, range(3, 6))
    other_optimizer, other_variables, other = make_state(name, str(tmp_path))
    report = other.load(str(tmp_path / 'checkpoint-3'))
    go_on(other_optimizer, other_variables, range(3, 6))
    for key, variable in state.variables.items():
        np.testing.assert_array_equal(other.variables[key], variable, err_msg=key)
    slots = [f'layer/{v}/{slot}' for v in ('kernel', 'bias') for slot in SLOTS[name]]
    assert sorted(report.loaded) == sorted(
        ['global_step', 'layer/bias', 'layer/kernel', *slots]
    )
    # Nothing is forgotten but what follows from the step.
    assert len(optimizer.variables) == len(slots) + len({'iteration', 'learning_rate'})
