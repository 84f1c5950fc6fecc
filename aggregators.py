"""Several embeddings of one image (or one tracklet) to one; arrays in, arrays out."""

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


AGGREGATOR_CHOICES = {'mean': mean, 'normalized_mean': normalized_mean}
