#!/usr/bin/env python3
"""Plot the curves that tell whether a training run is healthy.

    python plot.py ~/exp/market ~/exp/other --filename healthy_run.png

Reads the TensorBoard events of one or several experiment roots. Writes one PNG: loss,
retrieval within the batch, active anchors, learning rate, distances of positive and
negative pairs, lengths of the embeddings; and the scores of validation, if a run has
them. A run has one colour everywhere. A curve that a run lacks is left out and named.
Thin lines are single iterations, thick ones their running mean; of the histograms, the
median and the middle 80 %.
"""

import os
import sys
import typing

import numpy as np

import common
from visuals import texts

# Iterations that the thick lines average, at most a tenth of the run.
SMOOTHING = 50

# The middle 80 % of a distribution: little enough to leave out its rare extremes.
QUANTILES = (0.1, 0.5, 0.9)

# What train.py writes are float32, and a histogram has 30 buckets; TensorFlow 1's have
# up to 1550.
LARGEST = np.finfo(np.float32).max
MOST_BUCKETS = 10**5

# Of the curves of a panel.
LINE_STYLES = ('-', '--')

# What a run of train.py has; validation only where it was asked for.
CURVES = (
    'loss',
    'batch_top1',
    'batch_prec_at_',  # Its K follows.
    'active_count',
    'learning_rate',
    'embedding_pos_dists',
    'embedding_neg_dists',
    'embedding_lengths',
)
VALIDATION = ('val/mAP', 'val/top1')


class Curve(typing.NamedTuple):
    """What a run wrote under one tag.

    Attributes:
        steps: [T], ascending.
        values: [T] of a scalar; of a histogram [T, buckets, 3]: left and right edge
            and count.
    """

    steps: np.ndarray
    values: np.ndarray


class Panel(typing.NamedTuple):
    """One of the coordinate systems of the picture.

    Attributes:
        title: above it.
        draw: function of axes, {tag: Curve}, tags and the colour of the run.
        tags: of the curves in it, the second dashed; those that a run lacks are left
            out.
    """

    title: str
    draw: typing.Callable
    tags: typing.Sequence[str]


