#!/usr/bin/env python3
"""Look at embeddings: ranked images, curves of scores, TensorBoard's projector.

    python visualize.py --excluder market1501 \\
        --query_dataset data/market1501_query.csv \\
        --query_embeddings ~/exp/trinet/market1501_query_embeddings.h5 \\
        --gallery_dataset data/market1501_test.csv \\
        --gallery_embeddings ~/exp/trinet/market1501_test_embeddings.h5 \\
        --image_root ~/Market-1501-v15.09.15 --filename ranking.html

writes queries beside the gallery images nearest to them. Matches have a green border,
others a red one. A page (.html) holds all its images in itself. It has the queries of
the lowest average precision (scikit-learn's) first, with distance, PID and camera of
each image, shows greyed what the excluder ignores, and the nearest match where it comes
late, and finds every query by its PID. A picture (.png) has a few queries from the
worst to the best, and leaves out what is ignored.

A query whose PID the gallery lacks, such as `unknown`, is ranked too, without borders:
with --order unmatched, with --pid, or where no query has a match.

    python visualize.py curves a.json b.json --output_dir pictures
    python visualize.py projector --dataset data/market1501_query.csv ...

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


class Default(typing.NamedTuple):
    """What is shown unless flags say otherwise.

    Attributes:
        num_queries: how many queries, at most.
        order: one of ranked_queries.ORDER_CHOICES.
    """

    num_queries: int
    order: str


# A page is scrolled and filtered, a picture is seen at a glance.
DEFAULTS = {'.html': Default(100, 'worst'), '.png': Default(8, 'spread')}

CURVES = """Draw the scores of one or several evaluations.

    python visualize.py curves a.json b.json --labels ours theirs \\
        --output_dir pictures

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
    flags.add_protocol_flags(parser)
    flags.add_rerank_flags(parser)
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
        '--pid',
        nargs='+',
        metavar='PID',
        help='Show queries of these PIDs only (default: of all).',
    )
    output.add_argument(
        '--order',
        choices=ranked_queries.ORDER_CHOICES,
        help='Of the queries sorted by average precision, show the first (worst), or '
        'some in equal steps from the worst to the best (spread); or show those '
        'without any match (unmatched), which the others leave out unless there is '
        'nothing else (default: worst on a page, spread in a picture).',
    )
    output.add_argument(
        '--num_queries',
        type=common.positive_int,
        help=f'Queries to show (default: {DEFAULTS[".html"].num_queries} on a page, '
        f'{DEFAULTS[".png"].num_queries} in a picture). A page takes about 60 kB for '
        'each.',
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
    datasets.add_outside_flag(group)
    datasets.add_header_flag(group)


def page_or_picture(text):
    """argparse type: the path of an HTML or PNG file to write."""
    filename = common.path(text)
    if extension_of(filename) not in DEFAULTS:
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
    query, gallery, task, notes, _ = flags.load(args)
    for note in notes:
        print(note, file=sys.stderr)
    for name, dataset in zip(
        (args.query_dataset, args.gallery_dataset), (query, gallery), strict=True
    ):
        datasets.check_inside(
            name, dataset.fids, args.image_root, args.allow_outside_image_root
        )
    candidates = find_queries(query.pids, args.pid)
    ranks = ranking.rank(*task)
    aps = ranked_queries.find_average_precisions(ranks)
    warn_of_unmatched(aps[candidates])
    images = ranked_queries.RankedImages(
        query,
        gallery,
        excluders.find_cameras(args.excluder, query),
        excluders.find_cameras(args.excluder, gallery),
        args.image_root,
    )
    sets = f'{name_file(args.query_dataset)} in {name_file(args.gallery_dataset)}'
    for filename in args.filename:
        kind = extension_of(filename)
        order = args.order or DEFAULTS[kind].order
        num_queries = args.num_queries or DEFAULTS[kind].num_queries
        rows = ranked_queries.choose_queries(aps, candidates, num_queries, order)
        ranked = ranked_queries.rank_queries(rows, aps, task, args.top_k)
        count = count_queries(aps, candidates, rows, order, args.pid)
        if kind == '.html':
            others = ranked_queries.score_others(rows, aps, ranks, task)
            has_unknown = not set(query.pids[rows]) <= set(gallery.pids)
            signs = explain_signs(name_distance(args), args.excluder, has_unknown)
            summary = [count, signs, *explain_pools(args.pool, args.multi_query)]
            write_page(filename, sets, summary, ranked, images, others)
        else:
            title = f'{sets}: {count} Nearest first by {name_distance(args)} distance.'
            write_picture(filename, ranked, images, args.top_k, title)
        if not args.quiet:
            print(f'{filename}: {len(rows)} of {len(query.fids)} queries')


def find_queries(query_pids, pids):
    """Return the rows of the queries of some PIDs, int64 [n]; None: of all.

    Raises:
        ValueError: no query has one of the PIDs.
    """
    if pids is None:
        return np.arange(len(query_pids))
    rows_of_pid = datasets.group_rows(query_pids)
    missing = [pid for pid in pids if pid not in rows_of_pid]
    if missing:
        raise common.InputError(
            f'--pid: {len(missing)} of {len(pids)} PIDs are of no query (first: '
            f'{missing[0]}){common.suggest(missing[0], rows_of_pid)}'
        )
    return np.sort(np.concatenate([rows_of_pid[pid] for pid in dict.fromkeys(pids)]))


def warn_of_unmatched(aps):
    """Say on stderr if no query has a match, [n] average precisions, NaN: none."""
    if np.isnan(aps).all():
        print(
            f'none of the {len(aps)} queries has a match in the gallery: shown without '
            'average precision. If they should have one, check that query set, gallery '
            'and excluder belong together',
            file=sys.stderr,
        )


def name_distance(args):
    """Return the name of the distance that the flags ask for."""
    return f're-ranked {args.metric}' if args.rerank else args.metric


def count_queries(aps, candidates, rows, order, pids):
    """Return the sentences that say which queries are shown.

    Args:
        aps: float64 [Q], average precisions; NaN without a match.
        candidates: int64 [n], rows of the queries that were to choose from.
        rows: int64 [shown], those chosen.
        order: one of ranked_queries.ORDER_CHOICES.
        pids: that were asked for, or None.
    """
    of_pids = f' of PID {", ".join(pids)}' if pids else ''
    sentence = f'{len(rows)} of {len(candidates)} queries{of_pids}'
    unmatched = np.count_nonzero(np.isnan(aps[candidates]))
    if np.isnan(aps[rows]).all():
        sentence += ': those without any match, in the order of the CSV.'
    else:
        words = {'worst': 'worst first', 'spread': 'in equal steps from worst to best'}
        sentence += f', {words[order]} by average precision.'
        if unmatched:
            sentence += (
                f' {unmatched} without any match are left out; --order unmatched '
                'shows them.'
            )
    if np.isnan(aps).all():
        return sentence
    return f'{sentence} mAP of all: {np.nanmean(aps):.2%}.'


def explain_signs(distance, excluder, has_unknown):
    """Return the paragraph that says what colours and signs of a page mean.

    Args:
        distance: its name.
        excluder: name of the excluder.
        has_unknown: whether the gallery lacks the PID of a query on the page.
    """
    neither = ' Neither: the gallery lacks the PID of the query.' if has_unknown else ''
    return (
        f'Nearest first by {distance} distance. Green ✓: same PID; red ✗: another.'
        f'{neither} Grey: ignored by the excluder {excluder}, without a rank. '
        'After …: the nearest match.'
    )


def explain_pools(pool, multi_query):
    """Return the paragraphs that say what an image stands for, if for several.

    Args:
        pool: how frames were pooled, or None.
        multi_query: how queries were pooled, or None.
    """
    texts = []
    if pool:
        texts.append(f'An image stands for its tracklet, the {pool} of all frames.')
    if multi_query:
        texts.append(
            f'A query stands for all of its PID and camera, the {multi_query} of them.'
        )
    return texts


def write_page(filename, title, summary, ranked, images, others):
    """Write the HTML file."""
    with (
        common.complete_file(filename) as temporary,
        open(temporary, 'w', encoding='utf-8') as file,
    ):
        ranking_page.write(file, title, summary, ranked, images, others)


def write_picture(filename, ranked, images, top_k, title):
    """Write the PNG file."""
    figure = ranking_figure.draw(list(ranked), images, top_k, title)
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
    for note in embedding_files.describe_skipped(args.dataset, dataset):
        print(note, file=sys.stderr)
    datasets.check_inside(
        args.dataset, dataset.fids, args.image_root, args.allow_outside_image_root
    )
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
