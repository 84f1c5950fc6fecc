"""How fast is search.py in a large gallery, exactly and by each index, what is missed?

    python -m bench.search_speed ~/exp/600/market1501_test_embeddings.h5 --rows 1000000

Makes up a gallery with the structure of real embeddings: those of the file, again and
again, each time with noise as large as the way from an image to its nearest neighbour.
Queries are made likewise, and are not in the gallery. Each contender is a process of
its own: the exact ranking, then the indexes, one after another. Prints how long the
index takes to build, its size, the peak memory of the process, recall@1 and @10
against the exact ranking, and queries/s of one at a time (median and range of
--repeats rounds).
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import h5py
import numpy as np

import common
from bench import _sides
from evaluation import ranking
from searching import gallery, index, nearest

CONTENDERS = ('exact', 'flat', 'hnsw', 'ivf', 'ivfpq')
TOP = 10


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('embeddings', type=common.path, help='HDF5 file of embed.py.')
    parser.add_argument('--rows', type=int, default=10**6, help='Of the gallery.')
    parser.add_argument('--queries', type=int, default=100, help='Of each round.')
    parser.add_argument('--repeats', type=int, default=3, help='Rounds.')
    parser.add_argument(
        '--contenders', nargs='+', choices=CONTENDERS, default=CONTENDERS
    )
    parser.add_argument('--contender', choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument('--directory', type=pathlib.Path, help=argparse.SUPPRESS)
    return parser


def make_up(filename, num_rows, num_queries, directory):
    """Write gallery.npy and queries.npy: real embeddings with noise."""
    with h5py.File(filename) as file:
        real = file['emb'][:]
    rng = np.random.default_rng(0)
    some = real[rng.choice(len(real), min(1000, len(real)), replace=False)]
    distances = ranking.EmbeddingDistances(some, real)
    apart = np.median([one.dists[1] for one in nearest.nearest_images(distances, 2)])
    dim = real.shape[1]
    for name, count in (('gallery', num_rows), ('queries', num_queries)):
        target = np.lib.format.open_memmap(
            directory / f'{name}.npy', 'w+', np.float32, (count, dim)
        )
        for first in range(0, count, 2**16):
            rows = rng.integers(0, len(real), min(2**16, count - first))
            noise = rng.normal(size=(len(rows), dim)) * apart / np.sqrt(dim)
            target[first : first + len(rows)] = real[rows] + noise
        target.flush()


def open_gallery(directory):
    """Return the gallery.Gallery of made-up embeddings, in memory."""
    embs = np.load(directory / 'gallery.npy')
    names = np.array([str(i) for i in range(len(embs))], object)
    columns = names, names, np.full(len(embs), None)
    told = gallery.embedding_files.Origin()
    return gallery.Gallery(embs, *columns, told, ['gallery.npy'])


def measure(contender, directory, repeats):
    """Return what a contender is found to do, a dict; its rows go to a file."""
    images, queries = open_gallery(directory), np.load(directory / 'queries.npy')
    filename, told = str(directory / contender), {}

    if contender == 'exact':
        screen = nearest.Screen(images.embs, 'euclidean')
        rounds, rows = time_rounds(
            lambda query: screen.find(query, TOP)[0], queries, repeats
        )
    else:
        index.build(contender, filename, images, 'euclidean', 0.01)
        told = json.loads(pathlib.Path(f'{filename}.json').read_text())
        with index.Index(filename, images, [], 'euclidean') as made:
            rounds, rows = time_rounds(
                lambda query: made.find_one(query, TOP, False), queries, repeats
            )
    np.save(directory / f'{contender}-rows.npy', rows)
    return {
        'rates': [len(queries) / secs for secs in rounds],
        'build_secs': told.get('build_secs'),
        'num_bytes': told.get('num_bytes'),
    }


def time_rounds(find, queries, repeats):
    """Return ([repeats] seconds, rows int64 [Q, TOP]) of queries one at a time."""
    find(queries[:1])
    rounds = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = [find(queries[i : i + 1]).rows for i in range(len(queries))]
        rounds.append(time.perf_counter() - started)
    rows = np.full((len(queries), TOP), -1)
    for row, one in zip(rows, found, strict=True):
        row[: len(one)] = one
    return rounds, rows


def recall(found, exact, count):
    """Return the share of the `count` nearest that are found."""
    shares = [
        np.isin(truth[:count], rows[:count]).mean()
        for rows, truth in zip(found, exact, strict=True)
    ]
    return float(np.mean(shares))


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.contender is not None:
        print(json.dumps(measure(args.contender, args.directory, args.repeats)))
        return
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        make_up(args.embeddings, args.rows, args.queries, directory)
        print(
            f'{args.rows} images, {args.queries} queries\n{"":6} {"build":>8} '
            f'{"size":>9} {"peak memory":>11} {"recall@1":>8} {"@10":>6}  queries/s'
        )
        for contender in args.contenders:
            flags = ['--contender', contender, '--directory', name]
            flags += ['--repeats', str(args.repeats)]
            usage = _sides.run(
                _sides.module('bench.search_speed', args.embeddings, *flags)
            )
            told = json.loads(usage.output)
            exact, found = (
                np.load(directory / f'{one}-rows.npy') for one in ('exact', contender)
            )
            print(format_row(contender, usage, told, exact, found), flush=True)


def format_row(contender, usage, told, exact, found):
    """Return a contender's line of the table."""
    rates = told['rates']
    build, size = '-', '-'
    if told['build_secs'] is not None:
        build, size = f'{told["build_secs"]:.0f} s', f'{told["num_bytes"] / 1e6:.0f} MB'
    return (
        f'{contender:6} {build:>8} {size:>9} {usage.peak_mb:8.0f} MB '
        f'{recall(found, exact, 1):8.1%} {recall(found, exact, TOP):6.1%}  '
        f'{statistics.median(rates):.2f} ({min(rates):.2f}-{max(rates):.2f})'
    )


if __name__ == '__main__':
    main()
