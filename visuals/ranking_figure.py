"""Rankings as one picture: a row per query, then what it finds, nearest first."""

import numpy as np

from visuals import thumbnails

CELL_WIDTH = 1.1  # Inches; a picture ten images wide then fits a screen.
DOTS_PER_INCH = 110
BORDER_WIDTH = 3.5  # Points.
MATCH_COLOUR, WRONG_COLOUR = 'limegreen', 'red'


def draw(ranked, images, top_k):
    """Return a matplotlib figure. What a query ignores is left out.

    Args:
        ranked: list of ranked_queries.RankedQuery.
        images: ranked_queries.RankedImages.
        top_k: gallery images in a row.
    """
    # Imported here because matplotlib's second would triple the time of --help. A
    # bare Figure, unlike pyplot, needs no display and keeps no global state.
    from matplotlib.figure import Figure

    query = images.query
    query_images = [
        thumbnails.read_image(images.image_root, query.fids[one.row]) for one in ranked
    ]
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
        draw_gallery(axes_of_row[2:], one, images)
    return figure


def draw_gallery(axes_of_row, one, images):
    """Draw the images nearest to one query, matches in green, others in red."""
    query_pid = images.query.pids[one.row]
    # Axes are top_k; what a RankedQuery has beyond that is for the page alone.
    counted = np.flatnonzero(one.ranks)[: len(axes_of_row)]
    for axes, place in zip(axes_of_row, counted, strict=False):
        row = one.gallery_rows[place]
        is_match = images.gallery.pids[row] == query_pid
        image = thumbnails.read_image(images.image_root, images.gallery.fids[row])
        colour = MATCH_COLOUR if is_match else WRONG_COLOUR
        draw_image(axes, image, colour, f'{one.dists[place]:#.4g}')


def draw_image(axes, image, colour, caption):
    """Draw an image with a border in `colour` and a caption below it."""
    axes.axis('on')
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    # Of a name such as $1$, the dollars are no formula.
    axes.set_xlabel(caption, fontsize=8, labelpad=3, parse_math=False)
    axes.spines[:].set(color=colour, linewidth=BORDER_WIDTH)
