import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import excluders
import golden_evaluation

ROOT = pathlib.Path(__file__).parents[1]


def build(name, gallery_fids):
    return golden_evaluation.excluder_class(name)(gallery_fids)


def test_the_folder_is_the_list():
    assert {'diagonal', 'duke', 'market1501'} <= set(excluders.EXCLUDER_CHOICES)
    assert not any(name.startswith('_') for name in excluders.EXCLUDER_CHOICES)


@pytest.mark.parametrize('name', excluders.EXCLUDER_CHOICES)
def test_every_excluder_fulfils_the_contract(name):
    # An image is always too similar to itself, under every protocol.
    fid = getattr(golden_evaluation.excluder_class(name), 'example', 'a/b.jpg')
    excluder = build(name, [fid, fid])
    mask = excluder([fid, fid, fid])
    assert mask.dtype == bool
    assert mask.shape == (3, 2)
    assert mask.all()
    assert excluder([]).shape == (0, 2)


@pytest.mark.parametrize('name', ['market1501', 'duke', 'diagonal'])
def test_awkward_names_are_masked_as_by_the_original(name):
    golden = golden_evaluation.MASKS[name]
    mask = build(name, golden['gallery'])(golden['query'])
    np.testing.assert_array_equal(mask, np.array(golden['mask'], bool))


@pytest.mark.parametrize('case', golden_evaluation.CASES)
def test_data_sets_are_masked_as_by_the_original(case):
    (_, query_fids, _), (_, gallery_fids, _), excluder_of = golden_evaluation.load(case)
    mask = excluder_of(gallery_fids)(query_fids)
    expected = golden_evaluation.ARRAYS[f'{case}/excluder_mask']
    np.testing.assert_array_equal(mask, expected)


def test_blocks_of_queries_give_the_rows_of_the_whole_mask():
    golden = golden_evaluation.MASKS['market1501']
    excluder = build('market1501', golden['gallery'])
    rows = [excluder([fid])[0] for fid in golden['query']]
    np.testing.assert_array_equal(rows, excluder(golden['query']))


def test_camera_is_the_last_field_that_looks_like_one():
    # As a directory of a video, say: PID `7_c1s1_out`, camera 2.
    excluder = build('market1501', ['7_c1s1_out_c2s1_0_0.jpg'])
    assert excluder(['7_c1s1_out_c2s9_5_5.jpg', '7_c1s1_0_0.jpg']).tolist() == [
        [True],
        [False],
    ]


@pytest.mark.parametrize('entry', golden_evaluation.MASKS['unparseable'])
def test_a_name_the_original_could_not_parse_is_named(entry):
    name, fid = entry.split(' ')
    example = golden_evaluation.excluder_class(name).example
    message = re.escape(
        f"no PID and camera in '{fid}'; {name} names look like {example}"
    )
    with pytest.raises(ValueError, match=message):
        build(name, [example, fid])
    with pytest.raises(ValueError, match=message):
        build(name, [example])([fid])


def test_registry_imports_no_tensorflow():
    code = (
        'import importlib, sys, excluders\n'
        'for name in excluders.EXCLUDER_CHOICES:\n'
        '    importlib.import_module(f"excluders.{name}")\n'
        'assert "tensorflow" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_the_excluder_in_the_documentation_works(tmp_path):
    text = (ROOT / 'docs' / 'excluders.md').read_text(encoding='utf-8')
    module, check = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    shutil.copytree(ROOT / 'excluders', tmp_path / 'excluders')
    (tmp_path / 'excluders' / 'shop.py').write_text(module, encoding='utf-8')
    check += '\nimport excluders\nassert "shop" in excluders.EXCLUDER_CHOICES\n'
    subprocess.run([sys.executable, '-c', check], cwd=tmp_path, check=True)
