"""Is it the same identity? A distance tells, and how often it is wrong."""

import os
import sys
import typing

import numpy as np

import common
import embedder


class Limit(typing.NamedTuple):
    """The largest distance of two images that count as one identity.

    Attributes:
        distance: in the metric of the search; below 0, none is near enough.
        rule: where it comes from, a text.
        fpr, tpr: share of pairs of different and of the same identity that it accepts,
            in 0..1, or None: not known.
    """

    distance: float
    rule: str
    fpr: float | None
    tpr: float | None

    def accepts(self, distance):
        """Say whether a distance is that of one identity."""
        return bool(distance <= self.distance)

    def describe(self):
        """Return what a table says of it."""
        told = f'threshold {self.distance:.4g} ({self.rule})'
        if self.fpr is None:
            return f'{told}; how often it is wrong is not known'
        return (
            f'{told}; it accepts {self.fpr:.3%} of the pairs of different and '
            f'{self.tpr:.2%} of those of the same identity'
        )


def choose(threshold, fpr, experiment_root, metric, origin):
    """Return the Limit that flags ask for, or None: nobody knows one.

    Args:
        threshold: a number or the name of a JSON file of evaluate.py --thresholds, as
            text; None: that of the experiment root, if it is there.
        fpr: the largest share of pairs of different identities to accept, or None: the
            equal error rate's.
        experiment_root: directory, or None.
        metric: of the search.
        origin: embedding_files.Origin of what is searched.

    Raises:
        FileNotFoundError, InputError: the file is missing or wrong, or of other
            distances; or nobody knows the share.
    """
    number = common.to_number(threshold)
    known = None
    if experiment_root is not None:
        known = os.path.join(experiment_root, embedder.THRESHOLDS_FILE)
        known = known if os.path.isfile(known) else None
    filename = known if threshold is None or number is not None else threshold
    reason = None if filename is None else find_mismatch(filename, metric, origin)
    if reason is not None:
        if filename != known:
            raise common.InputError(f'{filename} {reason}')
        # Nobody asked for it.
        print(f'{filename} {reason}; it is passed over', file=sys.stderr)
        filename = None
    curve = None if filename is None else read_curve(filename, metric)
    if number is not None:
        if fpr is not None:
            raise common.InputError(
                f'--threshold {threshold} is a distance and --fpr {fpr:g} asks for '
                'another; give one of the two'
            )
        return Limit(
            number, 'as given', *(curve.rates(number) if curve else (None,) * 2)
        )
    if curve is None:
        if fpr is None:
            return None
        raise common.InputError(
            f'--fpr {fpr:g} needs --threshold with the JSON file of evaluate.py '
            '--thresholds'
        )
    if fpr is None:
        distance = embedder.find_threshold('', metric, filename)
        return Limit(distance, embedder.THRESHOLD_RULE, *curve.rates(distance))
    distance = curve.at(fpr)
    return Limit(distance, f'FPR at most {fpr:g}', *curve.rates(distance))


def find_mismatch(filename, metric, origin):
    """Return why the thresholds of a JSON file are of other distances, or None.

    Args:
        filename: of evaluate.py --thresholds.
        metric, origin: see choose.
    """
    stored = common.read_object(os.path.expanduser(filename))
    args, told = stored.get('args'), stored.get('embeddings')
    found = args.get('metric') if isinstance(args, dict) else metric
    if found != metric:
        return f'has thresholds of --metric {found}, not of {metric}'
    if not isinstance(told, dict):
        return None  # Of an older version, or of somebody else.
    if origin.has_other_weights(told.get('weights')):
        return (
            f'has thresholds of {told.get("checkpoint")}, which has other weights; '
            'evaluate again'
        )
    if origin.has_other_view(told.get('view')):
        return (
            'has thresholds of images that were looked at otherwise than the gallery; '
            'evaluate its own embeddings'
        )
    return None


class Curve(typing.NamedTuple):
    """A ROC.

    Attributes:
        thresholds: float64 [n], distances, ascending.
        fpr, tpr: float64 [n], shares of pairs up to each.
    """

    thresholds: np.ndarray
    fpr: np.ndarray
    tpr: np.ndarray

    def rates(self, distance):
        """Return (FPR, TPR) of a distance."""
        place = np.searchsorted(self.thresholds, distance, side='right') - 1
        if place < 0:
            return 0.0, 0.0
        return float(self.fpr[place]), float(self.tpr[place])

    def at(self, fpr):
        """Return the largest distance whose FPR is at most a share; -1: none."""
        place = np.searchsorted(self.fpr, fpr, side='right') - 1
        return float(self.thresholds[place]) if place >= 0 else -1.0


def read_curve(filename, metric):
    """Return the Curve in a JSON file of evaluate.py --thresholds.

    Raises:
        FileNotFoundError, InputError: it is missing, wrong, or of another metric.
    """
    embedder.find_threshold('', metric, filename)
    roc = common.read_object(os.path.expanduser(filename)).get('roc')
    try:
        curve = Curve(
            *(np.array(roc[name], float) for name in ('threshold', 'fpr', 'tpr'))
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        curve = None
    if curve is None or not is_sound(curve):
        raise common.InputError(
            f'{filename} has no roc as evaluate.py --thresholds writes it; evaluate '
            'again'
        )
    return curve


def is_sound(curve):
    """Say whether a Curve has three lists of one length, none of which falls."""
    lengths = {array.shape for array in curve}
    return (
        len(lengths) == 1
        and curve.thresholds.ndim == 1
        and len(curve.thresholds) > 0
        and all(np.isfinite(array).all() for array in curve)
        and all((np.diff(array) >= 0).all() for array in curve)
    )
