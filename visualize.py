#!/usr/bin/env python3
"""Draw queries beside the gallery images nearest to them, as one picture.

    python visualize.py --excluder market1501 \\
        --query_dataset data/market1501_query.csv \\
        --query_embeddings ~/exp/trinet/market1501_query_embeddings.h5 \\
        --gallery_dataset data/market1501_test.csv \\
        --gallery_embeddings ~/exp/trinet/market1501_test_embeddings.h5 \\
        --image_root ~/Market-1501-v15.09.15 --filename ranking.png

A row is a query, then its nearest gallery images, nearest first: in green those of the
same identity, in red the others, each with its distance. What the excluder ignores is
left out. From top to bottom the queries go from the worst to the best, in equal steps
of the list of all queries sorted by average precision (scikit-learn's), so that the
picture is neither a collection of failures nor of successes. Queries without any match
in the gallery have no average precision and are not drawn.
"""

import importlib
import os
import typing

import cv2
import numpy as np

import common
import embeddings
import ranking

CELL_WIDTH = 1.1  # Inches; a picture ten images wide then fits a screen.
DOTS_PER_INCH = 110
BORDER_WIDTH = 3.5  # Points.
MATCH_COLOUR, WRONG_COLOUR = 'limegreen', 'red'


class RankedQuery(typing.NamedTuple):
    """A query and the gallery images nearest to it.

    Attributes:
        row: row of the query in its data set.
        average_precision: in 0..1.
        gallery_rows: int64 [k], nearest first, none ignored.
        dists: float32 [k], their distances to the query.
    """

    row: int
    average_precision: float
    gallery_rows: np.ndarray
    dists: np.ndarray


def build_parser():
    """Return the argument parser."""
    parser = common.new_parser(__doc__)
    embeddings.add_flags(parser)
    output = parser.add_argument_group('picture')
    output.add_argument(
        '--image_root',
        required=True,
        type=common.readable_directory,
        help='Directory that the fids of both sets are relative to.',
    )
    output.add_argument(
        '--filename',
        required=True,
        type=common.path,
        metavar='PNG',
        help='Picture to write.',
    )
    output.add_argument(
        '--num_queries',
        type=common.positive_int,
        default=8,
        help='Rows of the picture.',
    )
    output.add_argument(
        '--top_k',
        type=common.positive_int,
        default=10,
        help='Gallery images in a row.',
    )
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    query, gallery = embeddings.load_pair(
        args.query_dataset,
        args.query_embeddings,
        args.gallery_dataset,
        args.gallery_embeddings,
    )
    excluder_module = importlib.import_module(f'excluders.{args.excluder}')
    excluder = excluder_module.Excluder(gallery.fids)
    ranks = ranking.rank_all(
        query.embs,
        gallery.embs,
        query.pids,
        gallery.pids,
        lambda rows: excluder(query.fids[rows]),
        args.metric,
        args.batch_size,
    )
    rows, aps = choose_queries(ranks, args.num_queries)
    dists = ranking.compute_distances(query.embs[rows], gallery.embs, args.metric)
    nearest = find_nearest(dists, excluder(query.fids[rows]), args.top_k)
    ranked = [RankedQuery(*fields) for fields in zip(rows, aps, *nearest, strict=True)]
    figure = draw_rankings(ranked, query, gallery, args.image_root, args.top_k)
    with common.complete_file(args.filename) as temporary:
        figure.savefig(temporary, format='png', dpi=DOTS_PER_INCH)
    print(f'{args.filename}: {len(ranked)} of {len(query.fids)} queries')


def choose_queries(ranks, num_queries):
    """Return queries in equal steps from the worst to the best average precision.

    Args:
        ranks: list [Q] of ranking.MatchRanks.
        num_queries: how many to choose, at most.

    Returns:
        (rows, aps): int64 [n] rows of the queries; float64 [n], ascending.

    Raises:
        ValueError: no query has a match.
    """
    ranking.check_any_match(ranks)
    matched = np.array([row for row, r in enumerate(ranks) if len(r.ranks)], np.int64)
    aps = np.array([ranking.step_average_precision(ranks[row]) for row in matched])
    order = np.argsort(aps, kind='stable')
    num_queries = min(num_queries, len(order))
    chosen = order[np.linspace(0, len(order) - 1, num_queries).astype(np.int64)]
    return matched[chosen], aps[chosen]


