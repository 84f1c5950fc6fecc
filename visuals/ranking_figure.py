"""Rankings as one picture: a row per query, then what it finds, nearest first."""

import typing

import numpy as np

from visuals import texts, thumbnails

CELL_WIDTH = 1.1  # Inches; a picture ten images wide then fits a screen.
DOTS_PER_INCH = 110
BORDER_WIDTH = 3.5  # Points.
MATCH_COLOUR, WRONG_COLOUR = 'limegreen', 'red'

CAPTION_SIZE, TITLE_SIZE = 8, 10  # Points.
LINE_HEIGHT = 0.145  # Inches of a line of a caption.


class Cell(typing.NamedTuple):
    """An image of the picture.

    Attributes:
        pixels: uint8 RGB [H, W, 3].
        colour: of its border, or 'none'.
        caption: below it, lines that fit CELL_WIDTH.
    """

    pixels: np.ndarray
    colour: str
    caption: str


def draw(ranked, images, top_k, title):
    """Return a matplotlib figure. What a query ignores is left out.

    Args:
        ranked: list of ranked_queries.RankedQuery.
        images: ranked_queries.RankedImages.
        top_k: gallery images in a row.
        title: above the picture.
    """
    rows = []
    for one in ranked:
        query, *captions = caption_row(one, images, top_k)
        pixels = thumbnails.read_image(images.image_root, images.query.fids[one.row])
        rows.append([Cell(pixels, 'black', query), *list_cells(one, images, captions)])
    return draw_rows(rows, top_k, title, explain_signs(ranked))


def draw_rows(rows, num_columns, title, signs):
    """Return a matplotlib figure of queries, each beside what it found.

    Args:
        rows: lists of Cell, the first of each a query.
        num_columns: images beside a query, at most.
        title: above the picture.
        signs: {text: colour of a border}, the legend.
    """
    # Imported here because matplotlib's second would triple the time of --help. A
    # bare Figure, unlike pyplot, needs no display and keeps no global state.
    from matplotlib.figure import Figure

    # Cells get the shape of the median query, and each row room for its captions.
    aspect = np.median(
        [row[0].pixels.shape[0] / row[0].pixels.shape[1] for row in rows]
    )
    num_lines = sum(max(cell.caption.count('\n') + 1 for cell in row) for row in rows)
    cells_height = len(rows) * (CELL_WIDTH * float(aspect) + 0.2)
    width = CELL_WIDTH * (num_columns + 1.4)
    title = texts.wrap(title, width, TITLE_SIZE)
    height = cells_height + LINE_HEIGHT * num_lines + 0.2 * (title.count('\n') + 1)
    figure = Figure(figsize=(width, height), layout='constrained')
    figure.suptitle(title, fontsize=TITLE_SIZE, parse_math=False)
    # One empty column, narrow, keeps the query apart from what it found.
    all_axes = figure.subplots(
        len(rows),
        num_columns + 2,
        squeeze=False,
        width_ratios=[1, 0.2] + [1] * num_columns,
    )
    for axes in all_axes.flat:
        axes.axis('off')
    for axes_of_row, (query, *others) in zip(all_axes, rows, strict=True):
        draw_cell(axes_of_row[0], query)
        for axes, cell in zip(axes_of_row[2:], others, strict=False):
            draw_cell(axes, cell)
    add_legend(figure, signs)
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


def list_cells(one, images, captions):
    """Return the Cells nearest to one query, matches in green, others in red.

    Args:
        one: ranked_queries.RankedQuery.
        images: ranked_queries.RankedImages.
        captions: list of str, of those that are shown.
    """
    query_pid = images.query.pids[one.row]
    cells = []
    shown = find_shown(one, len(captions))
    for place, caption in zip(shown, captions, strict=True):
        row = one.gallery_rows[place]
        pixels = thumbnails.read_image(images.image_root, images.gallery.fids[row])
        colour = choose_colour(one.is_known, images.gallery.pids[row] == query_pid)
        cells.append(Cell(pixels, colour, caption))
    return cells


def draw_cell(axes, cell):
    """Draw a Cell with its border, and its caption below it."""
    axes.axis('on')
    axes.imshow(cell.pixels)
    axes.set(xticks=[], yticks=[])
    # Of a name such as $1$, the dollars are no formula.
    axes.set_xlabel(cell.caption, fontsize=CAPTION_SIZE, labelpad=3, parse_math=False)
    axes.spines[:].set(color=cell.colour, linewidth=BORDER_WIDTH)


def explain_signs(ranked):
    """Return {what a border means: its colour} of the borders that there are.

    Args:
        ranked: list of ranked_queries.RankedQuery.
    """
    signs = {'query: PID, average precision': 'black'}
    if any(one.is_known for one in ranked):
        signs['✓ the same PID: PID, distance'] = MATCH_COLOUR
        signs['✗ another PID: PID, distance'] = WRONG_COLOUR
    if not all(one.is_known for one in ranked):
        signs['no border: the gallery lacks the PID'] = 'none'
    return signs


def add_legend(figure, signs):
    """Add to a figure what the borders mean, {text: colour}."""
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor='none', edgecolor=colour, linewidth=2)
        for colour in signs.values()
    ]
    texts.add_legend(figure, patches, list(signs), CAPTION_SIZE)
