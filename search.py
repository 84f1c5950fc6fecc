#!/usr/bin/env python3
"""Find the images and identities of a gallery that are nearest to an image.

    python search.py --gallery ~/exp/trinet/market1501_test_embeddings.h5 \\
        --experiment_root ~/exp/trinet query.jpg

Prints the nearest gallery images with PID and distance and, if the experiment root has
the thresholds.json of `evaluate.py --thresholds`, whether each is the same identity; a
query that none is near enough to is unknown. A gallery is what embed.py writes: adding
individuals is adding a file, --without leaves some out.

Instead of images to look for, one of

    --compare A.jpg B.jpg     are these two the same?
    --duplicates DISTANCE     images of different PIDs that are this near: wrong labels?
    --build_index KIND        make --index FILE, for galleries of many millions
    --serve PORT              a page to drop images on, for this machine only

The ranking is exact unless --index is given. docs/search.md has examples.
"""

import argparse
import json
import os
import sys

import numpy as np

import common
import datasets
import embedder
import embedding_files
import images as pictures
import run_args
from evaluation import pooling, ranking
from searching import answers, gallery, nearest, queries, search, verdicts

# Imported at first use, by what needs them.
index = common.lazy_import('searching.index')
server = common.lazy_import('searching.server')

# Gallery images that are shown of a query in a picture, at most: a screen is as wide.
MOST_COLUMNS = 20


def build_parser():
    """Return the argument parser."""
    parser = common.new_parser(__doc__)
    parser.add_argument(
        'images',
        nargs='*',
        type=common.path,
        metavar='IMAGE',
        help='Images to look for.',
    )
    add_mode_flags(parser)
    add_gallery_flags(parser)
    add_network_flags(parser)
    add_answer_flags(parser)
    add_index_flags(parser)
    return parser


def add_mode_flags(parser):
    """Add the flags that ask for something else than to look for images."""
    mode = parser.add_argument_group('instead of images')
    mode.add_argument(
        '--compare',
        nargs=2,
        type=common.path,
        metavar='IMAGE',
        help='Say how far two images are from each other, and whether they are the '
        'same identity.',
    )
    mode.add_argument(
        '--duplicates',
        type=common.non_negative_float,
        metavar='DISTANCE',
        help='List the images of different PIDs that are no further from each other.',
    )
    mode.add_argument(
        '--build_index',
        choices=('flat', 'hnsw', 'ivf', 'ivfpq'),
        help='Make --index of --gallery: flat (exact), hnsw (graph: fast, takes '
        'memory), ivf (lists), ivfpq (lists of compressed embeddings: 16 bytes each).',
    )
    mode.add_argument(
        '--serve',
        type=port,
        metavar='PORT',
        help='Serve a page on http://127.0.0.1:PORT; 0 chooses a free port.',
    )


def add_gallery_flags(parser):
    """Add the flags of what is searched."""
    group = parser.add_argument_group('gallery')
    group.add_argument(
        '--gallery',
        nargs='+',
        type=common.path,
        metavar='FILE',
        help='Files of embed.py: .h5, .npz, .parquet, .csv or .npy, parts of --shard '
        'included.',
    )
    group.add_argument(
        '--gallery_dataset',
        nargs='+',
        type=common.path,
        metavar='CSV',
        help='The data set of each file, for files that do not tell PIDs and FIDs, '
        "such as the original's.",
    )
    group.add_argument(
        '--without',
        nargs='+',
        default=[],
        metavar='PID',
        help='Leave out the images of these PIDs.',
    )
    group.add_argument(
        '--image_root',
        type=common.path,
        help='Directory that the FIDs of the gallery are relative to, for pictures. '
        'Default: what embed.py was given, as its files say; give it for those of '
        'strangers.',
    )
    datasets.add_outside_flag(group)
    datasets.add_header_flag(group)


def add_network_flags(parser):
    """Add the flags of what embeds the images."""
    group = parser.add_argument_group('network')
    group.add_argument(
        '--experiment_root',
        type=common.readable_directory,
        help='Directory of the training run that embedded the gallery.',
    )
    embedder.add_checkpoint(group)
    group.add_argument(
        '--model',
        type=common.path,
        metavar='FILE',
        help='In place of --experiment_root: what export.py has written. An .onnx file '
        'needs no TensorFlow.',
    )
    group.add_argument(
        '--metric',
        choices=ranking.METRIC_CHOICES,
        help='Distance by which the gallery is ranked. Default: that of the training, '
        f'or {ranking.METRIC_CHOICES[0]} where no network is given.',
    )


