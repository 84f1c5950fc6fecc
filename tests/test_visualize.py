import cv2
import h5py
import numpy as np
import pytest

import embeddings
import ranking
import visualize

GREEN, RED, BLACK = (50, 205, 50), (255, 0, 0), (0, 0, 0)  # As matplotlib names them.


def match_ranks(*ranks):
    return ranking.MatchRanks(np.array(ranks), np.array(ranks))


@pytest.fixture
def flags(tmp_path):
    """Return the flags for three queries (one without a match) and six images."""
    rng = np.random.default_rng(0)
    sides = {
        'query': [('0001', 1, 0.0), ('0002', 1, 5.0), ('0009', 1, 7.0)],
        'gallery': [
            ('0001', 1, 0.5),  # The first query's PID in its own camera: ignored.
            ('0001', 2, 1.0),
            ('0002', 2, 2.0),
            ('0002', 3, 5.5),
            ('-1', 2, 0.0),  # Junk: ignored by all.
            ('0000', 2, 4.0),
        ],
    }
    result = ['--excluder=market1501', f'--image_root={tmp_path}']
    for side, images in sides.items():
        rows = []
        for i, (pid, camera, _) in enumerate(images):
            fid = f'{side}_{pid}_c{camera}s1_{i:06d}_00.png'
            rows.append(f'{pid},{fid}')
            image = np.full((128, 64, 3), 255, np.uint8)
            colour = rng.integers(0, 255, 3).tolist()
            cv2.rectangle(image, (20, 30), (44, 100), colour, thickness=-1)
            cv2.imwrite(str(tmp_path / fid), image)
        (tmp_path / f'{side}.csv').write_text('\n'.join(rows), encoding='utf-8')
        with h5py.File(tmp_path / f'{side}.h5', 'w') as file:
            file['emb'] = np.float32([[emb] for _, _, emb in images])
        result += [
            f'--{side}_dataset={tmp_path / side}.csv',
            f'--{side}_embeddings={tmp_path / side}.h5',
        ]
    return result


def has_colour(image, colour):
    """Return whether a noticeable part of an RGB image has exactly this colour."""
    return (image == colour).all(axis=2).mean() > 1e-3


def test_the_picture_has_green_and_red_borders(flags, tmp_path, capsys):
    filename = tmp_path / 'out' / 'ranking.png'
    visualize.main([*flags, f'--filename={filename}', '--top_k=3'])
    assert capsys.readouterr().out == f'{filename}: 2 of 3 queries\n'
    picture = cv2.imread(str(filename))[..., ::-1]
    for colour in (GREEN, RED, BLACK):
        assert has_colour(picture, colour)
    assert picture.shape[0] > 2 * 128  # Two rows of a query and three images.
    assert picture.shape[1] > 4 * 64


def test_rows_show_the_nearest_images_that_count(flags, tmp_path):
    query, gallery = embeddings.load_pair(
        *(tmp_path / name for name in ('query.csv', 'query.h5')),
        *(tmp_path / name for name in ('gallery.csv', 'gallery.h5')),
    )
    ranked = [
        visualize.RankedQuery(0, 1.0, np.array([1, 2]), np.float32([1, 2])),
        visualize.RankedQuery(1, 0.5, np.array([5]), np.float32([1])),
    ]
    figure = visualize.draw_rankings(ranked, query, gallery, tmp_path, top_k=2)
    axes = np.array(figure.axes).reshape(2, 4)  # Query, gap, two gallery images.
    captions = [[a.get_xlabel() for a in row if a.axison] for row in axes]
    assert captions == [
        ['0001   AP 100%', '1.000', '2.000'],
        ['0002   AP 50%', '1.000'],
    ]
    borders = [
        [a.spines['left'].get_edgecolor() for a in row[2:] if a.axison] for row in axes
    ]
    green, red = (tuple(c / 255 for c in colour) + (1,) for colour in (GREEN, RED))
    np.testing.assert_allclose(borders[0], [green, red])
    np.testing.assert_allclose(borders[1], [red])


def test_queries_are_spaced_evenly_from_the_worst_to_the_best():
    # A single match at rank r has AP 1/r; queries 1 and 3 have none.
    ranks = [
        match_ranks(1),
        match_ranks(),
        match_ranks(4),
        match_ranks(),
        match_ranks(2),
        match_ranks(5),
        match_ranks(3),
    ]
    rows, aps = visualize.choose_queries(ranks, 3)
    assert rows.tolist() == [5, 6, 0]
    np.testing.assert_allclose(aps, [1 / 5, 1 / 3, 1])
    rows, _ = visualize.choose_queries(ranks, 1)
    assert rows.tolist() == [5]
    rows, _ = visualize.choose_queries(ranks, 100)
    assert rows.tolist() == [5, 2, 6, 4, 0]


def test_no_match_at_all_is_an_error():
    with pytest.raises(ValueError, match='none of the 1 queries has a match'):
        visualize.choose_queries([match_ranks()], 3)


def test_nearest_leaves_out_what_is_ignored_and_keeps_ties_in_gallery_order():
    dists = np.float32([[3, 1, 2, 1], [0, 0, 0, 5]])
    is_ignored = np.array([[0, 0, 1, 0], [1, 1, 1, 0]], bool)
    rows, nearest_dists = visualize.find_nearest(dists, is_ignored, top_k=2)
    assert [r.tolist() for r in rows] == [[1, 3], [3]]
    assert [d.tolist() for d in nearest_dists] == [[1, 1], [5]]


def test_a_missing_image_is_named(flags, tmp_path):
    (tmp_path / 'gallery_0001_c2s1_000001_00.png').unlink()
    with pytest.raises(FileNotFoundError, match='gallery_0001.*check --image_root'):
        visualize.main([*flags, f'--filename={tmp_path / "ranking.png"}'])
    assert not (tmp_path / 'ranking.png').exists()


@pytest.mark.parametrize('content', [b'', b'not an image'])
def test_an_undecodable_image_is_named(content, flags, tmp_path):
    (tmp_path / 'query_0001_c1s1_000000_00.png').write_bytes(content)
    with pytest.raises(ValueError, match='query_0001.* is not an image'):
        visualize.main([*flags, f'--filename={tmp_path / "ranking.png"}'])
