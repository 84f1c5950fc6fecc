"""Hold identities of a training set back for validation; NumPy only, no files."""

import typing

import numpy as np

import common
import datasets
import excluders


class Split(typing.NamedTuple):
    """Rows of a data set, each in one of three parts; int64, ascending.

    Attributes:
        rest: rows of the PIDs that are left to train on.
        query, gallery: rows of the PIDs held back; each query has a match.
        num_eligible: PIDs that could have been held back.
    """

    rest: np.ndarray
    query: np.ndarray
    gallery: np.ndarray
    num_eligible: int


def split(dataset, excluder, num_val_pids, seed):
    """Split a data set by identity into training rows, queries and a gallery.

    A PID is eligible if at least one query can be made of it. Of the eligible ones,
    num_val_pids are drawn; see choose_queries for what of them becomes a query. All
    their other images are the gallery. The order of the rows does not matter.

    Args:
        dataset: a datasets.Dataset of N images.
        excluder: one of excluders.EXCLUDER_CHOICES.
        num_val_pids: how many PIDs to hold back.
        seed: non-negative int.

    Returns:
        Split.

    Raises:
        InputError: so many PIDs are not eligible, or none would be left to train on.
    """
    rows_of_pid = datasets.group_rows(dataset.pids)
    names = sorted(rows_of_pid)
    if not 0 < num_val_pids < len(names):
        raise common.InputError(
            f'{num_val_pids} of {len(names)} PIDs asked for validation; at least one '
            'is needed there, and at least one to train on; to score all, give the CSV '
            'as query and as gallery'
        )
    queries_of_pid = {}
    for number, pid in enumerate(names):
        rows = sorted(rows_of_pid[pid], key=lambda row: dataset.fids[row])
        images = dataset.select(rows)
        every = slice(None)
        is_match = ~excluders.make_mask(excluder, images, images)(every, every)
        np.fill_diagonal(is_match, False)
        chosen = choose_queries(is_match, np.random.default_rng([seed, 1, number]))
        queries_of_pid[pid] = [rows[i] for i in chosen]
    eligible = [pid for pid in names if queries_of_pid[pid]]
    if num_val_pids > len(eligible):
        raise common.InputError(
            f'{num_val_pids} PIDs asked for validation, but only {len(eligible)} of '
            f'the {len(names)} have two images that the excluder lets match; ask for '
            'fewer'
        )
    order = np.random.default_rng([seed, 0]).permutation(len(eligible))
    held_back = [eligible[i] for i in order[:num_val_pids]]
    query = {row for pid in held_back for row in queries_of_pid[pid]}
    gallery = {row for pid in held_back for row in rows_of_pid[pid]} - query
    rest = set(range(len(dataset.pids))) - query - gallery
    return Split(
        *(np.array(sorted(rows), np.int64) for rows in (rest, query, gallery)),
        len(eligible),
    )


def describe_shared(splits):
    """Return warnings of identities that are trained on and scored, a list.

    Args:
        splits: {split: rows}, each row beginning with its PID.
    """
    pids = {split: {row[0] for row in rows} for split, rows in splits.items()}
    shared = {
        split: sorted(pids.get('train', set()) & pids[split])
        for split in pids
        if split != 'train'
    }
    return [
        f'{len(both)} of {len(pids[split])} PIDs of {split} are in train, too (first: '
        f'{both[0]}); the scores of these would say nothing about new identities'
        for split, both in shared.items()
        if both
    ]


def choose_queries(is_match, rng):
    """Choose which of one PID's n images become queries.

    One of each group that the excluder holds too alike to match (one per camera, as in
    Market-1501), at most half of the images, and only as long as every query keeps a
    match among the images that are none.

    Args:
        is_match: bool [n, n], True where the row's image as a query would be matched
            by the column's image.
        rng: np.random.Generator, of the order in which images are tried.

    Returns:
        list of int, ascending; empty if no image can be a query.
    """
    chosen = []
    for candidate in rng.permutation(len(is_match)):
        tried = [*chosen, candidate]
        in_gallery = np.ones(len(is_match), bool)
        in_gallery[tried] = False
        is_new_group = is_match[candidate, chosen].all()
        if (
            is_new_group
            and 2 * len(tried) <= len(is_match)
            and is_match[np.ix_(tried, in_gallery)].any(axis=1).all()
        ):
            chosen = tried
    return sorted(int(i) for i in chosen)
