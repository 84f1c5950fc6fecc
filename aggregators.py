"""Several embeddings of one image (or one tracklet) to one; arrays in, arrays out."""

from collections.abc import Callable

import numpy as np


def mean(embs: np.ndarray) -> np.ndarray:
    """Average embeddings [A, N, D] over A: [N, D]."""
    return np.mean(embs, axis=0)


def normalized_mean(embs: np.ndarray) -> np.ndarray:
    """Average embeddings [A, N, D] over A and scale to length 1: [N, D].

    An average of zeros has no direction; its result is NaN.
    """
    averages = mean(embs)
    with np.errstate(invalid='ignore'):
        return averages / np.linalg.norm(averages, axis=-1, keepdims=True)


def join(
    embs: np.ndarray, aggregator: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    """Return one embedding of each image, [N, D], of those of its variants [A, N, D].

    Args:
        embs: [A, N, D].
        aggregator: function of this module, or None if A is 1.
    """
    return embs[0] if aggregator is None else aggregator(embs)


AGGREGATOR_CHOICES = {'mean': mean, 'normalized_mean': normalized_mean}
