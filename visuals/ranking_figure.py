"""Rankings as one picture: a row per query, then what it finds, nearest first."""

import re

import numpy as np

from visuals import thumbnails

CELL_WIDTH = 1.1  # Inches; a picture ten images wide then fits a screen.
DOTS_PER_INCH = 110
BORDER_WIDTH = 3.5  # Points.
MATCH_COLOUR, WRONG_COLOUR = 'limegreen', 'red'

CAPTION_SIZE, TITLE_SIZE = 8, 10  # Points.
LINE_HEIGHT = 0.145  # Inches of a line of a caption.
LEGEND_WIDTH = 2.6  # Inches of an entry of the legend, at least.

POINTS_PER_INCH = 72

# Letters are drawn at whole pixels, so that a line comes out wider than its outlines.
SLACK = 0.95


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
    title = wrap(title, width, TITLE_SIZE)
    height = cells_height + LINE_HEIGHT * num_lines + 0.2 * (title.count('\n') + 1)
    handles = list_signs(ranked)
    num_columns = max(1, min(len(handles), int(width / LEGEND_WIDTH)))
    height += 0.2 * -(-len(handles) // num_columns) + 0.2
    figure = Figure(figsize=(width, height), layout='constrained')
    figure.suptitle(title, fontsize=TITLE_SIZE, parse_math=False)
    # One empty column, narrow, keeps the query apart from what it found.
    all_axes = figure.subplots(
        len(ranked), top_k + 2, squeeze=False, width_ratios=[1, 0.2] + [1] * top_k
    )
    for axes in all_axes.flat:
        axes.axis('off')
    for axes_of_row, one, image, texts in zip(
        all_axes, ranked, query_images, captions, strict=True
    ):
        draw_image(axes_of_row[0], image, 'black', texts[0])
        draw_gallery(axes_of_row[2:], one, images, texts[1:])
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=num_columns,
        fontsize=CAPTION_SIZE,
        frameon=False,
    )
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
    captions = [f'{wrap(query_pid, CELL_WIDTH, CAPTION_SIZE)}\n{state}']
    for place in find_shown(one, top_k):
        pid = images.gallery.pids[one.gallery_rows[place]]
        # In black and white, the sign says what the border says in colour.
        sign = ('✓ ' if pid == query_pid else '✗ ') if one.is_known else ''
        name = wrap(pid, CELL_WIDTH, CAPTION_SIZE)
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


def list_signs(ranked):
    """Return the handles of the legend: what the borders mean that there are.

    Args:
        ranked: list of ranked_queries.RankedQuery.
    """
    from matplotlib.patches import Patch

    signs = [('black', 'query: PID, average precision')]
    if any(one.is_known for one in ranked):
        signs += [
            (MATCH_COLOUR, '✓ the same PID: PID, distance'),
            (WRONG_COLOUR, '✗ another PID: PID, distance'),
        ]
    if not all(one.is_known for one in ranked):
        signs.append(('none', 'no border: the gallery lacks the PID'))
    return [
        Patch(facecolor='none', edgecolor=colour, linewidth=2, label=text)
        for colour, text in signs
    ]


def wrap(text, width, size):
    """Return a text in lines of at most a width, broken after a separator if it can be.

    Args:
        text: one line.
        width: inches.
        size: of the letters, points.
    """
    lines = []
    while text:
        count = len(text)
        while count > 1 and measure(text[:count], size) > SLACK * width:
            count -= 1
        if count < len(text):
            ends = [found.end() for found in re.finditer(r'[\s_/.-]', text[:count])]
            count = ends[-1] if ends else count
        lines.append(text[:count].strip())
        text = text[count:].lstrip()
    return '\n'.join(lines)


def measure(text, size):
    """Return the width in inches of a text of letters of `size` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return width / POINTS_PER_INCH
