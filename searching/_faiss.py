"""FAISS, in a process without TensorFlow: python -m searching._faiss INDEX.

Reads JSON objects, one a line: {"queries": FILE, "rows": FILE, "count": N}. The first
is a .npy file, float32 [Q, D]; the second is written, int64 [Q, N], nearest first, -1
where the index finds no more. Answers {}.
"""

import contextlib
import json
import os
import resource
import sys

import numpy as np

import common

# Embeddings that are added at once, and those that lists and codes are learned from.
ROWS_AT_ONCE, MOST_TRAINED = 2**16, 2**18

# Links of an image in a graph, and images looked at while it is built and searched.
LINKS, BUILT, SEARCHED = 32, 80, 128

# Bytes of an embedding in ivfpq, and images that its codes are learned from, at least.
CODE_BYTES, LEAST_CODED = 16, 256

# Beside what an index file holds: what FAISS needs to read it, generously.
ROOM = 2**28

# On Linux, the first number is of the pages that a process has.
STATM = '/proc/self/statm'

# Images that FAISS wants for each list, and the lists of so many that are searched.
PER_LIST, LISTS_SEARCHED = 39, 32


def describe(kind, num_rows, dim):
    """Return what index_factory makes of a kind.

    Args:
        kind: 'flat', 'hnsw', 'ivf' or 'ivfpq'.
        num_rows: G.
        dim: D.

    Raises:
        ValueError: there are too few images for it.
    """
    if kind == 'flat':
        return 'Flat'
    if kind == 'hnsw':
        return f'HNSW{LINKS},Flat'
    most = min(num_rows, MOST_TRAINED) // PER_LIST
    lists = max(1, min(int(4 * num_rows**0.5), most))
    if kind == 'ivf':
        return f'IVF{lists},Flat'
    if num_rows < LEAST_CODED:
        raise ValueError(
            f'{num_rows} images; ivfpq learns its codes from at least {LEAST_CODED}'
        )
    size = next(size for size in range(CODE_BYTES, 0, -1) if dim % size == 0)
    # np: without polysemous codes, which nothing here reads and which take 500 times
    # as long to learn.
    return f'IVF{lists},PQ{size}np'


def build(kind, embs, seed, scale, show):
    """Return a FAISS index of embeddings.

    Args:
        kind: see describe.
        embs: [G, D], what slices like an array.
        seed: of the sample that is learned from.
        scale: function of a block float32 [n, D] to what is indexed.
        show: function of an iterable of row numbers that shows progress.
    """
    import faiss

    num_rows, dim = embs.shape
    index = faiss.index_factory(dim, describe(kind, num_rows, dim))
    if kind == 'hnsw':
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILT, SEARCHED
    if not index.is_trained:
        with common.silent_stderr():  # It warns of lists with few images.
            index.train(draw_sample(embs, seed, scale))
        index.nprobe = min(index.nlist, LISTS_SEARCHED)
    for first in show(range(0, num_rows, ROWS_AT_ONCE)):
        index.add(read_block(embs, first, scale))
    return index


def draw_sample(embs, seed, scale):
    """Return some embeddings, float32 [n, D], of blocks spread at random."""
    num_rows = len(embs)
    if num_rows <= MOST_TRAINED:
        return np.concatenate(
            [read_block(embs, i, scale) for i in range(0, num_rows, ROWS_AT_ONCE)]
        )
    # Of each block the same share: those of one file may be of one camera.
    rng = np.random.default_rng(seed)
    some = []
    for first in range(0, num_rows, ROWS_AT_ONCE):
        block = read_block(embs, first, scale)
        count = max(1, len(block) * MOST_TRAINED // num_rows)
        some.append(block[np.sort(rng.choice(len(block), count, replace=False))])
    return np.concatenate(some)


def read_block(embs, first, scale):
    """Return embeddings from a row on, at most ROWS_AT_ONCE, as they are indexed."""
    block = np.asarray(embs[first : first + ROWS_AT_ONCE], np.float32)
    return np.ascontiguousarray(scale(block), np.float32)


def write(index, file):
    """Write an index to an open binary file."""
    import faiss

    writer = faiss.PyCallbackIOWriter(file.write)
    faiss.write_index(index, writer)
    del writer  # It has the end in its buffer.


def read(filename):
    """Return the FAISS index of a file.

    A file may claim vectors that no machine holds, and FAISS fills what it allocates.

    Raises:
        MemoryError: it needs more than twice what it has.
    """
    import faiss

    if not os.path.exists(STATM):
        return faiss.read_index(filename)
    with open(STATM, encoding='ascii') as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = taken + 2 * os.path.getsize(filename) + ROOM
    known = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(most, *known, most), before[1]))
    try:
        return faiss.read_index(filename)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def main(argv):
    (filename,) = argv
    try:
        index = read(filename)
    except MemoryError:
        sys.exit('it asks for more memory than it can fill')
    print(json.dumps({'rows': index.ntotal, 'dim': index.d}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        _, rows = index.search(np.load(task['queries']), task['count'])
        np.save(task['rows'], rows)
        print(json.dumps({}), flush=True)


if __name__ == '__main__':
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1:])
