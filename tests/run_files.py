"""What tests of train.py look at: the files of a run, and what it refuses."""

import json

import numpy as np
import pytest

import train
from training import flags


def list_names(directory, pattern):
    """Return the sorted names of files in a directory."""
    return sorted(path.name for path in directory.glob(pattern))


def read_array(root, name):
    """Return an array of --detailed_logs as its documentation says."""
    header = json.loads((root / f'{name}.json').read_text())
    return np.memmap(root / name, header['dtype'], 'r', shape=tuple(header['shape']))


def read_args(root):
    return json.loads((root / 'args.json').read_text(encoding='utf-8'))


def change_args(root, **values):
    """Set values in args.json; None removes a key."""
    changed = read_args(root) | values
    kept = {name: value for name, value in changed.items() if value is not None}
    (root / 'args.json').write_text(json.dumps(kept))


def log_of(root):
    return (root / 'train.log').read_text(encoding='utf-8')


def assert_same_state(a, b):
    """Compare two checkpoints bit for bit: weights, moving averages, moments, step."""
    assert a.keys() == b.keys()
    assert any(name.endswith('/Adam_1') for name in a)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def refuse(capsys, argv):
    """Return what train.py prints when it leaves because of its flags."""
    with pytest.raises(SystemExit) as stop:
        train.main(argv)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert not any('Traceback' in line for line in lines)
    return lines[-1]


def parse(argv):
    """Return (args, notes) of a command line."""
    return flags.parse_args(train.__doc__, argv)[:2]
