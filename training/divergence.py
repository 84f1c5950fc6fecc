"""Ends a run whose numbers are no longer finite, before a checkpoint has them."""

import numpy as np

import checkpoints
import common
from training import optimizers


def check_outcome(outcome, step, state):
    """Raise ValueError if a loss of iteration `step` is NaN or infinite.

    Or if gradients have overflowed whatever the scale of the loss was: loss and weights
    would stay as they are, and the run go on for nothing.

    Args:
        outcome: of a training step, see train.py.
        step: number of the iteration.
        state: checkpoints.TrainingState.
    """
    losses = outcome['losses'].numpy()
    if not np.isfinite(losses).all():
        raise divergence(f'the loss became {losses.mean()}', step, state)
    scale = float(outcome.get('loss_scale', 1))
    if scale < optimizers.SMALLEST_LOSS_SCALE:
        what = f'gradients overflow, even with a loss scale of {scale:.1e},'
        raise divergence(what, step, state)


def check_weights(state, step):
    """Raise ValueError if a variable is NaN or infinite after iteration `step`.

    The loss shows it one iteration late, when the checkpoint would be there.
    """
    for name, variable in state.variables.items():
        if not np.isfinite(variable.numpy()).all():
            raise divergence(f'{name} is no longer finite', step, state)


def divergence(what, step, state):
    """Return the ValueError that tells of a run that has diverged."""
    return common.InputError(
        f'{what} in iteration {step}; the last good checkpoint is '
        f'{checkpoints.latest(state.directory)}. Start anew with a lower '
        '--learning_rate, or with that file as --initial_checkpoint'
    )
