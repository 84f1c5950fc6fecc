import json
import pathlib
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

import common
import evaluate
import golden_evaluation
from evaluation import ranking

ROOT = pathlib.Path(__file__).parents[1]
CASES = golden_evaluation.CASES


def write_side(directory, side, rows, embs, **datasets):
    """Write CSV and HDF5 of one side; returns the two flags with their values."""
    csv_file, hdf5_file = directory / f'{side}.csv', directory / f'{side}.h5'
    csv_file.write_text('\n'.join(rows) + '\n', encoding='utf-8')
    with h5py.File(hdf5_file, 'w') as file:
        for name, values in {'emb': embs, **datasets}.items():
            file[name] = values
    return [f'--{side}_dataset={csv_file}', f'--{side}_embeddings={hdf5_file}']


@pytest.fixture
def small(tmp_path):
    """Return the flags of a sound evaluation: two queries, three gallery images.

    The first query finds its match second, the second query finds its own first.
    """
    return [
        '--excluder=market1501',
        *write_side(
            tmp_path,
            'query',
            ['0001,q/0001_c1s1_000001_00.jpg', '0002,q/0002_c1s1_000002_00.jpg'],
            np.float32([[0, 0], [10, 0]]),
        ),
        *write_side(
            tmp_path,
            'gallery',
            [
                '0003,g/0003_c2s1_000003_00.jpg',
                '0001,g/0001_c2s1_000004_00.jpg',
                '0002,g/0002_c2s1_000005_00.jpg',
            ],
            np.float32([[1, 0], [2, 0], [9, 0]]),
        ),
    ]


