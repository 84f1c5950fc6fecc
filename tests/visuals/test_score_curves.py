import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from visuals import score_curves

SCORES = {'mAP': 0.5, 'CMC': [0.25, 0.75, 1.0]}
ROC = {'fpr': [0.0, 0.001, 0.5, 1.0], 'tpr': [0.0, 0.4, 0.9, 1.0]}
# Four pairs of the same identity, two of different ones; bins 1 and 2 wide.
HISTOGRAM = {'edges': [0, 1, 3], 'same': [3, 1], 'different': [0, 2]}


def test_cmc_is_cut_at_the_largest_rank_and_named_in_the_legend():
    figure = score_curves.draw_cmc({'ours': SCORES, 'theirs': SCORES}, max_rank=2)
    (axes,) = figure.axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == [
        'ours: mAP 50.0%, top-1 25.0%',
        'theirs: mAP 50.0%, top-1 25.0%',
    ]
    np.testing.assert_allclose(lines[0].get_xydata(), [[1, 25], [2, 75]])
    assert lines[0].get_color() != lines[1].get_color()


@pytest.mark.parametrize(
    'last, expected',
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (20, [1, 2, *range(4, 21, 2)]),
        (50, [1, *range(5, 51, 5)]),
        (101, [1, *range(10, 101, 10)]),
        (19732, [1, *range(2000, 19000, 2000)]),
    ],
)
def test_cmc_has_a_tick_at_rank_1(last, expected):
    scores = SCORES | {'CMC': np.linspace(0.1, 1, 20000).tolist()}
    (axes,) = score_curves.draw_cmc({'ours': scores}, max_rank=last).axes
    assert axes.get_xticks().tolist() == expected


def test_roc_starts_at_the_lowest_rate_that_a_log_axis_can_show():
    figure = score_curves.draw_roc({'ours': SCORES | {'roc': ROC}})
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [0, 40, 90, 100])
    assert axes.get_xscale() == 'log'
    np.testing.assert_allclose(axes.get_xlim(), [0.1, 100])


def test_roc_without_small_rates_has_an_axis():
    roc = {'fpr': [0.0, 1.0], 'tpr': [0.0, 1.0]}
    (axes,) = score_curves.draw_roc({'ours': SCORES | {'roc': roc}}).axes
    np.testing.assert_allclose(axes.get_xlim(), [50, 100])


def test_distances_are_densities_of_area_one():
    both = {label: SCORES | {'distance_histogram': HISTOGRAM} for label in ('a', 'b')}
    figure = score_curves.draw_distances(both)
    assert [axes.get_title() for axes in figure.axes] == ['a', 'b']
    same, _, different, _ = (patch.get_data() for patch in figure.axes[0].patches)
    np.testing.assert_allclose(same.values, [3 / 4, 1 / 4 / 2])
    np.testing.assert_allclose(different.values, [0, 1 / 2])
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ['same identity, 4 pairs', 'different identity, 2 pairs']


def test_the_threshold_of_equal_errors_is_marked():
    row = {'rule': 'equal error rate', 'threshold': 1.5}
    other = {'rule': 'FPR at most 0.01', 'threshold': 0.5}
    scores = SCORES | {
        'distance_histogram': HISTOGRAM,
        'equal_error_rate': 0.25,
        'thresholds': [row, other],
    }
    (axes,) = score_curves.draw_distances({'a': scores}).axes
    (line,) = axes.get_lines()
    assert list(line.get_xdata()) == [1.5, 1.5]
    assert line.get_label() == 'equal error rate 25.00%'


@pytest.mark.parametrize(
    'args, expected',
    [
        ({'metric': 'cosine', 'rerank': False}, 'cosine distance'),
        ({'metric': 'euclidean', 'rerank': True}, 're-ranked distance'),
        ({}, 'distance'),  # Written by another program.
    ],
)
def test_distances_are_named_after_what_computed_them(args, expected):
    assert score_curves.name_distance(args) == expected


def test_a_label_is_no_formula(tmp_path):
    label = '$x_{'  # As a formula, an error.
    scores = {label: SCORES | {'roc': ROC, 'distance_histogram': HISTOGRAM}}
    for figure in (
        score_curves.draw_cmc(scores, 10),
        score_curves.draw_roc({f'{label}$': scores[label]}),
        score_curves.draw_distances(scores),
    ):
        figure.savefig(tmp_path / 'figure.png')


def test_long_labels_are_not_cut_off():
    label = 'evaluations/of_the_summer/' * 8
    scores = {
        label: SCORES | {'roc': ROC, 'distance_histogram': HISTOGRAM},
        'b': SCORES | {'roc': ROC, 'distance_histogram': HISTOGRAM},
    }
    for figure in (
        score_curves.draw_cmc(scores, 10),
        score_curves.draw_roc(scores),
        score_curves.draw_distances(scores),
    ):
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        axes = figure.axes[0]
        titles = [legend.get_texts()[0] for legend in figure.legends] or [axes.title]
        (title,) = titles
        assert label in ''.join(title.get_text().split())
        box = title.get_window_extent(renderer)
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
        assert not box.overlaps(axes.get_window_extent(renderer))
        assert axes.get_window_extent(renderer).height > 100


def test_more_curves_than_colours_differ_in_style():
    styles = [tuple(score_curves.line_style(number).values()) for number in range(40)]
    assert len(set(styles)) == 40


@pytest.mark.parametrize(
    'text, complaint',
    [
        ('', 'is not valid JSON'),
        ('[]', 'expected a JSON file of evaluate.py'),
        ('{"mAP": 0.5}', 'has no mAP and CMC'),
        ('{"mAP": 0.5, "CMC": []}', 'has no mAP and CMC'),
        ('{"mAP": null, "CMC": [1]}', 'has no mAP and CMC'),
        ('{"mAP": 1, "CMC": [1], "roc": {"fpr": [1]}}', 'incomplete ROC'),
        (json.dumps(SCORES | {'roc': ROC | {'tpr': [1, 2]}}), 'incomplete ROC'),
        (
            json.dumps(SCORES | {'distance_histogram': HISTOGRAM | {'same': [1] * 3}}),
            'incomplete ROC or histogram',
        ),
    ],
)
def test_other_files_are_refused_by_name(text, complaint, tmp_path):
    filename = tmp_path / 'scores.json'
    filename.write_text(text, encoding='utf-8')
    with pytest.raises(ValueError, match=complaint) as error:
        score_curves.read_scores(filename)
    assert str(filename) in str(error.value)
