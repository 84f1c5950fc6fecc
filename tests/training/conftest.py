"""A run of four iterations that tests of train.py share."""

import json
import shutil

import pytest

import tiny_run
from run_files import list_names, read_array


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Return a directory with train.csv: four PIDs, the last with a single image."""
    directory = tmp_path_factory.mktemp('data')
    tiny_run.write_dataset(directory, num_images=(3, 3, 3, 1))
    return directory


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory, one_block_net):
    """Return the root of a run of four iterations with all that can be logged."""
    root = tmp_path_factory.mktemp('finished') / 'exp'
    tiny_run.start(
        data,
        root,
        *('--train_iterations', '4', '--decay_start_iteration', '2'),
        *('--flip_augment', '--crop_augment'),
        *('--pre_crop_height', str(tiny_run.HEIGHT + 4)),
        *('--pre_crop_width', str(tiny_run.WIDTH)),  # No margin to the sides.
        *('--checkpoint_frequency', '1', '--histogram_frequency', '2'),
        '--detailed_logs',
    )
    return root


@pytest.fixture
def experiment(data, finished, tmp_path):
    """Return the root of a run to be resumed: two of the four iterations are made."""
    root = tmp_path / 'exp'
    root.mkdir()
    for name in ('args.json', 'train.log', *list_names(finished, 'checkpoint-2.*')):
        shutil.copy(finished / name, root)
    (root / 'checkpoint').write_text('model_checkpoint_path: "checkpoint-2"\n')
    for name in ('embeddings', 'losses', 'fids'):
        header = json.loads((finished / f'{name}.json').read_text())
        rows = read_array(finished, name)[:2]
        (root / name).write_bytes(rows.tobytes())
        header['shape'][0] = 2
        (root / f'{name}.json').write_text(json.dumps(header))
    return root
