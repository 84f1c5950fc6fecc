import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import embedding_files
from visuals import ranked_queries, ranking_figure

LIMEGREEN, RED = (50 / 255, 205 / 255, 50 / 255, 1), (1, 0, 0, 1)
NONE = (0, 0, 0, 0)

LONG_PID = 'golden_retriever_from_the_park_2'


def make_images(directory, query_pids, gallery_pids):
    """Return RankedImages of white images, each twice as high as wide."""
    filename = directory / 'white.png'
    cv2.imwrite(str(filename), np.full((64, 32, 3), 255, np.uint8))

    def make_side(pids):
        fids = np.full(len(pids), 'white.png', object)
        return embedding_files.EmbeddedDataset(np.array(pids, object), fids, None, None)

    query, gallery = make_side(query_pids), make_side(gallery_pids)
    return ranked_queries.RankedImages(query, gallery, None, None, directory)


def make_ranked(row, places, is_known=True, num_matches=1):
    """Return a query that finds gallery images, {row: rank}, at distance = rank."""
    return ranked_queries.RankedQuery(
        row,
        average_precision=0.5 if num_matches else np.nan,
        is_known=is_known,
        num_matches=num_matches,
        first_rank=1 if num_matches else 0,
        gallery_rows=np.array(list(places)),
        ranks=np.array(list(places.values())),
        dists=np.float32(list(places.values())),
    )


def read_rows(figure, top_k):
    """Return captions and border colours of each row of a figure, images only."""
    rows = np.array(figure.axes).reshape(-1, top_k + 2)
    captions = [[axes.get_xlabel() for axes in row if axes.axison] for row in rows]
    colours = [
        [axes.spines['left'].get_edgecolor() for axes in row if axes.axison]
        for row in rows
    ]
    return captions, colours


def test_rows_show_the_nearest_images_that_count(tmp_path):
    images = make_images(tmp_path, ['1', '2'], ['9', '1', '3', '2'])
    ranked = [
        # Rank 0 is ignored; rank 4 is the late match, for which there is no room.
        make_ranked(0, {0: 0, 1: 1, 2: 2}),
        make_ranked(1, {2: 1, 0: 2, 3: 4}),
    ]
    captions, colours = read_rows(ranking_figure.draw(ranked, images, 2, 'Two'), 2)
    assert captions == [
        ['1\nAP 50%', '1\n✓ 1.000', '3\n✗ 2.000'],
        ['2\nAP 50%', '3\n✗ 1.000', '9\n✗ 2.000'],
    ]
    np.testing.assert_allclose(
        [row[1:] for row in colours], [[LIMEGREEN, RED], [RED] * 2]
    )


def test_beside_a_query_of_unknown_pid_are_no_borders(tmp_path):
    images = make_images(tmp_path, ['who', '1'], ['9', '1'])
    ranked = [
        make_ranked(0, {0: 1, 1: 2}, is_known=False, num_matches=0),
        # Its only match is ignored: what is left is wrong.
        make_ranked(1, {1: 0, 0: 1}, num_matches=0),
    ]
    figure = ranking_figure.draw(ranked, images, 2, 'Two')
    captions, colours = read_rows(figure, 2)
    assert captions == [
        ['who\nnot in gallery', '9\n1.000', '1\n2.000'],
        ['1\nno match', '9\n✗ 1.000'],
    ]
    np.testing.assert_allclose(colours[0][1:], [NONE, NONE])
    np.testing.assert_allclose(colours[1][1:], [RED])


@pytest.mark.parametrize(
    'known, texts',
    [
        ([True], ['query', '✓ the same PID', '✗ another PID']),
        ([False], ['query', 'no border']),
        ([True, False], ['query', '✓ the same PID', '✗ another PID', 'no border']),
    ],
)
def test_the_legend_explains_the_borders_that_there_are(known, texts, tmp_path):
    images = make_images(tmp_path, ['1', '1'], ['1'])
    ranked = [make_ranked(0, {0: 1}, is_known=is_known) for is_known in known]
    (legend,) = ranking_figure.draw(ranked, images, 1, 'Title').legends
    labels = [text.get_text().partition(':')[0] for text in legend.get_texts()]
    assert labels == texts
    colours = [handle.get_edgecolor() for handle in legend.legend_handles]
    black = (0, 0, 0, 1)
    expected = [black, *[LIMEGREEN, RED] * (True in known), *[NONE] * (False in known)]
    np.testing.assert_allclose(colours, expected)


@pytest.mark.parametrize(
    'pid, top_k',
    [(LONG_PID, 3), ('W' * 40, 1), ('12', 3), ('$1_{ and $', 1), ('a b ' * 9, 2)],
)
def test_no_text_is_cut_off_or_runs_into_another(pid, top_k, tmp_path):
    images = make_images(tmp_path, [pid] * 2, [pid] * 3)
    ranked = [make_ranked(row, {i: i + 1 for i in range(top_k)}) for row in range(2)]
    title = f'{pid} in a_gallery: 2 of 1000 queries, worst first by average precision.'
    figure = ranking_figure.draw(ranked, images, top_k, title)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    shown = [axes for axes in figure.axes if axes.axison]
    texts = [axes.xaxis.label for axes in shown]
    texts += [figure._suptitle, *figure.legends[0].get_texts()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    boxes += [axes.get_window_extent(renderer) for axes in shown]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
        for other in boxes[:i]:
            assert not box.overlaps(other)
    # The words are all there; and so are images that can be seen.
    assert ''.join(texts[0].get_text().split()) == ''.join(f'{pid}AP50%'.split())
    width = ranking_figure.CELL_WIDTH * figure.dpi
    assert all(box.width > 0.8 * width for box in boxes[-len(shown) :])
