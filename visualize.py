#!/usr/bin/env python3
"""Look at embeddings: ranked images, curves of scores, TensorBoard's projector.

    python visualize.py --excluder market1501 \\
        --query_dataset data/market1501_query.csv \\
        --query_embeddings ~/exp/trinet/market1501_query_embeddings.h5 \\
        --gallery_dataset data/market1501_test.csv \\
        --gallery_embeddings ~/exp/trinet/market1501_test_embeddings.h5 \\
        --image_root ~/Market-1501-v15.09.15 --filename ranking.html

writes queries beside the gallery images nearest to them, those of the lowest average
precision (scikit-learn's) first. Matches have a green border, others a red one.
A page (.html) holds all its images in itself; it has distance, PID and camera of each,
shows greyed what the excluder ignores, and the nearest match where it comes late, and
filters by PID. A picture (.png) has fewer rows and leaves out what is ignored. Queries
without any match have no average precision and are in neither.

    python visualize.py curves a.json b.json --output_dir pictures
    python visualize.py projector --dataset data/market1501_query.csv --embeddings ...

draw the JSON files of evaluate.py, and write embeddings for TensorBoard; `python
visualize.py curves --help` explains the first, `projector --help` the second.
"""

import argparse
import os
import sys
import typing

import numpy as np

import common
import datasets
import embedding_files
import excluders
from evaluation import flags, ranking
from visuals import (
    projector,
    ranked_queries,
    ranking_figure,
    ranking_page,
    score_curves,
    thumbnails,
)

# A page is scrolled and filtered, a picture is seen at a glance.
NUM_QUERIES = {'.html': 100, '.png': 8}

CURVES = """Draw the scores of one or several evaluations.

    python visualize.py curves a.json b.json --labels ours theirs --output_dir pictures

Writes cmc.png: the share of queries with a match among the k nearest. Where the JSON
file was made with `evaluate.py --thresholds`, also roc.png (is it the same identity?
right and wrong answers at all thresholds) and distances.png (of pairs of the same and
of different identities).
"""

PROJECTOR = """Write embeddings and images for TensorBoard's embedding projector.

    python visualize.py projector --dataset data/market1501_query.csv \\
        --embeddings ~/exp/trinet/market1501_query_embeddings.h5 \\
        --image_root ~/Market-1501-v15.09.15 --output_dir ~/exp/projector
    tensorboard --logdir ~/exp/projector

Writes tensors.bytes, metadata.tsv (PID, FID and, with --excluder, camera), sprite.jpg
(all images, small) and projector_config.pbtxt, which names the other three.
"""


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    others = {'curves': draw_curves, 'projector': write_projector}
    if argv and argv[0] in others:
        others[argv[0]](argv[1:])
    elif argv and not argv[0].startswith('-'):
        refuse_word(argv[0], others)
    else:
        show_rankings(argv)


def refuse_word(word, others):
    """Leave with an error: the first word is neither a flag nor one of `others`."""
    build_parser().error(
        f'{word!r} given; expected {" or ".join(others)}, or the flags of rankings'
        f'{common.suggest(word, others)}'
    )


# --- ranked images ---------------------------------------------------------------


def build_parser():
    """Return the argument parser of the rankings."""
    parser = common.new_parser(__doc__)
    flags.add_flags(parser)
    output = parser.add_argument_group('picture')
    add_data_flags(output)
    output.add_argument(
        '--filename',
        required=True,
        nargs='+',
        type=page_or_picture,
        metavar='HTML|PNG',
        help='Page or picture to write; its ending decides which. Several will do.',
    )
    output.add_argument(
        '--order',
        choices=ranked_queries.ORDER_CHOICES,
        default='worst',
        help='Of all queries sorted by average precision, show the first (worst), or '
        'some in equal steps from the worst to the best (spread).',
    )
    output.add_argument(
        '--num_queries',
        type=common.positive_int,
        help=f'Queries to show (default: {NUM_QUERIES[".html"]} on a page, '
        f'{NUM_QUERIES[".png"]} in a picture). A page takes about 60 kB for each.',
    )
    output.add_argument(
        '--top_k',
        type=common.positive_int,
        default=10,
        help='Gallery images of a query that count.',
    )
    common.add_quiet(output)
    return parser


def add_data_flags(group):
    """Add the flags about data sets that both rankings and projector need."""
    group.add_argument(
        '--image_root',
        required=True,
        type=common.readable_directory,
        help='Directory that the FIDs are relative to.',
    )
    datasets.add_header_flag(group)


def page_or_picture(text):
    """argparse type: the path of an HTML or PNG file to write."""
    filename = common.path(text)
    if extension_of(filename) not in NUM_QUERIES:
        raise argparse.ArgumentTypeError(
            f'{text} given, a name that ends in .html or .png expected'
        )
    return filename


