"""Same or different identity? ROC and thresholds of a distance. Nothing printed.

    same, different = count_pairs(dists, query_pids, gallery_pids, is_ignored)
    roc = compute_roc(same, different)
    print(equal_error(roc), at_false_positive_rate(roc, 1e-3))

All pairs of a query and a gallery image that it does not ignore are counted, millions
of them, in a histogram whose bins are float32's own numbers with a shorter mantissa:
no range has to be known beforehand, a bin is 0.05 % wide, and memory does not depend on
the number of pairs. Within bins nothing is ordered, so that a threshold is the upper
end of a bin; its counts are exact.
"""

import typing

import numpy as np

import common
import datasets

# Of float32's 23 bits of mantissa, 11 tell bins apart; the sign is always +.
DROPPED_BITS = 12
NUM_BINS = 2 ** (31 - DROPPED_BITS)
POSITIVE_BITS = 2**31 - 1


class Roc(typing.NamedTuple):
    """How well a threshold tells pairs of one identity from others, for T thresholds.

    Attributes:
        fpr: float64 [T], share of different pairs accepted, ascending from 0.
        tpr: float64 [T], share of same pairs accepted, ascending from 0.
        thresholds: float64 [T], accepted is who is at most so far; the first is -1,
            which accepts nobody.
        num_same: pairs of the same identity.
        num_different: the others.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray
    num_same: int
    num_different: int


def count_pairs(dists, query_pids, gallery_pids, is_ignored):
    """Return the histograms of distances, (same, different), int64 [NUM_BINS] each.

    Args:
        dists: ranking.EmbeddingDistances, or whatever has its shape and methods.
        query_pids: [Q] of str.
        gallery_pids: [G] of str.
        is_ignored: see ranking.rank; such pairs are not counted.
    """
    cols_of_pid = datasets.group_rows(gallery_pids)
    none = np.empty(0, np.int64)
    same, both = np.zeros(NUM_BINS, np.int64), np.zeros(NUM_BINS, np.int64)
    for rows, cols, block in dists.blocks():
        bins = (block.view(np.int32) & POSITIVE_BITS) >> DROPPED_BITS
        # NaN's bins: no distance falls there.
        bins[is_ignored(rows, cols)] = NUM_BINS - 1
        both += np.bincount(bins.ravel(), minlength=NUM_BINS)
        for q, pid in enumerate(query_pids[rows]):
            matches = cols_of_pid.get(pid, none)
            first, last = np.searchsorted(matches, [cols.start, cols.stop])
            np.add.at(same, bins[q, matches[first:last] - cols.start], 1)
    same[-1] = both[-1] = 0
    return same, both - same


def bin_ends(bins):
    """Return the largest float32 of each bin, as float64."""
    bits = ((np.asarray(bins, np.int64) + 1) << DROPPED_BITS) - 1
    return bits.astype(np.int32).view(np.float32).astype(np.float64)


def compute_roc(same, different):
    """Return the Roc of two histograms: a threshold for each bin that has a pair.

    Raises:
        ValueError: one histogram is empty.
    """
    # Imported here because only one flag of evaluate.py needs its second.
    from sklearn import metrics

    num_same, num_different = int(same.sum()), int(different.sum())
    if not num_same or not num_different:
        raise common.InputError(
            f'thresholds need pairs of the same and of different identities; found '
            f'{num_same} and {num_different}'
        )
    bins = np.flatnonzero(same + different)
    is_same = np.repeat([True, False], len(bins))
    fpr, tpr, scores = metrics.roc_curve(
        is_same,
        np.tile(-bin_ends(bins), 2),
        sample_weight=np.concatenate([same[bins], different[bins]]),
        # Points on a straight line do not change the curve, but are thresholds too.
        drop_intermediate=False,
    )
    thresholds = np.concatenate([[-1.0], -scores[1:]])
    return Roc(fpr, tpr, thresholds, num_same, num_different)


def area_under(roc):
    """Return the area under the ROC curve: P(same pair nearer than a different one)."""
    from sklearn import metrics

    return float(metrics.auc(roc.fpr, roc.tpr))


def equal_error(roc):
    """Return (equal error rate, threshold): where FPR = 1 - TPR.

    The rate is interpolated between thresholds; the threshold is the one after it.
    """
    excess = roc.fpr - (1 - roc.tpr)  # From -1 to 1, ascending.
    i = int(np.argmax(excess >= 0))
    share = -excess[i - 1] / (excess[i] - excess[i - 1])
    rate = roc.fpr[i - 1] + share * (roc.fpr[i] - roc.fpr[i - 1])
    return float(rate), float(roc.thresholds[i])


def at_false_positive_rate(roc, rate):
    """Return the largest threshold of the Roc whose FPR is at most `rate`."""
    return float(roc.thresholds[np.searchsorted(roc.fpr, rate, side='right') - 1])


def describe_threshold(roc, threshold):
    """Return what a threshold of a Roc accepts, as a dict ready for JSON."""
    i = int(np.flatnonzero(roc.thresholds == threshold)[0])
    return {
        'threshold': float(threshold),
        'fpr': float(roc.fpr[i]),
        'tpr': float(roc.tpr[i]),
        'num_same_accepted': round(roc.tpr[i] * roc.num_same),
        'num_different_accepted': round(roc.fpr[i] * roc.num_different),
    }


def to_even_bins(same, different, num_bins=100):
    """Return (edges, same, different) of histograms with bins of equal width.

    Args:
        same: int64 [NUM_BINS].
        different: int64 [NUM_BINS].
        num_bins: between distance 0 and the largest.

    Returns:
        edges float64 [num_bins + 1], counts int64 [num_bins] twice.
    """
    bins = np.flatnonzero(same + different)
    ends = bin_ends(bins)
    edges = np.linspace(0, ends[-1] or 1, num_bins + 1)
    counts = [
        np.histogram(ends, edges, weights=histogram[bins])[0].astype(np.int64)
        for histogram in (same, different)
    ]
    return edges, *counts
