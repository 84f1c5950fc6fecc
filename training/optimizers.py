"""How the weights move: Keras' optimizers, and their rates as functions of the step."""

import typing

import common

# Imported at first use: the names of optimizers are choices of a flag.
tf = common.lazy_import('tensorflow')

# The learning rate's factor at the end of the decay (the paper's schedule).
DECAY_FACTOR = 0.001


class Kind(typing.NamedTuple):
    """A class of keras.optimizers, and the settings that are not its defaults."""

    keras_name: str
    settings: dict


# Keras' Nadam is not among them: it has state that belongs to no variable. What their
# moments are called in checkpoints is in checkpoints.SLOT_NAMES.
OPTIMIZER_CHOICES = {
    'adam': Kind('Adam', {'epsilon': 1e-8}),  # TensorFlow 1's epsilon.
    'adamw': Kind('AdamW', {'epsilon': 1e-8}),
    'lamb': Kind('Lamb', {}),
    'lion': Kind('Lion', {}),
    'rmsprop': Kind('RMSprop', {}),
    'sgd': Kind('SGD', {'momentum': 0.9}),
}

# A loss scale that only gradients near infinity can have led to: from the 32768 that it
# starts with, 25 updates in a row were left out, or nearly so.
SMALLEST_LOSS_SCALE = 2**-10

# Those that --adam_beta1_at_decay is for, and the beta_1 that they start with.
ADAMS = ('adam', 'adamw')
BETA1 = 0.9


class LearningRate(typing.NamedTuple):
    """The learning rate as a function of the step; see learning_rate_at.

    Attributes:
        rate: from the end of the warm-up until the decay begins.
        decay_start: step at which the decay begins; -1: never.
        train_iterations: of the whole run.
        warmup_iterations: over which the rate rises at the beginning.
    """

    rate: float
    decay_start: int
    train_iterations: int
    warmup_iterations: int = 0

    def at(self, step):
        """Return the learning rate of the update after `step` updates."""
        return learning_rate_at(
            step,
            self.rate,
            self.decay_start,
            self.train_iterations,
            self.warmup_iterations,
        )


def learning_rate_at(
    step, learning_rate, decay_start, train_iterations, warmup_iterations=0
):
    """Return the learning rate of the update after `step` updates.

        learning_rate * min(1, (step + 1) / warmup_iterations)
                      * 0.001 ** ((step - start) / (train_iterations - start))

    with the last factor from start = decay_start on; without it before, and everywhere
    if decay_start is -1 or not below train_iterations. 0 warmup_iterations: no warm-up.
    """
    if step < warmup_iterations:
        learning_rate = learning_rate * (step + 1) / warmup_iterations
    if not decays(decay_start, train_iterations) or step < decay_start:
        return learning_rate
    progress = (step - decay_start) / (train_iterations - decay_start)
    return learning_rate * DECAY_FACTOR**progress


def describe_change(before, after, step):
    """Return what to say if a schedule was changed, list of str.

    Args:
        before, after: LearningRates.
        step: updates made.
    """
    old, new = before.at(step), after.at(step)
    if old == new or step >= after.train_iterations:
        return []
    hint = ''
    if new > old:
        hint = (
            '; it rises, because the decay is stretched. --decay_start_iteration says '
            'where it begins instead, such as '
            f'{step} for a decay of the full {after.rate:g} from here on'
        )
    return [
        f'learning rate of iteration {step + 1}: {new:.3g}, and {old:.3g} before '
        f'the schedule was changed{hint}'
    ]


def decays(decay_start, train_iterations):
    """Say whether the learning rate decays at all."""
    return 0 <= decay_start < train_iterations


def build(
    name,
    variables,
    learning_rate,
    weight_decay=0.0,
    beta1_at_decay=BETA1,
    decay_start=None,
    precision='float32',
):
    """Return a Keras optimizer that is built for variables.

    Its scale_loss comes before gradients are computed: those of float16 would often be
    too small for its numbers. So the loss is multiplied by a scale, and the gradients
    are divided by it. Where they overflow, the update is left out and the scale halved;
    after 2000 iterations without that it is doubled. The other formats have the range
    of float32, and need no scale.

    Args:
        name: of OPTIMIZER_CHOICES.
        variables: list of Keras variables that it will update.
        learning_rate: float.
        weight_decay: float. Before each update, learning_rate * weight_decay of every
            variable of two or more dimensions is taken off it: of the weights of
            convolutions and dense layers, not of biases, or of batch norm's scales and
            offsets.
        beta1_at_decay: float. Other than 0.9 for an Adam only: its beta_1 from then on.
        decay_start: int, updates made before beta_1 changes.
        precision: number format of activations and products.
    """
    kind = OPTIMIZER_CHOICES[name]
    keras_class = getattr(tf.keras.optimizers, kind.keras_name)
    if beta1_at_decay != BETA1:
        keras_class = with_changing_beta1(keras_class, beta1_at_decay, decay_start)
    optimizer = keras_class(
        learning_rate, weight_decay=weight_decay or None, name=name, **kind.settings
    )
    optimizer.exclude_from_weight_decay([v for v in variables if len(v.shape) < 2])
    if precision == 'float16':
        optimizer = tf.keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


def with_changing_beta1(keras_class, beta1_at_decay, decay_start):
    """Return a subclass of Keras' Adam or AdamW whose beta_1 changes once.

    It is 0.9 for `decay_start` updates, then beta1_at_decay. The first moment goes on
    from where it is. Keras divides it by 1 - beta_1 ** t, t being the number of the
    update from 1, with the beta_1 of that update: 1 in float32 from t = 165 on for 0.9,
    and from t = 25 on for 0.5. So this matters only where the decay begins earlier.

    Args:
        keras_class: keras.optimizers.Adam, or a subclass.
        beta1_at_decay: float.
        decay_start: int.

    Source: Hermans, Beyer, Leibe 2017, arXiv:1703.07737, training parameters: 0.5.
    """

    class ChangingBeta1(keras_class):
        @property
        def beta_1(self):
            # A function of the step, so that a resumed run has the right one.
            is_changed = self.iterations >= decay_start
            return tf.where(is_changed, beta1_at_decay, BETA1)

        @beta_1.setter
        def beta_1(self, value):
            assert value == BETA1  # Keras' default, which its constructor assigns.

    return ChangingBeta1