def extension_of(filename):
    """Return the ending of a file name in lower case, such as '.png'."""
    return os.path.splitext(filename)[1].lower()


def name_file(filename):
    """Return the name of a file without its directory and ending."""
    return os.path.splitext(os.path.basename(filename))[0]


def show_rankings(argv):
    """Write the pages and the pictures."""
    args = build_parser().parse_args(argv)
    query, gallery = embedding_files.load_pair(
        args.query_dataset,
        args.query_embeddings,
        args.gallery_dataset,
        args.gallery_embeddings,
        has_header=args.csv_header,
    )
    is_ignored = excluders.make_mask(args.excluder, query, gallery)
    dists = ranking.EmbeddingDistances(
        query.embs, gallery.embs, args.metric, args.batch_size
    )
    ranks = ranking.rank(dists, query.pids, gallery.pids, is_ignored)
    images = ranked_queries.RankedImages(
        query,
        gallery,
        excluders.find_cameras(args.excluder, query),
        excluders.find_cameras(args.excluder, gallery),
        args.image_root,
    )
    for filename in args.filename:
        kind = extension_of(filename)
        num_queries = args.num_queries or NUM_QUERIES[kind]
        rows, aps = ranked_queries.choose_queries(ranks, num_queries, args.order)
        ranked = ranked_queries.rank_queries(
            rows, aps, query, gallery, is_ignored, args.metric, args.top_k
        )
        if kind == '.html':
            names = name_file(args.query_dataset), name_file(args.gallery_dataset)
            summary = [
                count_queries(ranks, len(rows), args.order),
                explain_signs(args.metric, args.excluder),
            ]
            write_page(filename, ' in '.join(names), summary, ranked, images)
        else:
            write_picture(filename, ranked, images, args.top_k)
        if not args.quiet:
            print(f'{filename}: {len(rows)} of {len(query.fids)} queries')


def count_queries(ranks, num_shown, order):
    """Return the paragraph that says which queries a page shows.

    Args:
        ranks: list [Q] of ranking.MatchRanks.
        num_shown: how many of the Q are shown.
        order: one of ranked_queries.ORDER_CHOICES.
    """
    aps = [ranking.step_average_precision(r) for r in ranks if len(r.ranks)]
    words = {'worst': 'worst first', 'spread': 'in equal steps from worst to best'}
    unmatched = len(ranks) - len(aps)
    left_out = f' {unmatched} without any match are left out.' if unmatched else ''
    return (
        f'{num_shown} of {len(ranks)} queries, {words[order]} by average '
        f'precision; mAP of all: {np.mean(aps):.2%}.{left_out}'
    )


def explain_signs(metric, excluder):
    """Return the paragraph that says what colours and signs of a page mean.

    Args:
        metric: one of ranking.METRIC_CHOICES.
        excluder: name of the excluder.
    """
    return (
        f'Nearest first by {metric} distance. Green ✓: same PID; red ✗: another. '
        f'Grey: ignored by the excluder {excluder}, without a rank. '
        'After …: the nearest match.'
    )


def write_page(filename, title, summary, ranked, images):
    """Write the HTML file."""
    with (
        common.complete_file(filename) as temporary,
        open(temporary, 'w', encoding='utf-8') as file,
    ):
        ranking_page.write(file, title, summary, ranked, images)


def write_picture(filename, ranked, images, top_k):
    """Write the PNG file."""
    figure = ranking_figure.draw(list(ranked), images, top_k)
    common.write_figure(filename, figure, ranking_figure.DOTS_PER_INCH)


# --- curves of scores ------------------------------------------------------------


class ThresholdPicture(typing.NamedTuple):
    """A picture of what `evaluate.py --thresholds` adds to its JSON file.

    Attributes:
        filename: to write.
        key: what the JSON file must have.
        draw: function of {label: scores} that returns a matplotlib figure.
    """

    filename: str
    key: str
    draw: typing.Callable


THRESHOLD_PICTURES = (
    ThresholdPicture('roc.png', 'roc', score_curves.draw_roc),
    ThresholdPicture(
        'distances.png', 'distance_histogram', score_curves.draw_distances
    ),
)


def build_curves_parser():
    """Return the argument parser of `visualize.py curves`."""
    parser = common.new_parser(CURVES)
    parser.prog += ' curves'
    parser.add_argument(
        'scores',
        nargs='+',
        metavar='JSON',
        type=common.readable_file,
        help='Files of evaluate.py.',
    )
    parser.add_argument(
        '--labels',
        nargs='+',
        metavar='LABEL',
        help='Names in the legends, one for each JSON file (default: the file names).',
    )
    parser.add_argument(
        '--output_dir',
        type=common.path,
        default='.',
        help='Directory the pictures are written to; made if need be.',
    )
    parser.add_argument(
        '--max_rank',
        type=common.positive_int,
        default=50,
        help='Where cmc.png ends.',
    )
    common.add_quiet(parser)
    return parser