def build_parser():
    """Return the parser of plot.py's flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument(
        'experiments',
        nargs='+',
        metavar='EXPERIMENT',
        type=common.readable_directory,
        help='Experiment roots of train.py.',
    )
    parser.add_argument(
        '--filename',
        default='training.png',
        type=common.path,
        help='The PNG to write.',
    )
    common.add_quiet(parser)
    return parser


def read_events(experiment_root):
    """Return {tag: Curve} of the scalars and histograms in a directory's events.

    Pictures, and whatever else there is, are not read. Events of TensorFlow 1, as the
    original and `train.py` write scalars, and of TensorFlow 2 are the same here.

    Raises:
        FileNotFoundError: there are no events.
        InputError: there are, but none of train.py's curves, or damaged ones.
    """
    # Here, not above: it imports TensorFlow, which --help need not wait for.
    from google.protobuf import message
    from tensorboard.backend.event_processing import plugin_event_accumulator

    events = plugin_event_accumulator.EventAccumulator(
        experiment_root, size_guidance={plugin_event_accumulator.TENSORS: 0}
    )
    try:
        with np.errstate(over='ignore'):  # What then is infinite is left out.
            events.Reload()
    # TensorBoard reads what any program may have written.
    except (message.DecodeError, ValueError, TypeError, RuntimeError) as error:
        raise common.InputError(
            f'the TensorBoard events in {experiment_root} are damaged ({error}); '
            'restore them, or move the damaged file away'
        ) from error
    tags = events.Tags()['tensors']
    if not tags:
        raise common.MissingFileError(
            f'no TensorBoard events in {experiment_root}; expected an experiment root '
            'of train.py'
        )
    curves = {}
    for tag, metadata in events.AllSummaryMetadata().items():
        kind = metadata.plugin_data.plugin_name
        if tag in tags and kind in ('scalars', 'histograms'):
            curve = read_tag(events.Tensors(tag), kind == 'histograms')
            if len(curve.steps):
                curves[tag] = curve
    if not set(curves) & set(CURVES):
        raise common.InputError(
            f'none of the curves of train.py is among the TensorBoard events in '
            f'{experiment_root} (first: {min(tags)}); expected an '
            'experiment root of train.py'
        )
    return curves


def read_tag(events, is_histogram):
    """Return the Curve of a tag's events.

    What a resumed run did again replaces what the interrupted one had done. Values that
    cannot be drawn are left out: of another kind, not finite, of nothing.

    Args:
        events: in the order in which they were written; clocks may be wrong.
        is_histogram: whether they are histograms.
    """
    by_step = {}
    for event in events:
        value = read_value(event.tensor_proto, is_histogram)
        if value is not None:
            by_step[event.step] = value
    steps = sorted(by_step)
    values = [by_step[step] for step in steps]
    if is_histogram and steps:
        # TensorFlow 1's histograms have as many buckets as they need.
        most = max(map(len, values))
        values = [np.pad(v, ((0, most - len(v)), (0, 0)), 'edge') for v in values]
        for histogram, step in zip(values, steps, strict=True):
            histogram[len(by_step[step]) :, 2] = 0
    return Curve(np.array(steps), np.array(values))


def read_value(proto, is_histogram):
    """Return the array of an event, or None if it cannot be drawn.

    Args:
        proto: TensorProto.
        is_histogram: whether it is to be [buckets, 3] and not a number.
    """
    from tensorboard.util import tensor_util

    shape = [dim.size for dim in proto.tensor_shape.dim]
    # Before the array is made: a few bytes can claim any number of them.
    if is_histogram:
        is_fine = len(shape) == 2 and 0 < shape[0] <= MOST_BUCKETS and shape[1] == 3
    else:
        is_fine = shape == []
    if not is_fine:
        return None
    try:
        value = tensor_util.make_ndarray(proto)
    except (ValueError, TypeError):
        return None
    if value.dtype.kind not in 'fiu' or not (np.abs(value) <= LARGEST).all():
        return None
    if is_histogram and not (np.all(value[:, 2] >= 0) and value[:, 2].sum() > 0):
        return None
    return value


def smooth(values):
    """Return the centred running mean of values [T], shorter at both ends."""
    half = min(SMOOTHING, len(values) // 10) // 2
    sums = np.cumsum(np.concatenate([[0.0], values]))
    places = np.arange(len(values))
    starts = np.maximum(places - half, 0)
    ends = np.minimum(places + half + 1, len(values))
    return (sums[ends] - sums[starts]) / (ends - starts)


def histogram_quantiles(histogram):
    """Return the QUANTILES of a histogram [buckets, 3] of left, right and count."""
    left, right, counts = histogram.T
    share = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    return np.interp(QUANTILES, share, np.append(left, right[-1]))


def draw_scalars(axes, events, tags, colour):
    """Draw the scalars `tags` of one run, each with its running mean."""
    for tag, style in zip(tags, LINE_STYLES, strict=False):
        if tag in events:
            steps, values = events[tag]
            axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.5)
            axes.plot(steps, smooth(values), style, color=colour)


def draw_points(axes, events, tags, colour):
    """Draw the scalars `tags` of one run as they are, with a dot at each."""
    for tag, style in zip(tags, LINE_STYLES, strict=False):
        if tag in events:
            axes.plot(*events[tag], style, marker='.', color=colour)


def draw_schedule(axes, events, tags, colour):
    """Draw the scalar of one tag as it is."""
    if tags[0] in events:
        axes.plot(*events[tags[0]], color=colour)


def draw_histograms(axes, events, tags, colour):
    """Draw median and middle 80 % of the histograms `tags` of one run."""
    for tag, style in zip(tags, LINE_STYLES, strict=False):
        if tag not in events:
            continue  # --histogram_frequency 0
        steps, histograms = events[tag]
        low, median, high = np.array([histogram_quantiles(h) for h in histograms]).T
        # A line of a single point would not be seen.
        marker = '.' if len(steps) == 1 else None
        axes.plot(steps, median, style, color=colour, marker=marker)
        axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)


def find_missing(events):
    """Return the names of the curves that a run lacks."""
    return [name for name in CURVES if not any(tag.startswith(name) for tag in events)]


def choose_panels(events):
    """Return the Panels for one run, {tag: Curve}."""
    precision = [tag for tag in events if tag.startswith('batch_prec_at_')]
    pairs = ['embedding_pos_dists', 'embedding_neg_dists']
    return [
        Panel('loss, mean of the batch', draw_scalars, ['loss']),
        Panel(
            'in the batch: top-1 (dashed: precision)',
            draw_scalars,
            ['batch_top1', *precision],
        ),
        Panel('active anchors (loss > 1e-5)', draw_scalars, ['active_count']),
        Panel('learning rate', draw_schedule, ['learning_rate']),
        Panel('distances: same PID (dashed: others)', draw_histograms, pairs),
        Panel('lengths of embeddings', draw_histograms, ['embedding_lengths']),
        Panel('validation: mAP (dashed: top-1)', draw_points, VALIDATION),
    ]


def plot_runs(runs):
    """Return the figure of several runs; with validation, if one of them has it.

    Args:
        runs: {name: result of read_events}.
    """
    # Not pyplot: it would ask for a screen.
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    is_validated = any(set(VALIDATION) & set(events) for events in runs.values())
    num_columns = 4 if is_validated else 3
    figure = Figure(figsize=(13 / 3 * num_columns, 7), layout='constrained')
    grid = figure.subplots(2, num_columns)
    # The six curves keep their places; validation comes to their right.
    all_axes = [*grid[0, :3], *grid[1, :3], *grid[:, 3:].flat]
    colours = choose_colours(len(runs))
    for events, colour in zip(runs.values(), colours, strict=True):
        for axes, panel in zip(all_axes, choose_panels(events), strict=False):
            panel.draw(axes, events, panel.tags, colour)
            axes.set_title(panel.title)
    for axes in all_axes:
        finish(axes)
    lines = [Line2D([], [], color=colour) for colour in colours]
    texts.add_legend(figure, lines, list(runs), size=10)
    return figure


def finish(axes):
    """Add label and grid to axes; hide them if no panel was drawn there."""
    axes.set_visible(bool(axes.get_title()))
    axes.set_xlabel('iteration')
    # Room above, or a constant would hide in the frame.
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.grid(alpha=0.3)


def choose_colours(num_runs):
    """Return a colour for each run; those of many are closer to each other."""
    from matplotlib import colormaps

    colours = colormaps['tab10' if num_runs <= 10 else 'tab20'].colors
    return [colours[number % len(colours)] for number in range(num_runs)]


def name_runs(experiment_roots):
    """Return a name for each run: its directory's, or the path if two share that."""
    names = [os.path.basename(os.path.abspath(root)) for root in experiment_roots]
    return names if len(set(names)) == len(names) else experiment_roots


def warn_of_missing(run, events):
    """Say on stderr which curves the picture lacks of a run."""
    missing = find_missing(events)
    if missing:
        # A short run is the usual reason.
        is_histogram = any(curve.startswith('embedding_') for curve in missing)
        hint = ' (histograms come every --histogram_frequency iterations)'
        print(
            f'{run} has no {", ".join(missing)}: left out{hint * is_histogram}',
            file=sys.stderr,
        )


def main(argv=None):
    args = build_parser().parse_args(argv)
    common.start_tensorflow()
    names = name_runs(args.experiments)
    runs = dict(zip(names, map(read_events, args.experiments), strict=True))
    for run, events in runs.items():
        warn_of_missing(run, events)
    common.write_figure(args.filename, plot_runs(runs))
    if not args.quiet:
        print(f'{args.filename}: {len(runs)} run(s)')


if __name__ == '__main__':
    common.run(main)
