"""Runs an exported network in a process of its own: python -m deployment._child.

    python -m deployment._child FORMAT TARGET pixels|encoded

Reads JSON objects, one a line: {"input": FILE, "output": FILE, "batch_size": B}. The
input is a .npy file, float32 [N, H, W, 3], or a .json file, a list of image files.
Writes the embeddings, float32 [N, D], and answers {"secs": S}, the time it took.
"""

import json
import pathlib
import sys
import time

import numpy as np

import deployment


def read_input(filename):
    """Return what is embedded: an array [N, H, W, 3], or of bytes [N]."""
    if filename.endswith('.npy'):
        return np.load(filename, mmap_mode='r')
    names = json.loads(pathlib.Path(filename).read_text('utf-8'))
    return np.array([pathlib.Path(name).read_bytes() for name in names], object)


def main(argv):
    name, target, kind = argv
    module = deployment.load(name)
    embed = module.load_encoded(target) if kind == 'encoded' else module.load(target)
    print(json.dumps({'ready': True}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        inputs = read_input(task['input'])
        started = time.perf_counter()
        embs = [
            embed(np.ascontiguousarray(inputs[first : first + task['batch_size']]))
            for first in range(0, len(inputs), task['batch_size'])
        ]
        secs = time.perf_counter() - started
        np.save(task['output'], np.concatenate(embs))
        print(json.dumps({'secs': secs}), flush=True)


if __name__ == '__main__':
    main(sys.argv[1:])
