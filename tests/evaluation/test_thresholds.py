import numpy as np
import pytest
import sklearn.metrics

from evaluation import ranking, thresholds

# A bin's width in units of its smallest number, at most: 23 - 12 bits of the mantissa
# tell bins apart.
BIN_WIDTH = 2**-11


class FixedDistances:
    """Distances given as a matrix, in blocks of two rows and three columns."""

    def __init__(self, matrix):
        self.matrix = np.array(matrix, np.float32)
        self.shape = self.matrix.shape

    def blocks(self):
        for cols in ranking.split(self.shape[1], 3):
            for rows in ranking.split(self.shape[0], 2):
                yield rows, cols, self.matrix[rows, cols].copy()


def count(matrix, query_pids, gallery_pids, mask=None):
    mask = np.zeros(np.shape(matrix), bool) if mask is None else np.array(mask, bool)
    return thresholds.count_pairs(
        FixedDistances(matrix),
        np.array(query_pids, object),
        np.array(gallery_pids, object),
        lambda rows, cols: mask[rows, cols],
    )


def test_pairs_are_counted_once_and_ignored_ones_not_at_all():
    same, different = count(
        [[1, 2, 4, 8], [0, 2, 4, 8], [1, 2, 4, 8]],
        query_pids=['a', 'b', 'x'],
        gallery_pids=['a', 'b', 'a', 'c'],
        mask=[[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]],
    )
    assert same.sum() == 2  # a-a at 1 and b-b at 2; a-a at 4 is ignored.
    assert different.sum() == 9 - 2
    bins = np.flatnonzero(same)
    np.testing.assert_allclose(thresholds.bin_ends(bins), [1, 2], rtol=BIN_WIDTH)
    assert np.flatnonzero(different)[0] == 0  # b-a at 0.


def test_a_bin_is_narrow_and_ends_before_the_next_number():
    for value in np.float32([0, 1e-30, 0.7, 1, 3.3, 1e30]):
        bins = np.array([value]).view(np.int32) >> thresholds.DROPPED_BITS
        (end,) = thresholds.bin_ends(bins)
        assert value <= end <= value * (1 + BIN_WIDTH) + 1e-40
        after = np.nextafter(np.float32(end), np.float32(np.inf))
        assert after.view(np.int32) >> thresholds.DROPPED_BITS == bins[0] + 1


def test_roc_by_hand():
    # Same pairs at 1, 2, 3, 4; different ones at 2.5, 5, 6, 7, 8.
    same, different = count(
        [[1, 2, 3, 4, 2.5, 5, 6, 7, 8]], ['a'], ['a'] * 4 + ['b'] * 5
    )
    roc = thresholds.compute_roc(same, different)
    assert (roc.num_same, roc.num_different) == (4, 5)
    assert (roc.fpr[0], roc.tpr[0], roc.thresholds[0]) == (0, 0, -1)
    # Of 20 pairs of pairs, two are the wrong way round: 3 and 4 against 2.5.
    assert thresholds.area_under(roc) == pytest.approx(18 / 20)
    for rate, tpr, threshold in [(0, 0.5, 2), (0.19, 0.5, 2), (0.2, 1, 4), (1, 1, 8)]:
        found = thresholds.at_false_positive_rate(roc, rate)
        assert found == pytest.approx(threshold, rel=BIN_WIDTH)
        about = thresholds.describe_threshold(roc, found)
        assert about['tpr'] == tpr
        assert about['num_same_accepted'] == 4 * tpr
        assert about['num_different_accepted'] == 5 * about['fpr']
    # FPR jumps to 1/5 while TPR is 1/2, and misses fall to 1/5 on the way to 4.
    assert thresholds.equal_error(roc)[0] == pytest.approx(0.2)
    assert thresholds.equal_error(roc)[1] == pytest.approx(4, rel=BIN_WIDTH)


def test_perfect_and_useless_distances():
    same, different = count([[1, 2, 3, 4]], ['a'], ['a', 'a', 'b', 'b'])
    roc = thresholds.compute_roc(same, different)
    assert thresholds.area_under(roc) == 1
    assert thresholds.equal_error(roc) == (0, pytest.approx(2, rel=BIN_WIDTH))
    same, different = count([[1, 1, 1, 1]], ['a'], ['a', 'a', 'b', 'b'])
    roc = thresholds.compute_roc(same, different)
    assert thresholds.area_under(roc) == 0.5
    assert thresholds.equal_error(roc)[0] == 0.5
    assert thresholds.at_false_positive_rate(roc, 0.1) == -1


def test_thresholds_within_a_straight_stretch_of_the_curve_are_kept():
    # Nine same pairs, ten different ones a step apart, and the last same pair: from the
    # ninth on the curve is a straight line, on which FPR and misses meet at 1/10.
    same, different = count(
        [[1] * 9 + list(range(2, 12)) + [20]], ['a'], ['a'] * 9 + ['b'] * 10 + ['a']
    )
    roc = thresholds.compute_roc(same, different)
    rate, threshold = thresholds.equal_error(roc)
    assert rate == pytest.approx(0.1)
    assert threshold == pytest.approx(2, rel=BIN_WIDTH)
    assert thresholds.describe_threshold(roc, threshold)['num_different_accepted'] == 1
    found = thresholds.at_false_positive_rate(roc, 0.3)
    assert found == pytest.approx(4, rel=BIN_WIDTH)


def test_one_kind_of_pairs_is_not_enough():
    same, different = count([[1, 2]], ['a'], ['a', 'a'])
    with pytest.raises(ValueError, match='found 2 and 0'):
        thresholds.compute_roc(same, different)


@pytest.mark.parametrize('seed', range(40))
def test_roc_is_that_of_the_pairs_themselves(seed):
    # Integers have bins of their own, so that the histogram loses nothing.
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 40, size=(5, 9))
    query_pids, gallery_pids = list('aabbc'), list('aabbbcccc')
    mask = rng.random((5, 9)) < 0.2
    is_same = np.equal.outer(query_pids, gallery_pids)
    assert is_same[~mask].any()
    assert not is_same[~mask].all()
    same, different = count(matrix, query_pids, gallery_pids, mask)
    roc = thresholds.compute_roc(same, different)
    fpr, tpr, _ = sklearn.metrics.roc_curve(
        is_same[~mask], -matrix[~mask], drop_intermediate=False
    )
    np.testing.assert_allclose(roc.fpr, fpr)
    np.testing.assert_allclose(roc.tpr, tpr)
    assert thresholds.area_under(roc) == pytest.approx(
        sklearn.metrics.roc_auc_score(is_same[~mask], -matrix[~mask])
    )


def test_even_bins_keep_every_pair():
    same, different = count([[0.5, 1.5, 2.5, 4]], ['a'], ['a', 'a', 'b', 'b'])
    edges, even_same, even_different = thresholds.to_even_bins(same, different, 4)
    np.testing.assert_allclose(edges, [0, 1, 2, 3, 4], rtol=BIN_WIDTH)
    assert even_same.tolist() == [1, 1, 0, 0]
    assert even_different.tolist() == [0, 0, 1, 1]