def run_command(*flags):
    """Run ./evaluate.py as a user would; return the finished process."""
    return subprocess.run(
        [sys.executable, 'evaluate.py', *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def evaluate_case(case, directory, *flags):
    """Evaluate a golden case and return what is in the JSON file."""
    side_flags = []
    for side in ('query', 'gallery'):
        hdf5_file = directory / f'{side}.h5'
        with h5py.File(hdf5_file, 'w') as file:  # The original's files: `emb` alone.
            file['emb'] = golden_evaluation.ARRAYS[f'{case}/{side}']
        side_flags += [
            f'--{side}_dataset={golden_evaluation.csv_file(case, side)}',
            f'--{side}_embeddings={hdf5_file}',
        ]
    json_file = directory / 'scores.json'
    excluder = CASES[case]['excluder']
    evaluate.main(
        [f'--excluder={excluder}', *side_flags, f'--filename={json_file}', *flags]
    )
    return json.loads(json_file.read_text(encoding='utf-8'))


# --- the original's numbers ------------------------------------------------------


@pytest.mark.parametrize('use_market_ap', [False, True])
@pytest.mark.parametrize('metric', golden_evaluation.METRICS)
@pytest.mark.parametrize('case', CASES)
def test_scores_are_those_of_the_original(
    case, metric, use_market_ap, tmp_path, capsys
):
    flags = [f'--metric={metric}'] + ['--use_market_ap'] * use_market_ap
    scores = evaluate_case(case, tmp_path, *flags)
    golden = CASES[case]['results'][metric + '+market_ap' * use_market_ap]
    ties = CASES[case]['tie_analysis'][metric]

    if ties['ambiguous']:  # The original's sort is unstable: any order could come out.
        assert np.all(np.array(scores['CMC']) >= np.array(ties['cmc_worst']) - 1e-6)
        assert np.all(np.array(scores['CMC']) <= np.array(ties['cmc_best']) + 1e-6)
        np.testing.assert_allclose(scores['CMC'], ties['cmc_stable'], atol=1e-6)
    else:
        np.testing.assert_allclose(scores['CMC'], golden['CMC'], atol=1e-6)
    assert scores['queries_without_match'] == golden['nan_fids']
    assert scores['num_queries_without_match'] == len(golden['nan_fids'])
    assert len(scores['aps']) == len(golden['aps'])

    if case == 'tiny_distances':
        return  # The APs of the original are of rounded scores, see test_ranking.py.
    np.testing.assert_allclose(scores['aps'], golden['aps'], atol=1e-6)
    assert scores['mAP'] == pytest.approx(golden['mAP'], abs=1e-6)
    summary = capsys.readouterr().out.splitlines()[0]
    if golden['summary_line'] is not None and not ties['ambiguous']:
        assert summary == golden['summary_line']


def test_both_average_precisions_are_always_named(tmp_path):
    step = evaluate_case('market', tmp_path)
    market1501 = evaluate_case('market', tmp_path, '--use_market_ap')
    assert step['mAP'] == step['mAP_step'] == market1501['mAP_step']
    assert market1501['mAP'] == market1501['mAP_market1501'] == step['mAP_market1501']
    assert step['mAP_step'] > step['mAP_market1501']
    assert step['CMC'] == market1501['CMC']


def test_block_size_does_not_matter(tmp_path):
    one_by_one = evaluate_case('market', tmp_path, '--batch_size=1')
    at_once = evaluate_case('market', tmp_path, '--batch_size=256')
    del one_by_one['args'], at_once['args']
    assert one_by_one == at_once


# --- what is printed and written -------------------------------------------------


def test_scores_by_hand(small, tmp_path, capsys):
    json_file = tmp_path / 'new' / 'scores.json'
    evaluate.main([*small, f'--filename={json_file}'])
    scores = json.loads(json_file.read_text(encoding='utf-8'))
    assert scores['aps'] == [0.5, 1]
    assert scores['mAP'] == scores['mAP_step'] == scores['mINP'] == 0.75
    # First query: no precision before and at the match of (0/1 + 1/2) / 2.
    assert scores['mAP_market1501'] == pytest.approx((1 / 4 + 1) / 2)
    assert scores['CMC'] == [0.5, 1, 1]
    assert scores['num_queries'] == 2
    assert scores['num_gallery'] == 3
    assert scores['args']['excluder'] == 'market1501'
    assert {'python', 'numpy'} <= set(scores['versions'])
    captured = capsys.readouterr()
    assert captured.out == (
        'mAP: 75.00% | top-1: 50.00% top-2: 100.00%\n'
        'mAP_step: 75.00% | mAP_market1501: 62.50% | mINP: 75.00%\n'
    )
    assert captured.err == ''


NO_MATCH_SCORES = {
    'original': ([0.5, 1], 0.75, [1 / 3, 2 / 3, 2 / 3]),
    'zero': ([0.5, 0, 1], 0.5, [1 / 3, 2 / 3, 2 / 3]),
    'drop': ([0.5, 1], 0.75, [1 / 2, 1, 1]),
}


@pytest.mark.parametrize('rule', NO_MATCH_SCORES)
def test_queries_without_a_match_count_as_the_rule_says(rule):
    first, second = np.array([1]), np.array([2])
    ranks = [ranking.MatchRanks(r, r) for r in (second, np.array([], int), first)]
    fids = np.array(['a', 'b', 'c'], object)
    scores = evaluate.compute_scores(ranks, fids, num_gallery=3, no_match=rule)
    aps, mean_ap, cmc = NO_MATCH_SCORES[rule]
    assert scores['aps'] == aps
    assert scores['mAP'] == scores['mINP'] == pytest.approx(mean_ap)
    np.testing.assert_allclose(scores['CMC'], cmc)
    assert scores['top'] == {'1': cmc[0], '2': cmc[1]}
    assert scores['num_queries'] == 3
    assert scores['queries_without_match'] == ['b']


def test_no_match_at_all_scores_0_if_the_rule_says_so(small, tmp_path, capsys):
    rows = (tmp_path / 'query.csv').read_text(encoding='utf-8').splitlines()
    text = '\n'.join('9' + row for row in rows)
    (tmp_path / 'query.csv').write_text(text, encoding='utf-8')
    for rule in ('original', 'drop'):
        with pytest.raises(ValueError, match='none of the 2 queries has a match'):
            evaluate.main([*small, f'--no_match={rule}'])
    evaluate.main([*small, '--no_match=zero'])
    captured = capsys.readouterr()
    assert captured.out.startswith('mAP: 0.00% | top-1: 0.00% top-2: 0.00%\n')
    assert '2 of 2 queries have no match' in captured.err


def save_hdf5(filename, name, embs):
    with h5py.File(filename, 'w') as file:
        file[name] = embs


EMBEDDING_FILES = {
    'emb.h5': lambda filename, embs: save_hdf5(filename, 'emb', embs),
    'embs.hdf5': lambda filename, embs: save_hdf5(filename, 'embs', embs),
    'array.npy': np.save,
    'only.npz': lambda filename, embs: np.savez(filename, whatever=embs),
    'emb.npz': lambda filename, embs: np.savez_compressed(
        filename, emb=embs, x=embs[:1]
    ),
}


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64', 'int8'])
@pytest.mark.parametrize('name', EMBEDDING_FILES)
def test_any_file_and_type_of_embeddings_is_read(name, dtype, small, tmp_path, capsys):
    filename = tmp_path / name
    EMBEDDING_FILES[name](filename, np.array([[1, 0], [2, 0], [9, 0]], dtype))
    evaluate.main([*small, f'--gallery_embeddings={filename}'])
    assert capsys.readouterr().out.startswith('mAP: 75.00%')


def test_numpy_files_that_are_none_are_named(small, tmp_path):
    filename = tmp_path / 'gallery.npy'
    filename.write_bytes(b'\x93NUMPY')
    with pytest.raises(ValueError, match='gallery.npy is not a complete NumPy file'):
        evaluate.main([*small, f'--gallery_embeddings={filename}'])
    np.save(filename, np.zeros(3))
    with pytest.raises(ValueError, match=r'expected one array emb .*found emb \[3\]'):
        evaluate.main([*small, f'--gallery_embeddings={filename}'])
    np.savez(tmp_path / 'two.npz', a=np.zeros((3, 2)), b=np.zeros((3, 2)))
    with pytest.raises(ValueError, match='two.npz has no embeddings'):
        evaluate.main([*small, f'--gallery_embeddings={tmp_path / "two.npz"}'])
    np.savez(filename.with_suffix('.npz'), emb=np.eye(3, 2), fid=['a', 'b', 'c'])
    with pytest.raises(ValueError, match='3 of 3 rows .*are different images'):
        evaluate.main([*small, f'--gallery_embeddings={tmp_path / "gallery.npz"}'])


@pytest.mark.parametrize(
    'fids, message',
    [
        (
            ['a', 'b'],
            r'gallery\.npz has fid of shape \[2\] and type text; expected \[3',
        ),
        (
            [1, 2, 3],
            r'fid of shape \[3\] and type int64, no text; expected \[3\] texts',
        ),
        ([['a'], ['b'], ['c']], r'fid of shape \[3, 1\] and type text'),
        (np.array([b'a', b'b', b'c']), r'3 of 3 rows .* in the CSV, a was embedded'),
    ],
)
def test_fids_of_numpy_files_are_one_text_for_each_row(fids, message, small, tmp_path):
    np.savez(tmp_path / 'gallery.npz', emb=np.eye(3, 2), fid=fids)
    with pytest.raises(common.InputError, match=message):
        evaluate.main([*small, f'--gallery_embeddings={tmp_path / "gallery.npz"}'])


def test_quiet_evaluation_writes_the_file_and_prints_nothing(small, tmp_path, capsys):
    filename = tmp_path / 'scores.json'
    evaluate.main([*small, '--quiet', '--filename', str(filename)])
    assert capsys.readouterr().out == ''
    assert json.loads(filename.read_text())['mAP'] == pytest.approx(0.75)


def test_quiet_evaluation_without_a_file_is_refused(small, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([*small, '--quiet'])
    assert stop.value.code == 2
    assert '--quiet without --filename tells nothing; give it a file' in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    'header, order',
    [('pid,fid', [0, 1]), ('who,what', [0, 1]), ('fid,size,PID', [1, None, 0])],
)
def test_a_header_is_skipped_or_decides_the_order(
    header, order, small, tmp_path, capsys
):
    for side in ('query', 'gallery'):
        csv_file = tmp_path / f'{side}.csv'
        rows = [line.split(',') for line in csv_file.read_text().splitlines()]
        rows = [[row[i] if i is not None else '' for i in order] for row in rows]
        csv_file.write_text('\n'.join([header, *map(','.join, rows)]))
    evaluate.main([*small, '--csv_header'])
    assert capsys.readouterr().out.startswith('mAP: 75.00%')


def test_rows_that_lack_a_named_column_are_refused(small, tmp_path):
    (tmp_path / 'query.csv').write_text('x,pid,fid\n1,a,b\n1,a\n')
    with pytest.raises(ValueError, match='query.csv: line 3 has 2 field'):
        evaluate.main([*small, '--csv_header'])


def test_cameras_may_come_from_the_csv(tmp_path, capsys):
    # Nearest is the query's own camera's, next the junk: both ignored.
    flags = [
        *write_side(tmp_path, 'query', ['a,1.png,x'], np.float32([[1]])),
        *write_side(
            tmp_path,
            'gallery',
            ['a,2.png,x', '-1,3.png,y', 'b,4.png,x', 'a,5.png,y'],
            np.float32([[1], [2], [3], [4]]),
        ),
    ]
    evaluate.main(['--excluder=csv', *flags])
    assert capsys.readouterr().out.startswith('mAP: 50.00% | top-1: 0.00% top-2: 100')
    (tmp_path / 'query.csv').write_text('a,1.png')
    with pytest.raises(ValueError, match="no camera in the row of '1.png'"):
        evaluate.main(['--excluder=csv', *flags])


@pytest.mark.parametrize(
    'num_gallery, expected',
    [
        (1, 'mAP: 50.00% | top-1: 0.00%'),
        (2, 'mAP: 50.00% | top-1: 0.00% top-2: 10.00%'),
        (9, 'mAP: 50.00% | top-1: 0.00% top-2: 10.00% | top-5: 40.00%'),
        (
            10,
            'mAP: 50.00% | top-1: 0.00% top-2: 10.00% | top-5: 40.00% | top-10: 90.00%',
        ),
    ],
)
def test_summary_stops_at_the_length_of_the_gallery(num_gallery, expected):
    cmc = np.arange(num_gallery) / 10
    assert evaluate.format_summary(0.5, cmc) == expected


def test_queries_without_a_match_are_counted_and_named(tmp_path, capsys):
    evaluate_case('market_nan', tmp_path)
    assert (
        '2 of 14 queries have no match in the gallery: left out of mAP, failures in '
        'the CMC (first: query/0900_c2s3_001976_00.jpg, query/0901_c3s1_002001_01.jpg)'
    ) in capsys.readouterr().err


def test_a_single_query_against_a_single_image(tmp_path, capsys):
    flags = [
        *write_side(tmp_path, 'query', ['a,1.png'], np.float32([[1]])),
        *write_side(tmp_path, 'gallery', ['a,2.png'], np.float32([[5]])),
    ]
    evaluate.main(['--excluder=diagonal', *flags])
    assert capsys.readouterr().out.startswith('mAP: 100.00% | top-1: 100.00%\n')


def test_embeddings_with_matching_fids_are_read(small, tmp_path, capsys):
    fids = ['q/0001_c1s1_000001_00.jpg', 'q/0002_c1s1_000002_00.jpg']
    with h5py.File(tmp_path / 'query.h5', 'a') as file:
        file['fid'] = fids
    evaluate.main(small)
    assert capsys.readouterr().out.startswith('mAP: 75.00%')


@pytest.mark.parametrize(
    'heading, fids, hint',
    [
        ('who,what', True, 'its first line is a heading: add --csv_header'),
        (
            'who,what',
            False,
            'embed this very CSV, or add --csv_header if its first line is a heading',
        ),
        (None, True, 'embed this very CSV'),  # One row more, but not the first.
    ],
)
def test_heading_that_nobody_announced_is_recognised_by_one_row_more(
    tmp_path, heading, fids, hint
):
    rows = ['a,1.png', 'b,2.png']
    embedded = ['1.png', '2.png']
    lines = [heading, *rows] if heading else [*rows, 'c,3.png']
    columns = {'fid': embedded} if fids else {}
    flags = [
        *write_side(tmp_path, 'query', lines, np.float32([[1], [2]]), **columns),
        *write_side(tmp_path, 'gallery', rows, np.float32([[1], [2]])),
    ]
    with pytest.raises(common.InputError) as error:
        evaluate.main(['--excluder=diagonal', *flags])
    assert str(error.value) == (
        f'{tmp_path}/query.h5 has 2 embeddings but {tmp_path}/query.csv has 3 rows; '
        f'{hint}'
    )


def test_an_image_of_two_identities_is_scored_as_each(tmp_path, capsys):
    """Two people in one picture are no contradiction where nothing is learned."""
    both = np.float32([[0], [0], [9]])
    flags = [
        *write_side(tmp_path, 'query', ['a,1.png', 'b,2.png'], np.float32([[0], [0]])),
        *write_side(tmp_path, 'gallery', ['a,x.png', 'b,x.png', 'c,y.png'], both),
    ]
    evaluate.main(['--excluder=diagonal', *flags])
    # Both rows of x.png are tied: the first is rank one, the other rank two of both.
    assert capsys.readouterr().out.startswith('mAP: 50.00% | top-1: 50.00%')


def test_thresholds_by_hand(small, tmp_path, capsys):
    # Same pairs at 1 and 2, different ones at 1 and 9 (first query), 9 and 8.
    json_file = tmp_path / 'scores.json'
    evaluate.main([*small, '--thresholds', f'--filename={json_file}'])
    scores = json.loads(json_file.read_text(encoding='utf-8'))
    assert (scores['num_same_pairs'], scores['num_different_pairs']) == (2, 4)
    # Of 8 comparisons one is wrong, 1 before 2, and one is tied.
    assert scores['roc_auc'] == pytest.approx((6 + 1 / 2) / 8)
    histogram = scores['distance_histogram']
    assert sum(histogram['same']) == 2
    assert sum(histogram['different']) == 4
    rows = {row.pop('rule'): row for row in scores['thresholds']}
    assert (
        rows['FPR at most 0.01']
        == rows['FPR at most 0.0001']
        == {
            'threshold': -1,
            'fpr': 0,
            'tpr': 0,
            'num_same_accepted': 0,
            'num_different_accepted': 0,
        }
    )
    assert rows['equal error rate']['num_same_accepted'] == 2
    assert rows['equal error rate']['num_different_accepted'] == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith('pairs: 2 same, 4 different | ROC AUC: 81.25%')
    assert lines[4].split()[:3] == ['2.00098', '100.00%', '25.0000%']
    assert lines[5].split()[0] == 'nothing'
    assert lines[5].endswith('FPR at most 0.01 (few pairs)')


def test_queries_of_one_camera_become_one(tmp_path, capsys):
    # Alone, the query at 0 finds b first, and the one at 4 finds a.
    flags = [
        '--excluder=market1501',
        *write_side(
            tmp_path,
            'query',
            ['1,1_c1s1_a.jpg', '1,1_c1s2_b.jpg', '1,1_c2s1_c.jpg'],
            np.float32([[0], [4], [4]]),
        ),
        *write_side(
            tmp_path,
            'gallery',
            ['2,2_c3s1_d.jpg', '1,1_c3s1_e.jpg'],
            np.float32([[0.5], [3]]),
        ),
        f'--filename={tmp_path / "scores.json"}',
    ]
    for multi_query, aps in [('', [0.5, 1, 1]), ('mean', [1, 1]), ('max', [1, 1])]:
        evaluate.main([*flags, *([f'--multi_query={multi_query}'] * bool(multi_query))])
        scores = json.loads((tmp_path / 'scores.json').read_text(encoding='utf-8'))
        assert scores['aps'] == aps
    with pytest.raises(ValueError, match='--multi_query needs cameras'):
        evaluate.main([*flags, '--excluder=diagonal', '--multi_query=mean'])
    capsys.readouterr()


def test_tracklets_of_mars_are_pooled_and_queries_are_in_its_gallery(tmp_path, capsys):
    # Two query tracklets of one PID, cameras 1 and 2, are each other's match.
    flags = [
        *write_side(
            tmp_path,
            'query',
            [f'0002,0002C{c}T0001F00{f}.jpg' for c, f in ['11', '12', '21', '22']],
            np.float32([[0], [2], [1], [3]]),
        ),
        *write_side(
            tmp_path,
            'gallery',
            [
                '0004,0004C1T0001F001.jpg',
                '0002,0002C3T0001F001.jpg',
                '00-1,00-1C3T0001F001.jpg',
            ],
            np.float32([[9], [20], [1]]),
        ),
        f'--filename={tmp_path / "scores.json"}',
    ]
    evaluate.main(['--excluder=mars', '--pool=mean', *flags])
    scores = json.loads((tmp_path / 'scores.json').read_text(encoding='utf-8'))
    assert (scores['num_queries'], scores['num_gallery']) == (2, 3)
    assert scores['aps'] == [1 / 2, 1 / 2]
    evaluate.main(
        ['--excluder=mars', '--pool=mean', '--gallery_includes_queries', *flags]
    )
    scores = json.loads((tmp_path / 'scores.json').read_text(encoding='utf-8'))
    assert (scores['num_queries'], scores['num_gallery']) == (2, 5)
    assert scores['aps'] == [(1 + 2 / 3) / 2] * 2
    with pytest.raises(ValueError, match='--pool needs names with tracklets'):
        evaluate.main(['--excluder=diagonal', '--pool=mean', *flags])
    capsys.readouterr()


def test_random_galleries_are_scored_beside_the_whole(small, tmp_path, capsys):
    json_file = tmp_path / 'scores.json'
    evaluate.main([*small, '--single_shot=3', f'--filename={json_file}'])
    scores = json.loads(json_file.read_text(encoding='utf-8'))
    # One image per PID as it is: nothing varies.
    assert scores['single_shot'] == {'CMC_mean': [0.5, 1, 1], 'CMC_std': [0, 0, 0]}
    assert capsys.readouterr().out.splitlines()[2] == (
        'single-shot, 3 galleries of 3 PIDs | top-1: 50.00% ± 0.00%'
    )


def test_random_galleries_have_no_junk_and_follow_the_rule_of_no_match(
    tmp_path, capsys
):
    # Queries at 0: a has its match at 1; nobody else's is there. Junk is nearest.
    flags = [
        '--excluder=market1501',
        *write_side(
            tmp_path,
            'query',
            ['0001,0001_c1s1_a.jpg', '0002,0002_c1s1_b.jpg'],
            np.float32([[0], [0]]),
        ),
        *write_side(
            tmp_path,
            'gallery',
            ['-1,-1_c2s1_c.jpg', '0001,0001_c2s1_d.jpg', '0003,0003_c2s1_e.jpg'],
            np.float32([[0.5], [1], [2]]),
        ),
        '--single_shot=3',
        f'--filename={tmp_path / "scores.json"}',
    ]
    for rule, cmc in [('original', 0.5), ('zero', 0.5), ('drop', 1)]:
        evaluate.main([*flags, f'--no_match={rule}'])
        scores = json.loads((tmp_path / 'scores.json').read_text(encoding='utf-8'))
        assert scores['single_shot']['CMC_mean'] == [cmc, cmc]
        assert 'single-shot, 3 galleries of 2 PIDs | top-1: ' in capsys.readouterr().out


def test_reranked_scores_are_of_other_distances(tmp_path):
    plain = evaluate_case('market', tmp_path)
    same = evaluate_case('market', tmp_path, '--rerank', '--rerank_lambda=1')
    reranked = evaluate_case('market', tmp_path, '--rerank', '--rerank_k1=5')
    np.testing.assert_allclose(same['aps'], plain['aps'])
    assert reranked['aps'] != plain['aps']
    assert reranked['num_queries'] == plain['num_queries']


# --- bad input -------------------------------------------------------------------


@pytest.mark.parametrize(
    'more',
    [
        *([], ['--rerank'], ['--thresholds'], ['--single_shot=2']),
        ['--multi_query=mean'],
    ],
)
def test_huge_embeddings_are_refused_whatever_is_computed(more, small, tmp_path):
    with h5py.File(tmp_path / 'query.h5', 'a') as file:
        replace_embs(file, np.float64([[1e200, 0], [0, 1e200]]))
    with pytest.raises(common.InputError, match='float32.*; scale the embeddings down'):
        evaluate.main([*small, *more])


@pytest.mark.parametrize('text', ['x', '2', '-0.1', 'nan', ''])
def test_weights_of_distances_beyond_0_to_1_are_refused(text, small, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([*small, f'--rerank_lambda={text}'])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.search(rf"--rerank_lambda: '?{text}'? given, .*0 to 1 expected", error)


def test_a_place_for_no_file_is_refused_before_anything_is_read(tmp_path):
    flags = ['--excluder=diagonal']
    for side in ('query', 'gallery'):
        flags += [f'--{side}_dataset={tmp_path}/none.csv', f'--{side}_embeddings=none']
    with pytest.raises(common.FileError, match='is a directory, a file name was exp'):
        evaluate.main([*flags, f'--filename={tmp_path}'])
    (tmp_path / 'file').touch()
    with pytest.raises(common.FileError, match='/file is a file, a directory was exp'):
        evaluate.main([*flags, f'--filename={tmp_path}/file/new/scores.json'])
    with pytest.raises(common.FileError, match=r'none\.csv does not exist'):
        evaluate.main([*flags, f'--filename={tmp_path}/new/scores.json'])
    assert {path.name for path in tmp_path.iterdir()} == {'file'}


def replace_embs(file, embs):
    del file['emb']
    file['emb'] = embs


HDF5_FAULTS = {
    'has 3 embeddings but .*query.csv has 2 rows': lambda file: replace_embs(
        file, np.zeros((3, 2), np.float32)
    ),
    'has 5 dimensions but .*gallery.h5 has 2; embed both': lambda file: replace_embs(
        file, np.zeros((2, 5), np.float32)
    ),
    r'1 of 2 embeddings .*NaN .*row 2, q/0002_c1s1': lambda file: replace_embs(
        file, np.float32([[1, 2], [np.nan, 0]])
    ),
    r'2 of 2 embeddings .*row 1, q/0001_c1s1': lambda file: replace_embs(
        file, np.float32([[1, np.inf], [-np.inf, 0]])
    ),
    r'no embeddings; expected .* found emb \[2\] float32': lambda file: replace_embs(
        file, np.float32([1, 2])
    ),
    'no embeddings; expected .* found nothing': lambda file: file.pop('emb'),
    'no embeddings; expected .* found emb/': lambda file: (
        file.pop('emb'),
        file.create_group('emb'),
    ),
    r'fid of shape \[1\] and type text; expected \[2\] texts, .* correct it or': (
        lambda file: file.create_dataset('fid', data=['q/0001_c1s1_000001_00.jpg'])
    ),
    r'fid of shape \[3\] and type text; expected \[2\] texts': (
        lambda file: file.create_dataset('fid', data=['a', 'b', 'c'])
    ),
    r'fid of shape \[2\] and type int64, no text; expected': (
        lambda file: file.create_dataset('fid', data=[1, 2])
    ),
    r'fid of shape \[2, 1\] and type text; expected': (
        lambda file: file.create_dataset('fid', data=[['a'], ['b']])
    ),
    r'fid of shape \[\] and type text; expected': (
        lambda file: file.create_dataset('fid', data='a')
    ),
    r'fid of shape no shape and type int32, no text; expected': (
        lambda file: file.create_dataset('fid', data=h5py.Empty('i4'))
    ),
    r'query\.h5 has a group fid, expected a data set': (
        lambda file: file.create_group('fid')
    ),
    r'2 of 2 rows of .*, \udcff was embedded': (
        lambda file: file.create_dataset('fid', data=np.array([b'\xff', b'\xfe']))
    ),
    r'1 of 2 rows of .*row 2, q/0002_c1s1_000002_00.jpg in the CSV, q/x.jpg was': (
        lambda file: file.create_dataset(
            'fid', data=['q/0001_c1s1_000001_00.jpg', 'q/x.jpg']
        )
    ),
}


@pytest.mark.parametrize('message', HDF5_FAULTS)
def test_embeddings_that_do_not_fit_are_refused(message, small, tmp_path):
    with h5py.File(tmp_path / 'query.h5', 'a') as file:
        HDF5_FAULTS[message](file)
    with pytest.raises(ValueError, match=message):
        evaluate.main(small)


@pytest.mark.parametrize('keep', [0, 5, 700])
def test_a_file_that_is_not_complete_hdf5_is_named(keep, small, tmp_path):
    filename = tmp_path / 'gallery.h5'
    filename.write_bytes(filename.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r'gallery.h5 is not a complete HDF5 file'):
        evaluate.main(small)


def test_a_fid_that_does_not_parse_is_named(small, tmp_path):
    rows = (tmp_path / 'gallery.csv').read_text(encoding='utf-8').splitlines()
    rows[1] = '0001,cat.jpg'
    (tmp_path / 'gallery.csv').write_text('\n'.join(rows), encoding='utf-8')
    with pytest.raises(ValueError, match="no PID and camera in 'cat.jpg'"):
        evaluate.main(small)


def test_no_match_at_all_is_an_error(small, tmp_path):
    rows = (tmp_path / 'query.csv').read_text(encoding='utf-8').splitlines()
    rows = ['9' + row for row in rows]
    (tmp_path / 'query.csv').write_text('\n'.join(rows), encoding='utf-8')
    with pytest.raises(ValueError, match='none of the 2 queries has a match'):
        evaluate.main(small)


def test_a_failing_run_leaves_an_old_result_as_it_was(small, tmp_path):
    json_file = tmp_path / 'scores.json'
    json_file.write_text('precious', encoding='utf-8')
    with h5py.File(tmp_path / 'query.h5', 'a') as file:
        replace_embs(file, np.zeros((3, 2), np.float32))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match='3 embeddings'):
        evaluate.main([*small, f'--filename={json_file}'])
    assert json_file.read_text(encoding='utf-8') == 'precious'
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize('name', ['query.csv', 'query.h5', 'gallery.h5'])
def test_a_missing_file_is_one_line_and_exit_code_1(name, small, tmp_path):
    (tmp_path / name).unlink()
    result = run_command(*small)
    assert result.returncode == 1
    assert result.stdout == ''
    (line,) = result.stderr.splitlines()
    assert line.startswith(f'evaluate.py: error: {tmp_path / name}')


def test_bad_flags_exit_with_2(small):
    assert run_command(*small[1:]).returncode == 2
    result = run_command(*small, '--metric=taxi')
    assert result.returncode == 2
    assert "invalid choice: 'taxi'" in result.stderr


# --- what is not imported --------------------------------------------------------


def run_and_list_modules(flags):
    """Run evaluate.main in a fresh interpreter; return the modules it loaded."""
    code = (
        'import sys, evaluate\n'
        'try:\n'
        f'    evaluate.main({flags!r})\n'
        'except SystemExit:\n'
        '    pass\n'
        'print(*sys.modules)'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_tensorflow_is_never_imported(small):
    for metric in golden_evaluation.METRICS:
        modules = run_and_list_modules([*small, f'--metric={metric}'])
        assert 'h5py._hl' in modules
        assert 'tensorflow' not in modules


def test_what_takes_long_to_import_and_is_not_needed_is_not_imported(small):
    assert not {'numpy.ma', '_hashlib', 'scipy'} & run_and_list_modules(small)


def test_help_imports_nothing_slow():
    modules = run_and_list_modules(['--help'])
    slow = {'tensorflow', 'pandas.core', 'scipy', 'sklearn', 'h5py._hl', 'matplotlib'}
    assert not slow & modules


def set_origin(directory, side, **attributes):
    """Let an HDF5 file of `small` say where its embeddings come from."""
    with h5py.File(directory / f'{side}.h5', 'a') as file:
        file.attrs.update(attributes)


def test_sets_of_different_weights_are_refused(small, tmp_path):
    set_origin(tmp_path, 'query', weights='v', checkpoint='checkpoint-1')
    evaluate.main(small)  # The gallery does not say.
    set_origin(tmp_path, 'gallery', weights='w', checkpoint='checkpoint-2')
    with pytest.raises(common.InputError, match=r'query.h5 was embedded by check'):
        evaluate.main(small)
    set_origin(tmp_path, 'gallery', weights='v')
    evaluate.main(small)


def test_sets_that_were_augmented_otherwise_are_told(small, tmp_path, capsys):
    flags = {'flip_augment': False, 'crop_augment': 'center', 'aggregator': None}
    set_origin(tmp_path, 'query', args=json.dumps(flags))
    evaluate.main(small)
    assert capsys.readouterr().err == ''
    set_origin(tmp_path, 'gallery', args='{}', weights='w', checkpoint='c')
    filename = tmp_path / 'scores.json'
    evaluate.main([*small, '--filename', str(filename)])
    told = capsys.readouterr().err
    assert 'the query set was embedded with --crop_augment center, the gallery' in told
    assert 'with no augmentation' in told
    plain = {'flip_augment': False, 'crop_augment': None, 'aggregator': None}
    assert json.loads(filename.read_text())['embeddings'] == {
        'weights': 'w',
        'checkpoint': 'c',
        'view': plain,
    }
