"""Rankings as one picture: a row per query, then what it finds, nearest first."""

import numpy as np

from visuals import texts, thumbnails

CELL_WIDTH = 1.1  # Inches; a picture ten images wide then fits a screen.
DOTS_PER_INCH = 110
BORDER_WIDTH = 3.5  # Points.
MATCH_COLOUR, WRONG_COLOUR = 'limegreen', 'red'

CAPTION_SIZE, TITLE_SIZE = 8, 10  # Points.
LINE_HEIGHT = 0.145  # Inches of a line of a caption.


def draw(ranked, images, top_k, title):
    """Return a matplotlib figure. What a query ignores is left out.

    Args:
        ranked: list of ranked_queries.RankedQuery.
        images: ranked_queries.RankedImages.
        top_k: gallery images in a row.
        title: above the picture.
    """
    # Imported here because matplotlib's second would triple the time of --help. A
    # bare Figure, unlike pyplot, needs no display and keeps no global state.
    from matplotlib.figure import Figure

    query_images = [
        thumbnails.read_image(images.image_root, images.query.fids[one.row])
        for one in ranked
    ]
    captions = [caption_row(one, images, top_k) for one in ranked]
    # Cells get the shape of the median query, and each row room for its captions.
    aspect = np.median([image.shape[0] / image.shape[1] for image in query_images])
    num_lines = sum(max(text.count('\n') + 1 for text in row) for row in captions)
    cells_height = len(ranked) * (CELL_WIDTH * float(aspect) + 0.2)
    width = CELL_WIDTH * (top_k + 1.4)
    title = texts.wrap(title, width, TITLE_SIZE)
    height = cells_height + LINE_HEIGHT * num_lines + 0.2 * (title.count('\n') + 1)
    figure = Figure(figsize=(width, height), layout='constrained')
    figure.suptitle(title, fontsize=TITLE_SIZE, parse_math=False)
    # One empty column, narrow, keeps the query apart from what it found.
    all_axes = figure.subplots(
        len(ranked), top_k + 2, squeeze=False, width_ratios=[1, 0.2] + [1] * top_k
    )
    for axes in all_axes.flat:
        axes.axis('off')
    for axes_of_row, one, image, captions_of_row in zip(
        all_axes, ranked, query_images, captions, strict=True
    ):
        draw_image(axes_of_row[0], image, 'black', captions_of_row[0])
        draw_gallery(axes_of_row[2:], one, images, captions_of_row[1:])
    add_legend(figure, ranked)
    return figure


def find_shown(one, top_k):
    """Return the places in a RankedQuery of what a row shows: the top_k that count.

    What it has beyond that is for the page alone.
    """
    return np.flatnonzero(one.ranks)[:top_k]


def choose_colour(is_known, is_match):
    """Return the colour of a gallery image's border; 'none' if nobody knows."""
    if not is_known:
        return 'none'
    return MATCH_COLOUR if is_match else WRONG_COLOUR


def caption_row(one, images, top_k):
    """Return the captions of a query and of what it finds, list of str."""
    query_pid = images.query.pids[one.row]
    state = f'AP {one.average_precision:.0%}'
    if not one.num_matches:
        state = 'no match' if one.is_known else 'not in gallery'
    captions = [f'{texts.wrap(query_pid, CELL_WIDTH, CAPTION_SIZE)}\n{state}']
    for place in find_shown(one, top_k):
        pid = images.gallery.pids[one.gallery_rows[place]]
        # In black and white, the sign says what the border says in colour.
        sign = ('✓ ' if pid == query_pid else '✗ ') if one.is_known else ''
        name = texts.wrap(pid, CELL_WIDTH, CAPTION_SIZE)
        captions.append(f'{name}\n{sign}{one.dists[place]:#.4g}')
    return captions


def draw_gallery(axes_of_row, one, images, captions):
    """Draw the images nearest to one query, matches in green, others in red."""
    query_pid = images.query.pids[one.row]
    shown = find_shown(one, len(axes_of_row))
    for axes, place, caption in zip(axes_of_row, shown, captions, strict=False):
        row = one.gallery_rows[place]
        image = thumbnails.read_image(images.image_root, images.gallery.fids[row])
        colour = choose_colour(one.is_known, images.gallery.pids[row] == query_pid)
        draw_image(axes, image, colour, caption)


def draw_image(axes, image, colour, caption):
    """Draw an image with a border in `colour` and a caption below it."""
    axes.axis('on')
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    # Of a name such as $1$, the dollars are no formula.
    axes.set_xlabel(caption, fontsize=CAPTION_SIZE, labelpad=3, parse_math=False)
    axes.spines[:].set(color=colour, linewidth=BORDER_WIDTH)


def add_legend(figure, ranked):
    """Add to a figure what the borders mean that there are.

    Args:
        figure: of matplotlib.
        ranked: list of ranked_queries.RankedQuery.
    """
    from matplotlib.patches import Patch

    signs = {'query: PID, average precision': 'black'}
    if any(one.is_known for one in ranked):
        signs['✓ the same PID: PID, distance'] = MATCH_COLOUR
        signs['✗ another PID: PID, distance'] = WRONG_COLOUR
    if not all(one.is_known for one in ranked):
        signs['no border: the gallery lacks the PID'] = 'none'
    patches = [
        Patch(facecolor='none', edgecolor=colour, linewidth=2)
        for colour in signs.values()
    ]
    texts.add_legend(figure, patches, list(signs), CAPTION_SIZE)