def draw_curves(argv):
    """Write cmc.png and, where there is something to draw, the other two."""
    parser = build_curves_parser()
    args = parser.parse_args(argv)
    labels = args.labels or name_files(args.scores)
    if len(labels) != len(args.scores) or len(set(labels)) < len(labels):
        parser.error(
            f'--labels: {len(labels)} given ({", ".join(labels)}), {len(args.scores)} '
            'different ones expected, one for each JSON file'
        )
    scores = dict(zip(labels, map(score_curves.read_scores, args.scores), strict=True))
    figures = {'cmc.png': score_curves.draw_cmc(scores, args.max_rank)}
    for picture in THRESHOLD_PICTURES:
        drawable = {label: one for label, one in scores.items() if picture.key in one}
        if drawable:
            figures[picture.filename] = picture.draw(drawable)
        warn_of_missing(picture.filename, [x for x in labels if x not in drawable])
    for name, figure in figures.items():
        filename = os.path.join(args.output_dir, name)
        common.write_figure(filename, figure)
        if not args.quiet:
            print(filename)


def name_files(filenames):
    """Return a label for each file: its name, or its path if two share the name."""
    names = [name_file(filename) for filename in filenames]
    return names if len(set(names)) == len(names) else list(dict.fromkeys(filenames))


def warn_of_missing(name, labels):
    """Say on stderr which evaluations a picture does not show."""
    if labels:
        print(
            f'{name} lacks {", ".join(labels)}: made without evaluate.py --thresholds',
            file=sys.stderr,
        )


# --- TensorBoard's projector -----------------------------------------------------


def build_projector_parser():
    """Return the argument parser of `visualize.py projector`."""
    parser = common.new_parser(PROJECTOR)
    parser.prog += ' projector'
    parser.add_argument(
        '--dataset',
        required=True,
        type=common.path,
        metavar='CSV',
        help='The set: one PID,FID row an image.',
    )
    parser.add_argument(
        '--embeddings',
        required=True,
        type=common.path,
        metavar='HDF5',
        help='Its embeddings, as embed.py writes them.',
    )
    add_data_flags(parser)
    parser.add_argument(
        '--output_dir',
        required=True,
        type=common.path,
        help='Directory for the four files; made if need be.',
    )
    parser.add_argument(
        '--excluder',
        choices=excluders.EXCLUDER_CHOICES,
        help='Adds the camera, read from the FIDs by the naming rules of a data set.',
    )
    parser.add_argument(
        '--num_images',
        type=common.positive_int,
        help='Take so many images, in equal steps of the CSV (default: all). The '
        'projector is fluent up to about 10000.',
    )
    common.add_quiet(parser)
    return parser


def write_projector(argv):
    """Write the files of the projector."""
    args = build_projector_parser().parse_args(argv)
    dataset = embedding_files.load(args.dataset, args.embeddings, args.csv_header)
    rows = choose_rows(len(dataset.fids), args.num_images)
    images = (thumbnails.read_image(args.image_root, fid) for fid in dataset.fids[rows])
    projector.write(
        args.output_dir,
        name_file(args.dataset),
        dataset.embs[rows],
        describe_images(dataset, rows, args.excluder),
        images,
    )
    if not args.quiet:
        print(f'{args.output_dir}: {len(rows)} of {len(dataset.fids)} images')


def choose_rows(num_images, most):
    """Return the rows to show, int64 [n] in equal steps: `most` at most, None: all."""
    num_shown = min(most or num_images, num_images)
    return np.linspace(0, num_images - 1, num_shown).astype(np.int64)


def describe_images(dataset, rows, excluder):
    """Return what the projector tells of some images, {heading: sequence of str}.

    Args:
        dataset: embedding_files.EmbeddedDataset.
        rows: int64 [n].
        excluder: whose naming rules give the camera; None: no camera.
    """
    fids = dataset.fids[rows]
    columns = {'pid': dataset.pids[rows], 'fid': fids}
    if excluder is not None:
        cids = None if dataset.cids is None else dataset.cids[rows]
        shown = datasets.Dataset(columns['pid'], columns['fid'], cids)
        cameras = excluders.find_cameras(excluder, shown)
        columns['camera'] = [''] * len(rows) if cameras is None else cameras
    return columns


if __name__ == '__main__':
    common.run(main)
