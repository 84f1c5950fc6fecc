"""The embedded data set has Market-1501's layout, and is the same for the same seed."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

import common
import tiny_run
from drawn_people import __main__, bodies, files, images, limbs, people, plan, scenes

SMALL = {
    'num_train_pids': 3,
    'num_test_pids': 2,
    'num_distractors': 6,
    'num_junk': 4,
}
NAME = re.compile(r'(-1|\d{4})_c([1-4])s[1-6]_\d{6}_\d{2}\.jpg')


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """A small data set of seed 0; tests must not change it."""
    directory = tmp_path_factory.mktemp('demo') / 'set'
    assert files.write_dataset(directory, 0, **SMALL)
    return directory


def list_subset(directory, subset):
    """Return the sorted (pid, cid) strings of a subset's file names."""
    names = [path.name for path in (directory / subset).iterdir()]
    return sorted(NAME.fullmatch(name).groups() for name in names)


def read_all(directory):
    """Return {relative path: bytes} of every file in `directory`."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob('*'))
        if path.is_file()
    }


def test_every_file_has_a_market1501_name_and_size(dataset):
    for subset in files.SUBSETS:
        for path in (dataset / subset).iterdir():
            assert NAME.fullmatch(path.name), path
            assert cv2.imread(str(path)).shape == (128, 64, 3)


def test_marker_counts_the_images(dataset):
    marker = json.loads((dataset / 'demo_data.json').read_text())
    counts = {s: len(list((dataset / s).iterdir())) for s in files.SUBSETS}
    # A test identity has 1 query and 3 gallery images in each of 4 cameras.
    assert counts['query'] == 2 * 4
    assert counts['bounding_box_test'] == 2 * 4 * 3 + 6 + 4
    # A training identity has 4 or 5 images in each of 4 cameras.
    assert 3 * 4 * 4 <= counts['bounding_box_train'] <= 3 * 4 * 5
    assert marker == SMALL | counts | {'seed': 0}


def test_training_and_test_identities_are_disjoint(dataset):
    train = {pid for pid, _ in list_subset(dataset, 'bounding_box_train')}
    query = {pid for pid, _ in list_subset(dataset, 'query')}
    gallery = {pid for pid, _ in list_subset(dataset, 'bounding_box_test')}
    assert (len(train), len(query)) == (3, 2)
    assert not train & gallery
    assert gallery == query | {'0000', '-1'}


def test_every_query_has_gallery_images_under_the_other_cameras(dataset):
    gallery = set(list_subset(dataset, 'bounding_box_test'))
    for pid, cid in list_subset(dataset, 'query'):
        for other_cid in set('1234') - {cid}:
            assert (pid, other_cid) in gallery


def test_full_size_plan_has_unique_names():
    train_pids, test_pids = plan.split_pids(0, 60, 40)
    assert sorted(train_pids + test_pids) == list(range(1, 101))
    shots = [
        *plan.plan_people(0, train_pids, test_pids),
        *plan.plan_nuisances(101, test_pids, 60, 30),
    ]
    names = {(s.subset, s.pid, s.camera.cid, s.index) for s in shots}
    assert len(names) == len(shots)


def test_same_seed_gives_the_same_bytes(dataset, tmp_path):
    files.write_dataset(tmp_path / 'again', 0, **SMALL)
    assert read_all(tmp_path / 'again') == read_all(dataset)


def test_another_seed_gives_other_images(dataset, tmp_path):
    files.write_dataset(tmp_path / 'other', 1, **SMALL)
    contents = set(read_all(dataset).values())
    assert not contents & set(read_all(tmp_path / 'other').values())


def test_an_identity_does_not_depend_on_how_many_there_are():
    shot = plan.Shot('query', 7, scenes.CAMERAS[0], 0, person=7)
    name, image = plan.draw_shot(3, shot)
    again_name, again_image = plan.draw_shot(3, shot)
    assert name == again_name
    np.testing.assert_array_equal(image, again_image)


# Of seed 0, as its first version drew them. A name ends in numbers drawn after all of
# the image: one random number more or less, or in another order, gives another name.
@pytest.mark.parametrize(
    'pid, name, colour',
    [
        (7, '0007_c1s5_000038_00.jpg', (160.54, 119.09, 114.55)),
        (8, '0008_c2s4_000019_00.jpg', (131.27, 115.03, 113.70)),
        (9, '0009_c3s6_000084_00.jpg', (94.59, 102.21, 73.32)),
        (10, '0010_c4s6_000016_00.jpg', (160.76, 153.15, 150.13)),
    ],
)
def test_people_of_seed_0_are_drawn_as_ever(pid, name, colour):
    shot = plan.Shot('query', pid, scenes.CAMERAS[pid - 7], 0, person=pid)
    drawn_name, image = plan.draw_shot(0, shot)
    assert drawn_name == name
    # Another OpenCV may round any pixel otherwise, by less than 0.5.
    np.testing.assert_allclose(image.mean(axis=(0, 1)), colour, rtol=0, atol=0.5)


@pytest.mark.parametrize('camera', scenes.CAMERAS, ids=lambda c: c.scene)
@pytest.mark.parametrize('frame', [images.frame_well, images.frame_badly])
def test_a_person_differs_from_the_empty_scene(camera, frame):
    identity = people.make_identity(people.make_rng(5))
    drawn = [
        images.draw_person(who, camera, people.make_rng(1), frame)
        for who in (identity, None)
    ]
    assert all(image.dtype == np.uint8 for image in drawn)
    assert all(image.shape == (128, 64, 3) for image in drawn)
    assert (drawn[0] != drawn[1]).mean() > 0.05


@pytest.mark.parametrize('seed', range(30))
def test_a_body_stands_on_the_ground_and_is_about_one_high(seed):
    rng = people.make_rng(seed)
    identity = people.make_identity(rng)
    pose = bodies.make_pose(rng, scenes.CAMERAS[0])
    up = np.concatenate(
        [o for part in limbs.make_body(identity, pose) for o in part.outlines]
    )[:, 1]
    assert up.min() == pytest.approx(0)
    assert 0.9 < up.max() < 1.1  # A wide step lowers the head, a hat raises it.


def test_rerun_leaves_a_complete_set_alone(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob('*')}
    assert not files.write_dataset(dataset, 0, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob('*')} == before


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / 'empty').mkdir()
    assert files.write_dataset(tmp_path / 'empty', 0, **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['empty']


def test_a_foreign_directory_is_refused_and_untouched(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(common.FileError, match=f'{tmp_path} is not empty and no demo'):
        files.write_dataset(tmp_path, 0, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_a_set_of_another_seed_is_refused(dataset):
    with pytest.raises(common.FileError, match='demo data set of seed 0, not 1'):
        files.write_dataset(dataset, 1, **SMALL)


def test_a_set_with_missing_images_is_refused(tmp_path):
    files.write_dataset(tmp_path / 'set', 0, **SMALL)
    next((tmp_path / 'set' / 'query').iterdir()).unlink()
    with pytest.raises(common.FileError, match='has lost or gained images'):
        files.write_dataset(tmp_path / 'set', 0, **SMALL)


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, 'draw_shot', interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_dataset(tmp_path / 'set', 0, **SMALL)
    assert not list(tmp_path.iterdir())


def test_command_draws_a_contact_sheet_once_and_names_what_it_refuses(
    dataset, tmp_path, monkeypatch, capsys
):
    for name, value in SMALL.items():
        monkeypatch.setitem(files.write_dataset.__kwdefaults__, name, value)
    sheet = tmp_path / 'sheet.png'
    assert __main__.main([str(dataset), '--contact_sheet', str(sheet)]) == 0
    assert 'already holds the demo data set of seed 0' in capsys.readouterr().out
    # 3 training identities, distractors and junk; 4 cameras of 3 images and gaps.
    assert cv2.imread(str(sheet)).shape == (5 * 132, 4 * (3 * 68 + 4), 3)


def run_command(*flags):
    """Run the command as a user does; return the finished process."""
    command = [sys.executable, '-m', 'drawn_people', *map(str, flags)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tiny_run.ROOT
    )


def test_usage_shows_what_to_type_and_an_error_the_name():
    assert run_command('--help').stdout.startswith('usage: python -m drawn_people [-h]')
    result = run_command()
    assert result.returncode == 2
    assert result.stderr == (
        'drawn_people: error: the following arguments are required: output_dir '
        '(see --help)\n'
    )


def test_command_reports_a_refusal_in_one_line(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    result = run_command(tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f'drawn_people: error: {tmp_path} is not empty')
    assert result.stderr.count('\n') == 1
