"""Curves of one or several evaluations: CMC, ROC, distances of pairs.

A drawing function takes {label: scores}, scores being the content of a JSON file of
evaluate.py, and returns a matplotlib figure.
"""

import numpy as np

import common
from visuals import texts

# The second line of a colour is dashed, and so on: ten colours come again.
LINE_STYLES = ('-', '--', ':', '-.')

# Distances are float32, or sums of some.
LARGEST, SMALLEST = (float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny))

# Below it, a false positive rate is made of few pairs and says little.
LOWEST_RATE = 1e-5

WIDTH = 6.4  # Inches.
TITLE_SIZE, LEGEND_SIZE = 12, 8  # Points.

SAME_COLOUR, DIFFERENT_COLOUR = 'tab:green', 'tab:red'


def read_scores(filename):
    """Return the content of a JSON file of evaluate.py.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file.
    """
    scores = common.read_object(filename, 'a JSON file of evaluate.py')
    if not is_drawable(scores):
        raise common.InputError(
            f'{filename} has no mAP and CMC, or an incomplete ROC or histogram; '
            'expected a JSON file of evaluate.py'
        )
    return scores


def is_drawable(scores):
    """Return whether scores have mAP, CMC and no half of what is drawn besides."""
    try:
        to_shares([scores['mAP']])
        lengths = [(len(to_shares(scores['CMC'])),)]
        if 'roc' in scores:
            roc = scores['roc']
            lengths.append(tuple(len(to_shares(roc[name])) for name in ('fpr', 'tpr')))
        if 'equal_error_rate' in scores:
            to_shares([scores['equal_error_rate']])
        if 'distance_histogram' in scores:
            histogram = scores['distance_histogram']
            widths = np.diff(to_numbers(histogram['edges'], -LARGEST))
            counts = [to_numbers(histogram[kind]) for kind in ('same', 'different')]
            lengths.append((len(widths), *map(len, counts)))
            if not (widths > SMALLEST).all():
                return False
            for row in scores.get('thresholds', []):
                if row['rule'] == 'equal error rate':
                    to_shares([scores['equal_error_rate']])
                    to_numbers([row['threshold']], -LARGEST)
            name_distance(scores.get('args', {}))
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    # Each of something, and of as many as go with it.
    return all(min(group) > 0 and len(set(group)) == 1 for group in lengths)


def to_numbers(values, lowest=0, highest=LARGEST):
    """Return a list of numbers as float64 [n].

    Raises:
        ValueError: it is no such list, or one is not within the bounds; NaN never is.
    """
    is_list = isinstance(values, list)
    if not is_list or not all(type(value) in (int, float) for value in values):
        raise ValueError
    if not all(lowest <= value <= highest for value in values):
        raise ValueError
    return np.array(values, float)


def to_shares(values):
    """Return a list of numbers from 0 to 1 as float64 [n]; see to_numbers."""
    return to_numbers(values, 0, 1)


def new_figure(height):
    """Return an empty matplotlib figure, `height` inches, that needs no screen."""
    # Imported here because matplotlib's second would triple the time of --help.
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout='constrained')