def add_answer_flags(parser):
    """Add the flags of what is answered."""
    group = parser.add_argument_group('answer')
    group.add_argument(
        '--top',
        type=common.positive_int,
        default=10,
        help='Images, or identities, that are shown.',
    )
    group.add_argument(
        '--group_by_pid',
        choices=('best', 'mean'),
        help='Rank identities, by the distance of their nearest image (best) or the '
        'mean over all of theirs.',
    )
    group.add_argument(
        '--pool',
        choices=pooling.POOL_CHOICES,
        help='All IMAGEs show one individual: look for it once, with the mean or the '
        'largest value of their embeddings.',
    )
    group.add_argument(
        '--threshold',
        metavar='DISTANCE|JSON',
        help='Largest distance of the same identity, or the JSON file of evaluate.py '
        '--thresholds. Default: that of the experiment root, if it is there.',
    )
    group.add_argument(
        '--fpr',
        type=positive_share,
        help='Take the threshold that accepts at most this share of the pairs of '
        'different identities, such as 0.001. Default: that of the equal error rate.',
    )
    group.add_argument(
        '--json', action='store_true', help='Print JSON, a line for each query.'
    )
    group.add_argument(
        '--picture',
        type=common.path,
        metavar='PNG',
        help='Also draw the images that are found.',
    )


def add_index_flags(parser):
    """Add the flags of approximate search."""
    group = parser.add_argument_group('index')
    group.add_argument(
        '--index',
        type=common.path,
        metavar='FILE',
        help='Let this index propose what is ranked: faster, but an image may be '
        'missed. See --build_index. Needs requirements-search.txt.',
    )
    group.add_argument(
        '--min_recall',
        type=positive_share,
        default=0.9,
        help='Keep an index only if it finds at least this share of the 10 nearest '
        'images.',
    )


def port(text):
    """argparse type: a port that a server can have."""
    value = common.non_negative_int(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f'{text} given, 0 to 65535 expected')
    return value


def positive_share(text):
    """argparse type: a number above 0, at most 1."""
    value = common.positive_float(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f'{text} given, at most 1 expected')
    return value


def parse_args(argv):
    """Return the checked flags."""
    parser = build_parser()
    args = parser.parse_args(argv)
    modes = {
        'IMAGE': bool(args.images),
        **{
            f'--{name}': getattr(args, name) is not None
            for name in ('compare', 'duplicates', 'build_index', 'serve')
        },
    }
    asked = [name for name, is_asked in modes.items() if is_asked]
    if len(asked) != 1:
        parser.error(
            f'{" and ".join(asked) or "nothing"} given; expected one of images to look '
            f'for, {", ".join(list(modes)[1:])}'
        )
    (mode,) = asked
    if mode != '--compare' and args.gallery is None:
        parser.error(f'{mode} needs a --gallery: files that embed.py has written')
    if args.experiment_root is not None and args.model is not None:
        parser.error('--experiment_root and --model are two networks; give one')
    has_network = args.experiment_root is not None or args.model is not None
    if mode in ('IMAGE', '--compare', '--serve') and not has_network:
        parser.error(
            f'{mode} needs a network: --experiment_root with the training run, or '
            '--model with what export.py has written'
        )
    if mode == '--build_index' and args.index is None:
        parser.error('--build_index needs --index: the file to write')
    if args.index is not None and args.group_by_pid == 'mean':
        parser.error(
            '--group_by_pid mean needs all distances, and --index proposes a few; '
            'leave one of the two out'
        )
    refuse_unused(parser, args, mode)
    return args


def refuse_unused(parser, args, mode):
    """Leave with an error if a flag would change nothing."""
    is_lonely = mode in ('--duplicates', '--build_index')
    useless = {
        '--picture': args.picture is not None and mode != 'IMAGE',
        '--pool': args.pool is not None and mode != 'IMAGE',
        '--index': args.index is not None and mode in ('--compare', '--duplicates'),
        '--without': args.without and mode in ('--build_index', '--compare'),
        '--gallery': args.gallery is not None and mode == '--compare',
        '--model': args.model is not None and is_lonely,
        '--threshold': args.threshold is not None and is_lonely,
        '--fpr': args.fpr is not None and is_lonely,
        '--group_by_pid': args.group_by_pid is not None
        and (is_lonely or mode == '--compare'),
        '--checkpoint': args.checkpoint is not None
        and (is_lonely or args.model is not None),
    }
    for name, is_useless in useless.items():
        if is_useless:
            parser.error(f'{mode} has no use for {name}; leave it out')


def load_network(model, experiment_root, checkpoint, view):
    """Return the queries.Network that flags ask for."""
    if model is not None:
        return queries.load_export(model, view)
    return queries.load_run(experiment_root, checkpoint, view)


def load_gallery(filenames, csv_files, has_header):
    """Return the gallery.Gallery that flags ask for, whole."""
    for name in filenames:
        if pictures.is_image_name(os.path.basename(name)):
            raise common.InputError(
                f'--gallery {name} is an image; put images before --gallery, or behind '
                'another flag'
            )
    return gallery.load(filenames, csv_files, has_header)


def choose_metric(metric, experiment_root):
    """Return the metric that flags ask for where no network is loaded."""
    if metric is not None or experiment_root is None:
        return metric or ranking.METRIC_CHOICES[0]
    filename = f'{experiment_root}/args.json'
    return embedder.choose_metric(run_args.read(experiment_root), filename)


