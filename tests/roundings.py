"""How far float32's roundings may carry two computations of one net apart."""

import numpy as np

# Relative to a number, what rounding it to float32 takes from it at most.
UNIT = 2**-24

# Of some ten thousand values that err by chance, none is further off.
STANDARD_DEVIATIONS = 5


def bound_of_net(kernels):
    """Return what two computations of a net's output may differ by, in its rms.

    A sum of n products is rounded n times, each time by a number between -2**-24 and
    2**-24 of a partial sum, whose deviation is a root of 3 smaller than that. Partial
    sums are in the mean smaller than the sum, and roundings independent: the root of n
    of them. Layers pass relative errors on, and add their own, so that the ns of a net
    add up; and both computations err.

    Args:
        kernels: arrays or variables of the net; those of one dimension do not count.
    """
    num_roundings = sum(count_terms(k.shape) for k in kernels if len(k.shape) > 1)
    return STANDARD_DEVIATIONS * UNIT * np.sqrt(2 * num_roundings / 3)


def count_terms(shape):
    """Return the number of products that a kernel [..., C_in, C] adds up.

    A depthwise kernel [H, W, C, 1] adds up those of one channel.
    """
    is_depthwise = len(shape) == 4 and shape[-1] == 1
    return int(np.prod(shape[:2] if is_depthwise else shape[:-1]))
