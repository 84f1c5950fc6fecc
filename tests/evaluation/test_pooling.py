import numpy as np
import pytest

import common
from evaluation import pooling

EMBS = np.float32([[1, 5], [7, 7], [3, -1], [8, 0], [5, 2]])


def test_groups_are_numbered_as_they_appear():
    first_rows, codes = pooling.group(['b', 'a', 'b', 'c', 'b'])
    assert first_rows.tolist() == [0, 1, 3]
    assert codes.tolist() == [0, 1, 0, 2, 0]


@pytest.mark.parametrize(
    'how, expected',
    [('mean', [[3, 2], [7, 7], [8, 0]]), ('max', [[5, 5], [7, 7], [8, 0]])],
)
@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('rows_at_once', [1, 2, 5])
def test_scattered_rows_are_pooled(how, expected, dtype, rows_at_once, monkeypatch):
    monkeypatch.setattr(pooling, 'BLOCK_NUMBERS', 2 * rows_at_once)
    codes = np.array([0, 1, 0, 2, 0])
    pooled = pooling.pool(EMBS.astype(dtype), codes, how)
    assert pooled.dtype == np.float32
    np.testing.assert_array_equal(pooled, expected)


@pytest.mark.parametrize(
    'embs, how, remedy',
    [
        ([[1e200], [0]], 'mean', 'down'),
        ([[1.7e308], [1.7e308]], 'mean', 'down'),  # Their sum is infinite.
        ([[-1e39], [-1e40]], 'max', 'down'),
        ([[1e-200], [0]], 'max', 'up'),
    ],
)
def test_what_float32_cannot_hold_is_refused(embs, how, remedy, recwarn):
    with pytest.raises(common.InputError, match=f'pooled .*; scale .* {remedy}$'):
        pooling.pool(np.float64(embs), np.array([0, 0]), how)
    assert not recwarn.list
    assert pooling.pool(np.float64([[1e-200], [1]]), np.array([0, 1]), how).max() == 1
