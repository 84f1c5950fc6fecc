"""Aggregators: numbers by hand, and the original's."""

import numpy as np
import pytest

import aggregators
import golden_recipe


@pytest.mark.parametrize('name', aggregators.AGGREGATOR_CHOICES)
def test_aggregator_equals_the_original(name):
    with np.load(golden_recipe.GOLDEN / 'embed.npz') as golden:
        embs, expected = golden['aggregators/in'], golden[f'aggregators/{name}']
    actual = aggregators.AGGREGATOR_CHOICES[name](embs)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_normalized_mean_is_the_mean_at_length_1():
    embs = np.float32([[[6, 0]], [[0, 8]]])  # [A=2, N=1, D=2]
    np.testing.assert_allclose(aggregators.mean(embs), [[3, 4]])
    np.testing.assert_allclose(aggregators.normalized_mean(embs), [[0.6, 0.8]])
