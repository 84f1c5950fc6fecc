import numpy as np
import pytest

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