def look_for(images, network, found_by, limit, pool, image_root):
    """Return (answers, an image of each query) of images that are looked for.

    Args:
        images: list of str, paths.
        network: queries.Network.
        found_by: search.Search.
        limit: verdicts.Limit, or None.
        pool: how they become one query, or None.
        image_root: directory of the gallery's FIDs, or None.
    """
    embs = network.embed(images)
    names, shown = images, images
    if pool is not None:
        embs = pooling.pool(embs, np.zeros(len(embs), int), pool)
        names, shown = [', '.join(images)], images[:1]
    told = [
        answers.make(name, one, found_by.images, limit, image_root)
        for name, one in zip(names, found_by.find(embs), strict=True)
    ]
    return told, shown


def print_answers(told, limit, as_json):
    """Print answers, as text or as JSON."""
    if as_json:
        for answer in told:
            print(json.dumps(answers.to_json(answer, limit)))
        return
    if limit is not None:
        print(limit.describe())
    for answer in told:
        print('\n'.join(answers.format_answer(answer, limit)))


def draw(filename, found, query_paths, limit, metric):
    """Write the picture of answers.

    Raises:
        InputError: nobody knows where an image is.
    """
    if any(one.path is None for answer in found for one in answer.found):
        raise common.InputError(
            'the gallery does not tell where its images are; give --image_root'
        )
    some = [one._replace(found=one.found[:MOST_COLUMNS]) for one in found]
    common.write_figure(filename, answers.draw(some, query_paths, limit, metric))


def compare(images, network, metric, limit, as_json):
    """Print how far two images are from each other, and what that means."""
    first, second = network.embed(images)
    dists = ranking.compute_distances(first[None], second[None], metric)
    distance = float(dists[0, 0])
    is_same = None if limit is None else limit.accepts(distance)
    if as_json:
        told = {'images': images, 'distance': distance, 'is_same': is_same}
        told['threshold'] = None if limit is None else limit._asdict()
        print(json.dumps(told))
        return
    words = {True: 'same identity', False: 'different identities', None: 'no verdict'}
    print(f'{metric} distance {distance:.4f}: {words[is_same]}')
    print('no threshold is known' if limit is None else limit.describe())


def list_duplicates(images, metric, limit, as_json):
    """Print the images of different PIDs that are near each other."""
    whole = np.asarray(images.embs[:])
    distances = ranking.EmbeddingDistances(whole, whole, metric)
    pairs = nearest.find_duplicates(distances, images.pids, limit)
    for pair in pairs:
        sides = [
            {'pid': images.pids[row], 'fid': images.fids[row]}
            for row in (pair.first, pair.second)
        ]
        if as_json:
            print(json.dumps({'distance': pair.dist, 'images': sides}))
        else:
            (a, b) = sides
            print(
                f'{pair.dist:9.4f}  {a["pid"] or gallery.NO_PID}  {a["fid"]}  '
                f'{b["pid"] or gallery.NO_PID}  {b["fid"]}'
            )
    print(
        f'{len(pairs)} pairs of different PIDs among {len(images.fids)} images are at '
        f'most {limit:g} apart',
        file=sys.stderr,
    )


def main(argv=None):
    args = parse_args(argv)
    for name in (args.picture, args.index if args.build_index else None):
        if name is not None:
            common.check_file_name(name)
    images = None
    if args.gallery is not None:
        images = load_gallery(args.gallery, args.gallery_dataset, args.csv_header)
    if args.picture is not None or args.serve is not None:  # Only these open images.
        images.check_inside(args.image_root, args.allow_outside_image_root)
    if args.duplicates is not None:
        kept = images.without(args.without) if args.without else images
        metric = choose_metric(args.metric, args.experiment_root)
        list_duplicates(kept, metric, args.duplicates, args.json)
        return
    if args.build_index is not None:
        metric = choose_metric(args.metric, args.experiment_root)
        kind, filename, least = args.build_index, args.index, args.min_recall
        print(index.build(kind, filename, images, metric, least))
        return
    origin = embedding_files.Origin() if images is None else images.origin
    view = origin.view or embedding_files.PLAIN
    network = load_network(args.model, args.experiment_root, args.checkpoint, view)
    metric = args.metric or network.metric
    # Of a file that does not say how its images were looked at, queries are not either.
    origin = origin._replace(weights=network.weights, view=view)
    limit = verdicts.choose(
        args.threshold, args.fpr, args.experiment_root, metric, origin
    )
    if args.compare is not None:
        compare(args.compare, network, metric, limit, args.json)
        return
    queries.check(network, images)
    with search.Search(
        images, args.without, metric, args.index, args.group_by_pid, args.top
    ) as found_by:
        if args.serve is not None:
            server.serve(args.serve, network, found_by, limit, args.image_root)
            return
        told, shown = look_for(
            args.images, network, found_by, limit, args.pool, args.image_root
        )
    if args.picture is not None:
        draw(args.picture, told, shown, limit, metric)
    print_answers(told, limit, args.json)


if __name__ == '__main__':
    common.run(main)