def line_style(number):
    """Return the look of the curve of a number, 0 = the first."""
    return {
        'color': f'C{number % 10}',
        'linestyle': LINE_STYLES[number // 10 % len(LINE_STYLES)],
    }


def draw_cmc(scores_of_label, max_rank):
    """Return the figure of the cumulative matching characteristics up to a rank."""
    figure = new_figure(4.4)
    axes = figure.subplots()
    for number, (label, scores) in enumerate(scores_of_label.items()):
        cmc = 100 * np.array(scores['CMC'][:max_rank])
        text = f'{label}: mAP {scores["mAP"]:.1%}, top-1 {cmc[0]:.1f}%'
        ranks = np.arange(1, len(cmc) + 1)
        # Dots where there are few ranks: one alone would be no line.
        marker = '.' if len(cmc) <= 20 else None
        axes.plot(ranks, cmc, label=text, marker=marker, **line_style(number))
    axes.set(xlabel='rank k', ylabel='queries with a match among the k nearest (%)')
    axes.set_xlim(left=1)
    axes.set_xticks(choose_ticks(max(len(line.get_xdata()) for line in axes.lines)))
    axes.set_ylim(top=100.5)
    finish(figure)
    return figure


def choose_ticks(last):
    """Return the ranks to mark on an axis of 1 .. last: 1, and about ten round ones."""
    power = 10 ** (len(str(last)) - 1)
    steps = [factor * power // 10 for factor in (1, 2, 5, 10)]
    step = next(step for step in steps if step and last // step <= 10)
    return sorted({1, *range(step, last + 1, step)})


def draw_roc(scores_of_label):
    """Return the figure of the ROC of "same identity?", false positives on a log axis.

    Of a pair, the answer is yes if its distance is below a threshold.
    """
    figure = new_figure(4.4)
    axes = figure.subplots()
    lowest = 0.5  # An axis from 1 to 1 is none.
    for number, (label, scores) in enumerate(scores_of_label.items()):
        fpr, tpr = (np.array(scores['roc'][name]) for name in ('fpr', 'tpr'))
        # Without rounding a log axis cannot show 0.
        lowest = min(lowest, fpr[fpr > 0].min(initial=1.0))
        text = label
        if 'equal_error_rate' in scores:
            text += f': equal error rate {scores["equal_error_rate"]:.2%}'
        axes.plot(100 * fpr, 100 * tpr, label=text, **line_style(number))
    axes.set_xscale('log')
    axes.set_xlim(100 * max(lowest, LOWEST_RATE), 100)
    axes.set_ylim(0, 101)
    axes.set(
        xlabel='pairs of different identities taken for the same (%)',
        ylabel='pairs of the same identity recognised (%)',
    )
    finish(figure)
    return figure


def draw_distances(scores_of_label):
    """Return the figure of the distances of pairs of the same and of different PIDs.

    A panel for each evaluation, since distances of different networks and metrics do
    not share a scale. Both distributions have area 1, however many pairs they are of.
    """
    figure = new_figure(1.0 + 2.4 * len(scores_of_label))
    all_axes = figure.subplots(len(scores_of_label), squeeze=False)[:, 0]
    for axes, (label, scores) in zip(all_axes, scores_of_label.items(), strict=True):
        histogram = scores['distance_histogram']
        edges = np.array(histogram['edges'], float)
        for kind, colour in (('same', SAME_COLOUR), ('different', DIFFERENT_COLOUR)):
            counts = np.array(histogram[kind], float)
            density = counts / max(counts.sum(), 1) / np.diff(edges)
            text = f'{kind} identity, {int(counts.sum()):,} pairs'
            axes.stairs(density, edges, fill=True, alpha=0.4, color=colour, label=text)
            axes.stairs(density, edges, color=colour)
        draw_equal_error(axes, scores)
        axes.set_title(texts.wrap(label, WIDTH - 0.4, TITLE_SIZE), parse_math=False)
        axes.title.set_fontsize(TITLE_SIZE)
        axes.set(xlabel=name_distance(scores.get('args', {})), ylabel='density')
        axes.set_yticks([])
        axes.margins(y=0.5)  # Room for the legend.
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(loc='upper right', fontsize='small')
    return figure


def draw_equal_error(axes, scores):
    """Draw the threshold where both kinds of error are equally frequent, if known."""
    for row in scores.get('thresholds', []):
        if row['rule'] == 'equal error rate':
            text = f'equal error rate {scores["equal_error_rate"]:.2%}'
            axes.axvline(row['threshold'], color='gray', linestyle='--', label=text)


def name_distance(args):
    """Return what the flags of evaluate.py say about the distances."""
    if args.get('rerank'):
        return 're-ranked distance'
    return f'{args["metric"]} distance' if 'metric' in args else 'distance'


def finish(figure):
    """Add a grid, and a legend below."""
    (axes,) = figure.axes
    axes.grid(alpha=0.3)
    lines = axes.get_lines()
    texts.add_legend(figure, lines, [line.get_label() for line in lines], LEGEND_SIZE)