def find_nearest(dists, is_ignored, top_k):
    """Return the nearest gallery images of each query.

    Args:
        dists: float32 [Q, G].
        is_ignored: bool [Q, G].
        top_k: how many, at most.

    Returns:
        (gallery_rows, dists), lists [Q] of int64 [k] and float32 [k], nearest first.
        k is smaller than top_k where fewer than top_k images are left.
    """
    gallery_rows = []
    for row_dists, row_is_ignored in zip(dists, is_ignored, strict=True):
        kept = np.flatnonzero(~row_is_ignored)
        gallery_rows.append(kept[np.argsort(row_dists[kept], kind='stable')[:top_k]])
    nearest_dists = [dists[q, rows] for q, rows in enumerate(gallery_rows)]
    return gallery_rows, nearest_dists


def draw_rankings(ranked, query, gallery, image_root, top_k):
    """Return a matplotlib figure with a row per query, as the module's text says.

    Args:
        ranked: list of RankedQuery.
        query: embeddings.EmbeddedDataset.
        gallery: embeddings.EmbeddedDataset.
        image_root: directory that the fids are relative to.
        top_k: gallery images in a row.
    """
    # Imported here because matplotlib's second would triple the time of --help. A
    # bare Figure, unlike pyplot, needs no display and keeps no global state.
    from matplotlib.figure import Figure

    query_images = [read_image(image_root, query.fids[r.row]) for r in ranked]
    # Cells get the shape of the median query, plus room for a line of text.
    aspect = np.median([image.shape[0] / image.shape[1] for image in query_images])
    cell_height = CELL_WIDTH * float(aspect) + 0.35
    figure = Figure(
        figsize=(CELL_WIDTH * (top_k + 1.4), cell_height * len(ranked)),
        layout='constrained',
    )
    # One empty column, narrow, keeps the query apart from what it found.
    all_axes = figure.subplots(
        len(ranked), top_k + 2, squeeze=False, width_ratios=[1, 0.2] + [1] * top_k
    )
    for axes in all_axes.flat:
        axes.axis('off')
    for axes_of_row, one, image in zip(all_axes, ranked, query_images, strict=True):
        caption = f'{query.pids[one.row]}   AP {one.average_precision:.0%}'
        draw_image(axes_of_row[0], image, 'black', caption)
        draw_gallery(axes_of_row[2:], one, query.pids[one.row], gallery, image_root)
    return figure


def draw_gallery(axes_of_row, ranked_query, query_pid, gallery, image_root):
    """Draw the nearest gallery images of one query, matches in green, others in red."""
    nearest = zip(ranked_query.gallery_rows, ranked_query.dists, strict=True)
    for axes, (row, dist) in zip(axes_of_row, nearest, strict=False):
        colour = MATCH_COLOUR if gallery.pids[row] == query_pid else WRONG_COLOUR
        draw_image(
            axes, read_image(image_root, gallery.fids[row]), colour, f'{dist:#.4g}'
        )


def draw_image(axes, image, colour, caption):
    """Draw an image with a border in `colour` and a caption below it."""
    axes.axis('on')
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(caption, fontsize=8, labelpad=3)
    axes.spines[:].set(color=colour, linewidth=BORDER_WIDTH)


def read_image(image_root, fid):
    """Return an image as uint8 RGB [H, W, 3].

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it cannot be decoded.
    """
    filename = os.path.join(image_root, fid)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'{filename} is missing; check --image_root')
    # Through a buffer: imread would add OpenCV's own complaint on stderr.
    content = np.fromfile(filename, np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if image is None:
        raise ValueError(f'{filename} is not an image that OpenCV can decode')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


if __name__ == '__main__':
    common.run(main)
