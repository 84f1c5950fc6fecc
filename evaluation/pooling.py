"""Several embeddings into one: the frames of a tracklet, the queries of one camera.

first_rows, codes = group(keys)
pooled = pool(embs, codes, 'mean')    # [number of different keys, D]
"""

import numpy as np

import common

POOL_CHOICES = ('mean', 'max')

# Numbers read at once; bounds the memory, whatever the number of frames.
BLOCK_NUMBERS = 2**22


def group(keys):
    """Number the different keys in order of appearance.

    Args:
        keys: sequence [N] of hashable values.

    Returns:
        (first_rows, codes): int64 [T], where each key appears first; int64 [N], the
        number of each row's key.
    """
    code_of_key = {}
    codes = np.array([code_of_key.setdefault(k, len(code_of_key)) for k in keys], int)
    return np.unique(codes, return_index=True)[1], codes


def pool(embs, codes, how):
    """Return the mean or the largest value, dimension by dimension, of each group.

    Args:
        embs: [N, D], or what slices like it; read in blocks.
        codes: int64 [N], from 0, the group of each row.
        how: one of POOL_CHOICES.

    Returns:
        float32 [T, D], computed in float64.

    Raises:
        InputError: they are too large or too small for float32.
    """
    reduce, start = {'mean': (np.add, 0.0), 'max': (np.maximum, -np.inf)}[how]
    pooled = np.full((codes.max() + 1, embs.shape[1]), start)
    size = max(1, BLOCK_NUMBERS // embs.shape[1])
    for first in range(0, len(codes), size):
        block = np.asarray(embs[first : first + size], np.float64)
        order = np.argsort(codes[first : first + size], kind='stable')
        groups, starts = np.unique(codes[first : first + size][order], True)
        with np.errstate(over='ignore'):  # round_to_float32 refuses the infinity.
            pooled[groups] = reduce(
                pooled[groups], reduce.reduceat(block[order], starts)
            )
    if how == 'mean':
        pooled /= np.bincount(codes)[:, None]
    return round_to_float32(pooled)


def round_to_float32(embs):
    """Return float64 [T, D] as float32; see pool for what it raises."""
    largest, limits = np.abs(embs).max(), np.finfo(np.float32)
    if largest > limits.max or 0 < largest < limits.tiny:
        raise common.InputError(
            f'pooled embeddings reach {largest:.2g}, float32 holds {limits.tiny:.2g} '
            f'to {limits.max:.2g}; scale the embeddings '
            + ('down' if largest > 1 else 'up')
        )
    return embs.astype(np.float32)
