"""The golden evaluation cases: what the original's evaluate.py was given and wrote."""

import importlib
import json
import pathlib

import numpy as np

import datasets

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'original'
CASES = json.loads((GOLDEN / 'evaluate.json').read_text(encoding='utf-8'))
ARRAYS = np.load(GOLDEN / 'evaluate.npz')
# `cosine` is ours.
METRICS = ('euclidean', 'sqeuclidean', 'cityblock')
MASKS = json.loads((GOLDEN / 'excluders.json').read_text(encoding='utf-8'))


def csv_file(case, side):
    """Return the path of a case's `query` or `gallery` CSV."""
    return GOLDEN / 'evaluate' / f'{case}_{side}.csv'


def load(case):
    """Return ((pids, fids, embs) of the queries, the same of the gallery, Excluder)."""
    query, gallery = (
        (*datasets.read(csv_file(case, side))[:2], ARRAYS[f'{case}/{side}'])
        for side in ('query', 'gallery')
    )
    return query, gallery, excluder_class(CASES[case]['excluder'])


def excluder_class(name):
    """Return the class Excluder of excluders/NAME.py."""
    return importlib.import_module(f'excluders.{name}').Excluder
