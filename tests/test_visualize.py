import json

import cv2
import h5py
import numpy as np
import pytest

import embedding_files
import evaluate
import visualize
from evaluation import ranking
from visuals import ranked_queries, ranking_figure

GREEN, RED, BLACK = (50, 205, 50), (255, 0, 0), (0, 0, 0)  # As matplotlib names them.


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
        (tmp_path / side).mkdir()
        rows = []
        for i, (pid, camera, _) in enumerate(images):
            fid = f'{side}/{pid}_c{camera}s1_{i:06d}_00.png'
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


def find_borders(row):
    """Return the colours of the borders that a row of RGB pixels [W, 3] crosses.

    What lies between two of them is white, the images of the fixture included.
    """
    is_white = (row == 255).all(axis=1)
    runs = np.split(np.arange(len(row)), np.flatnonzero(np.diff(is_white)) + 1)
    # The middle of a border has its colour; the edges are blurred.
    return [row[run[len(run) // 2]].tolist() for run in runs if not is_white[run[0]]]


def test_a_picture_has_borders_green_of_matches_and_red_of_others(
    flags, tmp_path, capsys
):
    filename = tmp_path / 'out' / 'ranking.png'
    visualize.main([*flags, f'--filename={filename}', '--top_k=3'])
    assert capsys.readouterr().out == f'{filename}: 2 of 3 queries\n'
    picture = cv2.imread(str(filename))[..., ::-1]
    height = len(picture) // 2  # Two queries, the worst first.
    # An eighth of the height is below the upper border and above the fixture's
    # rectangles, which begin at a quarter of the image.
    borders = [find_borders(picture[i * height + height // 8]) for i in range(2)]
    expected = [
        # From 5.0, beside 5.5 (a match), 4.0 and 2.0 (a match).
        [BLACK, GREEN, RED, GREEN],
        # From 0.0, beside 1.0 (a match), 2.0 and 4.0.
        [BLACK, GREEN, RED, RED],
    ]
    # Each image has a border on the left and one on the right.
    assert borders == [np.repeat(row, 2, axis=0).tolist() for row in expected]


def test_rows_show_the_nearest_images_that_count(flags, tmp_path):
    query, gallery = embedding_files.load_pair(
        str(tmp_path / 'query.csv'),
        str(tmp_path / 'query.h5'),
        str(tmp_path / 'gallery.csv'),
        str(tmp_path / 'gallery.h5'),
    )
    images = ranked_queries.RankedImages(query, gallery, None, None, tmp_path)
    ranked = [
        # Rank 0 is ignored; rank 4 is the late match, for which there is no room.
        (0, 1.0, 2, 1, np.array([0, 1, 2]), np.array([0, 1, 2]), np.float32([0, 1, 2])),
        (1, 0.5, 1, 4, np.array([5, 0, 3]), np.array([1, 2, 4]), np.float32([1, 2, 9])),
    ]
    figure = ranking_figure.draw(
        [ranked_queries.RankedQuery(*fields) for fields in ranked], images, top_k=2
    )
    axes = np.array(figure.axes).reshape(2, 4)  # Query, gap, two gallery images.
    captions = [[a.get_xlabel() for a in row if a.axison] for row in axes]
    assert captions == [
        ['0001   AP 100%', '1.000', '2.000'],
        ['0002   AP 50%', '1.000', '2.000'],
    ]
    borders = [
        [a.spines['left'].get_edgecolor() for a in row[2:] if a.axison] for row in axes
    ]
    green, red = ((*tuple(c / 255 for c in colour), 1) for colour in (GREEN, RED))
    np.testing.assert_allclose(borders, [[green, red], [red, red]])


def test_page_and_picture_can_be_written_at_once(flags, tmp_path, capsys):
    page, picture = (
        tmp_path / 'ranking.html',
        tmp_path / 'ranking.PNG',
    )
    visualize.main([*flags, '--filename', str(page), str(picture), '--top_k=2'])
    assert capsys.readouterr().out == (
        f'{page}: 2 of 3 queries\n{picture}: 2 of 3 queries\n'
    )
    assert picture.read_bytes().startswith(b'\x89PNG')
    content = page.read_text(encoding='utf-8')
    # PID 0001's match comes first (AP 1), those of 0002 first and third (AP 5/6).
    assert content.index('data-pid="0002"') < content.index('data-pid="0001"')
    assert 'data-pid="0009"' not in content
    assert '1 without any match are left out' in content
    assert 'mAP of all: 91.67%' in content
    assert 'cam 3' in content
    # On the way to their second, the junk and the image by its own camera; the junk
    # is farther from 0002 than both its neighbours.
    assert [
        part.count('class="ignored"') for part in content.split('<section')[1:]
    ] == [
        0,
        2,
    ]


def test_the_page_shows_the_worst_query_first(flags, tmp_path):
    # Query 0002 moves away from its matches, next to 0001's.
    with h5py.File(tmp_path / 'query.h5', 'r+') as file:
        file['emb'][1] = 1.1
    page = tmp_path / 'ranking.html'
    visualize.main([*flags, f'--filename={page}', '--num_queries=1'])
    content = page.read_text(encoding='utf-8')
    assert content.count('<section') == 1
    assert 'data-pid="0002"' in content
    assert '1 of 3 queries, worst first' in content


def test_an_excluder_without_cameras_shows_none(flags, tmp_path):
    page = tmp_path / 'ranking.html'
    visualize.main([*flags, '--excluder=diagonal', f'--filename={page}'])
    assert '· cam' not in page.read_text(encoding='utf-8')


def test_the_camera_may_be_a_column(flags, tmp_path):
    header = 'fid,camera,pid\n'
    for side in ('query', 'gallery'):
        lines = (tmp_path / f'{side}.csv').read_text(encoding='utf-8').split('\n')
        rows = [
            f'{fid},{side} yard,{pid}'
            for pid, fid in (line.split(',') for line in lines)
        ]
        (tmp_path / f'{side}.csv').write_text(
            header + '\n'.join(rows), encoding='utf-8'
        )
    page = tmp_path / 'ranking.html'
    visualize.main([*flags, '--excluder=csv', '--csv_header', f'--filename={page}'])
    content = page.read_text(encoding='utf-8')
    assert 'cam query yard' in content
    assert 'cam gallery yard' in content


def test_a_missing_image_is_named(flags, tmp_path):
    (tmp_path / 'gallery/0001_c2s1_000001_00.png').unlink()
    for name in ('ranking.png', 'ranking.html'):
        with pytest.raises(FileNotFoundError, match='gallery/0001.*check --image_root'):
            visualize.main([*flags, f'--filename={tmp_path / name}'])
        assert not list(tmp_path.glob('*ranking*'))


@pytest.mark.parametrize('content', [b'', b'not an image'])
def test_an_undecodable_image_is_named(content, flags, tmp_path):
    (tmp_path / 'query/0001_c1s1_000000_00.png').write_bytes(content)
    with pytest.raises(ValueError, match='query/0001.* is not an image'):
        visualize.main([*flags, f'--filename={tmp_path / "ranking.png"}'])


def test_other_endings_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        visualize.main([*flags, '--filename=ranking.jpg'])
    assert 'ranking.jpg given, a name that ends in .html or .png' in (
        capsys.readouterr().err
    )


def test_the_summary_counts_what_is_shown_and_left_out():
    ranks = [ranking.MatchRanks(np.array(r), np.array(r)) for r in ([1], [], [4])]
    # Average precisions 1 and 1/4.
    assert visualize.count_queries(ranks, 1, 'spread') == (
        '1 of 3 queries, in equal steps from worst to best by average precision; mAP '
        'of all: 62.50%. 1 without any match are left out.'
    )


@pytest.mark.parametrize(
    'word, answer',
    [
        ('curve', '; did you mean curves?'),
        ('projekt', '; did you mean projector?'),
        ('x.html', ''),
    ],
)
def test_a_first_word_that_is_none_is_answered_with_the_nearest(word, answer, capsys):
    with pytest.raises(SystemExit) as left:
        visualize.main([word, 'a.json'])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        f": error: '{word}' given; expected curves or projector, or the flags of "
        f'rankings{answer} (see --help)'
    )


def test_quiet_rankings_report_nothing(flags, tmp_path, capsys):
    filename = tmp_path / 'ranking.png'
    visualize.main([*flags, f'--filename={filename}', '--top_k=1', '--quiet'])
    assert capsys.readouterr() == ('', '')
    assert filename.exists()


# --- curves ----------------------------------------------------------------------

SCORES = {'mAP': 0.5, 'CMC': [0.5, 1.0]}
THRESHOLDS = {
    'roc': {'fpr': [0, 0.1, 1], 'tpr': [0, 0.9, 1]},
    'distance_histogram': {'edges': [0, 1, 2], 'same': [2, 1], 'different': [1, 9]},
}


@pytest.fixture
def evaluations(tmp_path):
    """Return two JSON files, the first with thresholds, the second without."""
    filenames = [tmp_path / 'a' / 'scores.json', tmp_path / 'b' / 'scores.json']
    for filename, scores in zip(filenames, (SCORES | THRESHOLDS, SCORES), strict=True):
        filename.parent.mkdir()
        filename.write_text(json.dumps(scores), encoding='utf-8')
    return [str(filename) for filename in filenames]


def test_curves_are_pictures_of_what_the_files_have(evaluations, tmp_path, capsys):
    output_dir = tmp_path / 'out'
    visualize.main(['curves', *evaluations, f'--output_dir={output_dir}'])
    names = ['cmc.png', 'roc.png', 'distances.png']
    output = capsys.readouterr()
    assert output.out.split() == [str(output_dir / name) for name in names]
    assert f'roc.png lacks {evaluations[1]}: made without' in output.err
    for name in names:
        assert (output_dir / name).read_bytes().startswith(b'\x89PNG')
    assert sorted(p.name for p in output_dir.iterdir()) == sorted(names)


def test_quiet_curves_still_warn_of_what_is_missing(evaluations, tmp_path, capsys):
    visualize.main(['curves', *evaluations, f'--output_dir={tmp_path}', '--quiet'])
    output = capsys.readouterr()
    assert output.out == ''
    assert output.err == ''.join(
        f'{name} lacks {evaluations[1]}: made without evaluate.py --thresholds\n'
        for name in ('roc.png', 'distances.png')
    )


def test_curves_are_drawn_of_what_evaluate_writes(flags, tmp_path, capsys):
    flags = [flag for flag in flags if not flag.startswith('--image_root')]
    filename, output_dir = tmp_path / 'scores.json', tmp_path / 'out'
    evaluate.main([*flags, '--thresholds', f'--filename={filename}'])
    capsys.readouterr()
    visualize.main(['curves', str(filename), f'--output_dir={output_dir}'])
    output = capsys.readouterr()
    assert len(output.out.split()) == 3
    assert output.err == ''


def test_curves_without_thresholds_are_the_cmc_alone(evaluations, tmp_path):
    output_dir = tmp_path / 'out'
    visualize.main(['curves', evaluations[1], f'--output_dir={output_dir}'])
    assert [p.name for p in output_dir.iterdir()] == ['cmc.png']


def test_a_label_is_the_file_name_unless_two_share_it():
    assert visualize.name_files(['x/a.json', 'x/b.json']) == ['a', 'b']
    assert visualize.name_files(['x/a.json', 'y/a.json']) == ['x/a.json', 'y/a.json']


@pytest.mark.parametrize('labels', [['one'], ['same', 'same']])
def test_labels_must_be_as_many_as_files(labels, evaluations, capsys):
    with pytest.raises(SystemExit):
        visualize.main(['curves', *evaluations, '--labels', *labels])
    assert '2 different ones expected' in capsys.readouterr().err


# --- projector -------------------------------------------------------------------


def test_projector_gets_images_in_equal_steps(flags, tmp_path, capsys):
    output_dir = tmp_path / 'projector'
    argv = [
        'projector',
        f'--dataset={tmp_path / "gallery.csv"}',
        f'--embeddings={tmp_path / "gallery.h5"}',
        f'--image_root={tmp_path}',
        f'--output_dir={output_dir}',
        '--excluder=market1501',
        '--num_images=2',
    ]
    visualize.main([*argv, '--quiet'])
    assert capsys.readouterr() == ('', '')
    visualize.main(argv)
    assert capsys.readouterr().out == f'{output_dir}: 2 of 6 images\n'
    assert (output_dir / 'metadata.tsv').read_text(encoding='utf-8') == (
        'pid\tfid\tcamera\n'
        '0001\tgallery/0001_c1s1_000000_00.png\t1\n'
        '0000\tgallery/0000_c2s1_000005_00.png\t2\n'
    )
    assert np.fromfile(output_dir / 'tensors.bytes', '<f4').tolist() == [0.5, 4.0]
    assert (output_dir / 'projector_config.pbtxt').is_file()


def test_help_of_each_mode_names_its_flags(capsys):
    for argv, flag in (
        (['--help'], '--order'),
        (['curves', '--help'], '--max_rank'),
        (['projector', '--help'], '--num_images'),
    ):
        with pytest.raises(SystemExit) as error:
            visualize.main(argv)
        assert error.value.code == 0
        assert flag in capsys.readouterr().out
