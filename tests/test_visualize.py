import itertools
import json
import re
import unittest.mock

import cv2
import h5py
import numpy as np
import pytest

import evaluate
import visualize
from evaluation import ranking, rerank
from visuals import ranked_queries

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
    return [
        tuple(row[run[len(run) // 2]].tolist()) for run in runs if not is_white[run[0]]
    ]


def test_a_picture_has_borders_green_of_matches_and_red_of_others(
    flags, tmp_path, capsys
):
    filename = tmp_path / 'out' / 'ranking.png'
    visualize.main([*flags, f'--filename={filename}', '--top_k=3'])
    assert capsys.readouterr().out == f'{filename}: 2 of 3 queries\n'
    picture = cv2.imread(str(filename))[..., ::-1]
    # Four images have a border on the left and one on the right; other rows of pixels
    # have captions, the fixture's rectangles, or the legend.
    rows = [find_borders(row) for row in picture]
    colours = [
        row[::2] for row in rows if len(row) == 8 and set(row) <= {BLACK, GREEN, RED}
    ]
    assert [row for row, _ in itertools.groupby(colours)] == [
        # From 5.0, beside 5.5 (a match), 4.0 and 2.0 (a match).
        [BLACK, GREEN, RED, GREEN],
        # From 0.0, beside 1.0 (a match), 2.0 and 4.0.
        [BLACK, GREEN, RED, RED],
    ]


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


@pytest.mark.parametrize(
    'candidates, rows, order, pids, expected',
    [
        (
            [0, 1, 2],
            [0],
            'spread',
            None,
            '1 of 3 queries, in equal steps from worst to best by average precision. 1 '
            'without any match are left out; --order unmatched shows them. mAP of all: '
            '62.50%.',
        ),
        (
            [2],
            [2],
            'worst',
            ['7'],
            '1 of 1 queries of PID 7, worst first by average precision. mAP of all: '
            '62.50%.',
        ),
        (
            [1],
            [1],
            'worst',
            ['7', '8'],
            '1 of 1 queries of PID 7, 8: those without any match, in the order of the '
            'CSV. mAP of all: 62.50%.',
        ),
    ],
)
def test_the_summary_counts_what_is_shown_and_left_out(
    candidates, rows, order, pids, expected
):
    aps = np.array([1, np.nan, 0.25])
    assert visualize.count_queries(aps, candidates, rows, order, pids) == expected


def read_page(filename):
    """Return (PID, classes of its figures, its text) of each query on a page."""
    sections = filename.read_text(encoding='utf-8').split('<section')[1:]
    return [
        (
            re.search('data-pid="(.*?)"', section)[1],
            re.findall('<figure class="(.*?)"', section),
            ' '.join(re.sub('<.*?>', ' ', section.partition('>')[2]).split()),
        )
        for section in sections
    ]


def test_a_query_of_unknown_pid_is_ranked_without_borders(flags, tmp_path, capsys):
    filename = tmp_path / 'ranking.html'
    visualize.main([*flags, f'--filename={filename}', '--order=unmatched'])
    assert capsys.readouterr() == (f'{filename}: 1 of 3 queries\n', '')
    # From 7.0, beside 5.5, 4.0, 2.0, 1.0, 0.5 and, ignored, 0.0.
    ((pid, kinds, text),) = read_page(filename)
    assert (pid, kinds) == ('0009', ['query', *['unknown'] * 5])
    assert text.startswith('0009 the gallery has no image of this PID · query/0009_')
    assert '1 1.500 PID 0002 cam 3 2 3.000 PID 0000 cam 2 3 5.000 PID 0002' in text
    content = filename.read_text(encoding='utf-8')
    assert '1 of 3 queries: those without any match, in the order of the CSV' in content
    assert 'Neither: the gallery lacks the PID of the query.' in content


def test_where_no_query_has_a_match_all_are_ranked_and_it_is_said(
    flags, tmp_path, capsys
):
    query_csv = tmp_path / 'query.csv'
    lines = query_csv.read_text(encoding='utf-8').splitlines()
    unknown = [f'unknown,{line.partition(",")[2]}' for line in lines]
    query_csv.write_text('\n'.join(unknown), encoding='utf-8')
    names = [str(tmp_path / name) for name in ('ranking.html', 'ranking.png')]
    visualize.main([*flags, '--filename', *names, '--quiet'])
    output = capsys.readouterr()
    assert output.out == ''
    assert output.err == (
        'none of the 3 queries has a match in the gallery: shown without average '
        'precision. If they should have one, check that query set, gallery and '
        'excluder belong together\n'
    )
    found = read_page(tmp_path / 'ranking.html')
    assert [pid for pid, *_ in found] == ['unknown'] * 3
    content = (tmp_path / 'ranking.html').read_text(encoding='utf-8')
    assert 'mAP' not in content
    assert 'nan' not in content


def test_a_match_that_is_ignored_leaves_the_others_wrong(flags, tmp_path):
    # Nothing of 0001 counts once its other image is of the query's camera, too.
    gallery_csv = tmp_path / 'gallery.csv'
    text = gallery_csv.read_text(encoding='utf-8')
    gallery_csv.write_text(text.replace('0001_c2', '0001_c1'), encoding='utf-8')
    (tmp_path / 'gallery/0001_c2s1_000001_00.png').rename(
        tmp_path / 'gallery/0001_c1s1_000001_00.png'
    )
    filename = tmp_path / 'ranking.html'
    visualize.main([*flags, f'--filename={filename}', '--order=unmatched'])
    (first, second) = read_page(filename)
    assert first[:2] == ('0001', ['query', *['ignored'] * 3, *['wrong'] * 3])
    assert first[2].startswith('0001 all its matches are ignored · query/0001_')
    assert second[0] == '0009'


def test_pids_choose_the_queries(flags, tmp_path, capsys):
    filename = tmp_path / 'ranking.html'
    argv = [*flags, f'--filename={filename}', '--pid']
    visualize.main([*argv, '0009', '0001'])
    assert capsys.readouterr().out == f'{filename}: 1 of 3 queries\n'
    assert [pid for pid, *_ in read_page(filename)] == ['0001']
    content = filename.read_text(encoding='utf-8')
    assert '1 of 2 queries of PID 0009, 0001, worst first' in content
    assert '1 without any match are left out; --order unmatched shows them' in content
    # Alone, it is what there is to show.
    visualize.main([*argv, '0009'])
    assert [pid for pid, *_ in read_page(filename)] == ['0009']
    message = (
        r'^--pid: 2 of 3 PIDs are of no query \(first: 009\); did you mean 0009\?$'
    )
    with pytest.raises(ValueError, match=message):
        visualize.main([*argv, '0001', '009', 'x'])


def test_the_page_names_the_queries_that_it_does_not_show(flags, tmp_path):
    filename = tmp_path / 'ranking.html'
    visualize.main([*flags, f'--filename={filename}', '--num_queries=1'])
    content = filename.read_text(encoding='utf-8')
    (lines,) = re.findall('<script type="application/json".*?>(.*?)<', content)
    assert json.loads(lines) == [
        [
            '0001',
            'AP 100.00% · 1 match, the first at rank 1 · query/0001_c1s1_000000_00.png',
        ],
        [
            '0009',
            'the gallery has no image of this PID · query/0009_c1s1_000002_00.png',
        ],
    ]


@pytest.mark.parametrize('order', [None, 'worst'])
def test_a_page_has_the_worst_and_a_picture_some_of_all(order, flags, tmp_path):
    names = [str(tmp_path / name) for name in ('ranking.html', 'ranking.png')]
    argv = [*flags, '--filename', *names, '--num_queries=1', '--top_k=1', '--quiet']
    with unittest.mock.patch.object(
        ranked_queries, 'choose_queries', wraps=ranked_queries.choose_queries
    ) as choose:
        visualize.main([*argv, *([] if order is None else [f'--order={order}'])])
    orders = [call.args[3] for call in choose.call_args_list]
    assert orders == ['worst', order or 'spread']


def test_reranked_results_can_be_looked_at(flags, tmp_path, monkeypatch):
    filename = tmp_path / 'ranking.html'
    rerank_flags = ['--rerank', '--rerank_k1=2', '--rerank_k2=1', '--rerank_lambda=0.5']
    visualize.main([*flags, f'--filename={filename}', *rerank_flags])
    query, gallery = (
        np.float32([[0], [5], [7]]),
        np.float32([[0.5], [1], [2], [5.5], [0], [4]]),
    )
    dists = rerank.RerankedDistances(query, gallery, k1=2, k2=1, weight=0.5)
    ((_, expected),) = dists.whole_rows()
    plain = ranking.compute_distances(query, gallery, 'euclidean')
    for pid, _, text in read_page(filename):
        row = ['0001', '0002'].index(pid)
        # Of PID 0000, the last of the gallery: its distance is unlike the Euclidean.
        (shown,) = re.findall(r' ([\d.]+) PID 0000 ', text)
        assert float(shown) == pytest.approx(expected[row, 5], rel=1e-3)
        assert abs(float(shown) - plain[row, 5]) > 0.1
    assert len(read_page(filename)) == 2
    content = filename.read_text(encoding='utf-8')
    assert 'Nearest first by re-ranked euclidean distance.' in content


@pytest.mark.parametrize('how', ['mean', 'max'])
def test_pooled_results_can_be_looked_at(how, tmp_path):
    """Two tracklets a side, of two frames each; distances are of their pools."""
    image = np.full((8, 4, 3), 255, np.uint8)
    flags = ['--excluder=mars', f'--image_root={tmp_path}', f'--pool={how}']
    embs = {'query': [0, 2, 10, 10], 'gallery': [3, 5, 20, 20]}
    for side, camera in (('query', 1), ('gallery', 2)):
        fids = [
            f'{pid:04d}C{camera}T0001F{frame:03d}.jpg'
            for pid in (1, 2)
            for frame in (1, 2)
        ]
        for fid in fids:
            cv2.imwrite(str(tmp_path / fid), image)
        text = '\n'.join(f'{fid[:4]},{fid}' for fid in fids)
        (tmp_path / f'{side}.csv').write_text(text, encoding='utf-8')
        np.save(tmp_path / f'{side}.npy', np.float32(embs[side])[:, None])
        flags += [
            f'--{side}_dataset={tmp_path / side}.csv',
            f'--{side}_embeddings={tmp_path / side}.npy',
        ]
    filename = tmp_path / 'ranking.html'
    visualize.main([*flags, f'--filename={filename}'])
    texts = {pid: text for pid, _, text in read_page(filename)}
    assert set(texts) == {'0001', '0002'}
    # Means are 1 and 10, 4 and 20; the largest 2 and 10, 5 and 20.
    assert '1 ✓ 3.000 PID 0001' in texts['0001']
    far = {'mean': '19.00', 'max': '18.00'}[how]
    assert f'2 ✗ {far} PID 0002' in texts['0001']
    assert f'stands for its tracklet, the {how} of' in filename.read_text('utf-8')


def test_queries_pooled_by_camera_are_one(flags, tmp_path):
    fid = 'query/0001_c1s2_000009_00.png'
    (tmp_path / fid).symlink_to(tmp_path / 'query/0001_c1s1_000000_00.png')
    with (tmp_path / 'query.csv').open('a', encoding='utf-8') as file:
        file.write(f'\n0001,{fid}')
    (tmp_path / 'query.h5').unlink()
    np.save(tmp_path / 'query.npy', np.float32([[0], [5], [7], [3]]))
    filename = tmp_path / 'ranking.html'
    visualize.main(
        [
            *flags,
            f'--query_embeddings={tmp_path / "query.npy"}',
            '--multi_query=mean',
            '--gallery_includes_queries',
            f'--filename={filename}',
        ]
    )
    texts = {pid: text for pid, _, text in read_page(filename)}
    # From (0 + 3) / 2: 1.0 and 2.0 are as near, and its own images are ignored.
    assert '1 ✓ 0.5000 PID 0001 cam 2 2 ✗ 0.5000 PID 0002' in texts['0001']
    # The queries of other PIDs are in the gallery.
    assert '✗ 3.500 PID 0002 cam 1' in texts['0001']
    assert 'stands for all of its PID and camera' in filename.read_text('utf-8')


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
