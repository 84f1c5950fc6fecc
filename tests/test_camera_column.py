"""A CSV with a heading and a camera column goes through every command as it is."""

import json

import h5py
import pytest

import datasets
import embed
import evaluate
import make_csv
import tiny_run
import train

CAMERAS = ('gate', 'till', 'yard')


@pytest.fixture(scope='module')
def split(tmp_path_factory, one_block_net):
    """Return the directory of images and CSVs, some identities held back."""
    directory = tmp_path_factory.mktemp('shop')
    tiny_run.write_dataset(directory, num_images=(3,) * 6)
    # Columns in another order than ours, and one that nobody asked for.
    lines = ['camera,note,FID,PID']
    lines += [
        f'{camera},"a, b",{pid}_{i}.png,{pid}'
        for pid in range(6)
        for i, camera in enumerate(CAMERAS)
    ]
    (directory / 'shop.csv').write_text('\n'.join(lines) + '\n')
    make_csv.main(
        [
            'split',
            str(directory / 'shop.csv'),
            '--csv_header',
            '--excluder',
            'csv',
            '--val_pids',
            '3',
            '--output_dir',
            str(directory),
        ]
    )
    return directory


@pytest.fixture(scope='module')
def trained(split):
    """Return the root of a run that validates."""
    root = split / 'exp'
    train.main(
        [
            *('--experiment_root', str(root), '--image_root', str(split)),
            *('--train_set', str(split / 'shop_rest.csv'), '--csv_header'),
            *('--val_set', str(split / 'shop_val_gallery.csv')),
            *('--val_query', str(split / 'shop_val_query.csv')),
            *('--val_excluder', 'csv', '--seed', '1', '--train_iterations', '2'),
            *tiny_run.model_flags(),
        ]
    )
    return root


def test_scores_of_validation_are_those_of_embed_and_evaluate(split, trained):
    best = json.loads((trained / 'best.json').read_text())
    flags = ['--excluder', 'csv', '--csv_header', '--filename', str(split / 'x.json')]
    for role in ('query', 'gallery'):
        csv_file, output = split / f'shop_val_{role}.csv', split / f'{role}.h5'
        embed.main(
            [
                *('--experiment_root', str(trained), '--checkpoint', 'best'),
                *('--dataset', str(csv_file), '--csv_header'),
                *('--filename', str(output), '--quiet'),
            ]
        )
        with h5py.File(output) as file:
            dataset = datasets.read(str(csv_file), has_header=True)
            assert file['fid'].asstr()[:].tolist() == dataset.fids.tolist()
        flags += [f'--{role}_dataset', str(csv_file), f'--{role}_embeddings', output]
    evaluate.main(list(map(str, flags)))
    scores = json.loads((split / 'x.json').read_text())
    assert scores['mAP'] == pytest.approx(best['mAP'], abs=1e-12)
    # Of three images, one is the query, whose camera no other has.
    assert scores['num_queries'] == 3
    assert scores['num_gallery'] == 6


def test_cameras_are_those_of_the_column(split):
    query = datasets.read(str(split / 'shop_val_query.csv'), has_header=True)
    for fid, cid in zip(query.fids, query.cids, strict=True):
        assert cid == CAMERAS[int(fid[2])]


def test_resumed_run_remembers_the_heading(trained):
    assert json.loads((trained / 'args.json').read_text())['csv_header'] is True
    tiny_run.resume(trained, '--train_iterations', '3')
    assert (trained / 'checkpoint-3.index').is_file()
