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
    else:
        show_rankings(argv)


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


def show_rankings(argv):
    """Write the page or the picture."""
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
        num_queries = args.num_queries or NUM_QUERIES[extension_of(filename)]
        rows, aps = ranked_queries.choose_queries(ranks, num_queries, args.order)
        ranked = ranked_queries.rank_queries(
            rows, aps, query, gallery, is_ignored, args.metric, args.top_k
        )
        if extension_of(filename) == '.html':
            title, summary = describe_page(args, ranks, len(rows))
            write_page(filename, title, summary, ranked, images)
        else:
            figure = ranking_figure.draw(list(ranked), images, args.top_k)
            common.write_figure(filename, figure, ranking_figure.DOTS_PER_INCH)
        print(f'{filename}: {len(rows)} of {len(query.fids)} queries')


def describe_page(args, ranks, num_shown):
    """Return (title, paragraphs), what stands at the top of the page."""
    query_name, gallery_name = (
        os.path.splitext(os.path.basename(name))[0]
        for name in (args.query_dataset, args.gallery_dataset)
    )
    aps = [ranking.step_average_precision(r) for r in ranks if len(r.ranks)]
    order = {'worst': 'worst first', 'spread': 'in equal steps from worst to best'}
    unmatched = len(ranks) - len(aps)
    left_out = f' {unmatched} without any match are left out.' if unmatched else ''
    return f'{query_name} in {gallery_name}', [
        f'{num_shown} of {len(ranks)} queries, {order[args.order]} by average '
        f'precision; mAP of all: {np.mean(aps):.2%}.{left_out}',
        f'Nearest first by {args.metric} distance. Green ✓: same PID; red ✗: another. '
        f'Grey: ignored by the excluder {args.excluder}, without a rank. '
        'After …: the nearest match.',
    ]


def write_page(filename, title, summary, ranked, images):
    """Write the HTML file."""
    with (
        common.complete_file(filename) as temporary,
        open(temporary, 'w', encoding='utf-8') as file,
    ):
        ranking_page.write(file, title, summary, ranked, images)


# --- curves of scores ------------------------------------------------------------


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
    for name, key, draw in (
        ('roc.png', 'roc', score_curves.draw_roc),
        ('distances.png', 'distance_histogram', score_curves.draw_distances),
    ):
        drawable = {label: one for label, one in scores.items() if key in one}
        if drawable:
            figures[name] = draw(drawable)
        report_missing(name, [label for label in labels if label not in drawable])
    for name, figure in figures.items():
        filename = os.path.join(args.output_dir, name)
        common.write_figure(filename, figure)
        print(filename)


def name_files(filenames):
    """Return a label for each file: its name, or its path if two share the name."""
    names = [os.path.splitext(os.path.basename(name))[0] for name in filenames]
    return names if len(set(names)) == len(names) else list(dict.fromkeys(filenames))


def report_missing(name, labels):
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
    return parser


def write_projector(argv):
    """Write the files of the projector."""
    args = build_projector_parser().parse_args(argv)
    dataset = embedding_files.load(args.dataset, args.embeddings, args.csv_header)
    num_images = min(args.num_images or len(dataset.fids), len(dataset.fids))
    rows = np.linspace(0, len(dataset.fids) - 1, num_images).astype(np.int64)
    fids = dataset.fids[rows]
    columns = {'pid': dataset.pids[rows], 'fid': fids}
    if args.excluder is not None:
        cameras = excluders.find_cameras(args.excluder, dataset)
        columns['camera'] = [
            cameras[row] if cameras is not None else '' for row in rows
        ]
    images = (thumbnails.read_image(args.image_root, fid) for fid in fids)
    name = os.path.splitext(os.path.basename(args.dataset))[0]
    projector.write(args.output_dir, name, dataset.embs[rows], columns, images)
    print(f'{args.output_dir}: {num_images} of {len(dataset.fids)} images')


if __name__ == '__main__':
    common.run(main)
