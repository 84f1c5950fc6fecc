"""Texts in pictures: how wide they are, lines that fit, legends that do."""

import bisect
import re

POINTS_PER_INCH = 72

# Letters are drawn at whole pixels, so that a line comes out wider than its outlines.
SLACK = 0.95

# Inches of a legend: its line, the sample and gaps beside a text, its own margins.
LEGEND_LINE, LEGEND_SAMPLE, LEGEND_MARGIN = 0.2, 0.65, 0.2


def measure(text, size):
    """Return the width in inches of a line of letters of `size` points."""
    # Imported here because matplotlib's second would triple the time of --help.
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return width / POINTS_PER_INCH / SLACK


def wrap(text, width, size):
    """Return a text in lines of at most a width, broken after a separator if it can be.

    Args:
        text: one line.
        width: inches.
        size: of the letters, points.
    """
    lines = []
    while text:
        # Of its beginnings, each longer than the one before, as many as fit.
        lengths = range(1, len(text) + 1)
        count = bisect.bisect(lengths, width, key=lambda n: measure(text[:n], size))
        count = max(1, count)
        if count < len(text):
            ends = [found.end() for found in re.finditer(r'[\s_/.-]', text[:count])]
            count = ends[-1] if ends else count
        lines.append(text[:count].strip())
        text = text[count:].lstrip()
    return '\n'.join(lines)


def escape(text):
    """Return a text of which matplotlib makes no formula."""
    return text.replace('$', r'\$')


def add_legend(figure, handles, labels, size):
    """Add a legend below everything else, for which the figure grows.

    Wherever else it were, it might hide a curve.

    Args:
        figure: of matplotlib, with layout 'constrained'.
        handles: list [n] of lines or patches, what a label stands beside.
        labels: list [n] of str, a line each.
        size: of the letters, points.
    """
    width, height = figure.get_size_inches()
    room = width - LEGEND_MARGIN
    wrapped = [wrap(label, room - LEGEND_SAMPLE, size) for label in labels]
    widest = max(measure(line, size) for text in wrapped for line in text.split('\n'))
    num_columns = int(room / (widest + LEGEND_SAMPLE))
    num_columns = max(1, min(num_columns, len(handles)))
    most_lines = max(text.count('\n') + 1 for text in wrapped)
    num_lines = most_lines * -(-len(handles) // num_columns)
    height += LEGEND_LINE * num_lines * size / 10 + LEGEND_MARGIN
    figure.set_size_inches(width, height)
    figure.legend(
        handles,
        [escape(text) for text in wrapped],
        loc='outside lower center',
        ncols=num_columns,
        fontsize=size,
        frameon=False,
    )
