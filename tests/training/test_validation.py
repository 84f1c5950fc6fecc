"""validation.py, and train.py --val_set: scores, the best checkpoint, resuming."""

import contextlib
import json
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import embed
import evaluate
import plot
import tiny_run
from training import journal, validation

pytestmark = pytest.mark.usefixtures('one_block_net')


def name(pid, camera, frame):
    """Return a FID of Market-1501's kind."""
    return f'{pid:04d}_c{camera}s1_{frame:06d}_00.png'


def write_csv(filename, fids):
    filename.write_text(''.join(f'{fid[:4]},{fid}\n' for fid in fids))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Return a directory with train.csv (PIDs 0-3), query.csv and gallery.csv (5-8)."""
    directory = tmp_path_factory.mktemp('data')
    tiny_run.write_dataset(directory)
    query = [name(pid, 1, 0) for pid in range(5, 9)]
    gallery = [name(pid, camera, 1) for pid in range(5, 9) for camera in (1, 2)]
    for seed, fid in enumerate(query + gallery):
        tiny_run.write_noise(directory / fid, 100 + seed)
    write_csv(directory / 'query.csv', query)
    write_csv(directory / 'gallery.csv', gallery)
    return directory


def val_flags(data):
    return [
        *('--val_set', str(data / 'gallery.csv')),
        *('--val_query', str(data / 'query.csv')),
        *('--val_excluder', 'market1501'),
    ]


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """Return the root of a run of five iterations, validated after 2, 4 and 5."""
    root = tmp_path_factory.mktemp('finished') / 'exp'
    tiny_run.start(
        data,
        root,
        *('--train_iterations', '5', '--val_every', '2', '--learning_rate', '0.01'),
        *('--checkpoint_frequency', '2', *val_flags(data)),
    )
    return root


def read_scores(root):
    """Return {step: (mAP, top-1)} of a run's events."""
    events = plot.read_events(str(root))
    steps, maps = events['val/mAP']
    _, top1s = events['val/top1']
    return dict(zip(steps, zip(maps, top1s, strict=True), strict=True))


def log_of(root):
    return (root / 'train.log').read_text(encoding='utf-8')


def test_every_few_iterations_and_at_the_end(finished):
    assert list(read_scores(finished)) == [2, 4, 5]
    assert log_of(finished).count('validation after iteration ') == 3


@pytest.mark.parametrize('checkpoint', ['checkpoint-4', 'best'])
def test_scores_are_those_of_embed_and_evaluate(data, finished, tmp_path, checkpoint):
    flags = []
    for part in ('query', 'gallery'):
        filename = str(tmp_path / f'{part}.h5')
        embed.main(
            [
                '--experiment_root',
                str(finished),
                '--checkpoint',
                checkpoint,
                '--quiet',
                '--dataset',
                str(data / f'{part}.csv'),
                '--filename',
                filename,
            ]
        )
        flags += [f'--{part}_dataset', str(data / f'{part}.csv')]
        flags += [f'--{part}_embeddings', filename]
    evaluate.main(
        [
            *flags,
            '--excluder',
            'market1501',
            '--metric',
            'euclidean',
            '--filename',
            str(tmp_path / 'scores.json'),
        ]
    )
    scores = json.loads((tmp_path / 'scores.json').read_text())
    step = 4
    if checkpoint == 'best':
        step = json.loads((finished / 'best.json').read_text())['step']
    np.testing.assert_allclose(
        read_scores(finished)[step], (scores['mAP'], scores['CMC'][0]), rtol=1e-5
    )


def test_best_is_the_first_of_the_highest_map(finished):
    scores = read_scores(finished)
    record = json.loads((finished / 'best.json').read_text())
    assert record['mAP'] == pytest.approx(max(score[0] for score in scores.values()))
    assert record['step'] == max(scores, key=lambda step: scores[step][0])
    assert record['checkpoint'] == f'best-{record["step"]}'
    assert record['last'] == 5
    name = record['checkpoint']
    assert {'best.json', f'{name}.index', f'{name}.data-00000-of-00001'} <= {
        path.name for path in finished.glob('*best*')
    }


def test_best_holds_the_weights_of_its_step_and_is_not_the_newest(finished):
    assert checkpoints.latest(str(finished)).endswith('checkpoint-5')
    step = json.loads((finished / 'best.json').read_text())['step']
    best = checkpoints.WeightsFile(checkpoints.find(str(finished), 'best'))
    assert best.read('global_step') == step
    assert not [key for key in best.shapes if '/Adam' in key]
    if step in (4, 5):
        stored = tiny_run.read_checkpoint(finished, step)
        for key in set(best.shapes) & set(stored):
            np.testing.assert_array_equal(best.read(key), stored[key])


def test_resumed_run_remembers_the_best(finished, tmp_path):
    root = tmp_path / 'exp'
    shutil.copytree(finished, root)
    record = json.loads((root / 'best.json').read_text())
    (root / 'best.json').write_text(json.dumps(record | {'mAP': 1.0, 'step': 1}))
    tiny_run.resume(root, '--train_iterations', '6', '--val_every', '1')
    assert '(best mAP 100.00% after iteration 1)' in log_of(root)
    assert json.loads((root / 'best.json').read_text())['step'] == 1


def test_best_of_other_images_does_not_count(data, finished, tmp_path):
    root = tmp_path / 'exp'
    shutil.copytree(finished, root)
    record = json.loads((root / 'best.json').read_text())
    (root / 'best.json').write_text(json.dumps(record | {'mAP': 1.0, 'checksum': 1}))
    tiny_run.resume(root, '--train_iterations', '6')
    assert json.loads((root / 'best.json').read_text())['step'] == 6


def test_run_of_an_older_version_is_validated_once_it_is_asked_for(data, tmp_path):
    root = tmp_path / 'exp'
    tiny_run.start(data, root)
    assert not (root / 'best.json').exists()
    stored = json.loads((root / 'args.json').read_text())
    kept = {k: v for k, v in stored.items() if not k.startswith('val_')}
    (root / 'args.json').write_text(json.dumps(kept))
    tiny_run.resume(root, '--train_iterations', '3', *val_flags(data))
    assert json.loads((root / 'best.json').read_text())['step'] == 3


# --- the best checkpoint's files -------------------------------------------------


@pytest.fixture
def state(tmp_path):
    """Return a TrainingState of one weight, in tmp_path."""
    return make_state(tmp_path)


def make_state(directory):
    """Return a TrainingState of one weight."""
    images = tf.keras.Input((1,))
    network = tf.keras.Model(images, tf.keras.layers.Dense(1, name='fc')(images))
    optimizer = tf.keras.optimizers.Adam()
    optimizer.build(network.trainable_variables)
    return checkpoints.TrainingState(network, optimizer, str(directory))


def kernel_of_best(directory):
    """Return the weight in the best checkpoint of a `state`."""
    prefix = checkpoints.find(str(directory), 'best')
    return checkpoints.WeightsFile(prefix).read('fc/kernel').item()


def best_of(directory):
    """Return the weight in the best checkpoint and the step that is recorded."""
    return kernel_of_best(directory), checkpoints.read_best(str(directory))['step']


def test_best_is_the_old_one_until_the_record_is_replaced(state, tmp_path, monkeypatch):
    state.variables['fc/kernel'].assign([[1.0]])
    state.save_best({'step': 1})
    assert best_of(tmp_path) == (1, 1)
    state.variables['fc/kernel'].assign([[2.0]])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(state, 'record_best', interrupt)  # Killed at this point.
        state.save_best({'step': 2})
    assert best_of(tmp_path) == (1, 1)
    state.save_best({'step': 2})
    assert best_of(tmp_path) == (2, 2)


def interrupt(record):
    raise KeyboardInterrupt


def test_best_of_the_same_step_is_not_half_there_either(state, tmp_path, monkeypatch):
    state.variables['fc/kernel'].assign([[1.0]])
    state.save_best({'step': 1})
    state.variables['fc/kernel'].assign([[2.0]])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(state, 'record_best', interrupt)
        state.save_best({'step': 1})
    assert kernel_of_best(tmp_path) == 1
    state.save_best({'step': 1})
    assert kernel_of_best(tmp_path) == 2


def test_best_before_the_last_is_there_for_those_who_read_it(state, tmp_path):
    for step in (1, 2, 3):
        state.save_best({'step': step})
    names = {path.name.partition('.')[0] for path in tmp_path.glob('best-*')}
    assert names == {'best-2', 'best-3'}


def test_best_of_an_earlier_version_is_found_and_replaced(state, tmp_path):
    checkpoints.write(str(tmp_path), 'best', state.without_slots)
    (tmp_path / 'best.json').write_text('{"step": 1}')
    assert checkpoints.find(str(tmp_path), 'best') == str(tmp_path / 'best')
    for step in (2, 3):
        state.save_best({'step': step})
    assert not list(tmp_path.glob('best.index'))


@pytest.mark.parametrize('method, what', [('save', 1), ('save_best', {'step': 1})])
def test_directory_removed_after_the_weights_is_not_made_anew(
    tmp_path, monkeypatch, method, what
):
    root = tmp_path / 'exp'
    root.mkdir()
    state = make_state(root)
    write = checkpoints.write

    def write_and_lose(*args):
        write(*args)
        root.rename(tmp_path / 'gone')

    monkeypatch.setattr(checkpoints, 'write', write_and_lose)
    with pytest.raises(OSError, match=f'cannot write {root}/.*: No such file or d'):
        getattr(state, method)(what)
    assert not root.exists()


# --- validations that an interruption has left out --------------------------------


@pytest.mark.parametrize('killed_at', [2, 4, 5])
def test_validation_that_a_kill_has_left_out_is_made_up_for(
    data, finished, tmp_path, monkeypatch, killed_at
):
    root = tmp_path / 'exp'
    more = ['--train_iterations', '5', '--val_every', '2', '--learning_rate', '0.01']
    more += ['--checkpoint_frequency', '2', *val_flags(data)]
    validate = validation.Validator.validate

    def be_killed(self, done):
        if done == killed_at:
            raise KeyboardInterrupt
        validate(self, done)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(validation.Validator, 'validate', be_killed)
        tiny_run.start(data, root, *more)
    tiny_run.resume(root)
    assert read_scores(root) == read_scores(finished)
    best = json.loads((finished / 'best.json').read_text())
    assert json.loads((root / 'best.json').read_text()) == best
    assert log_of(root).count('validation after iteration ') == 3


@contextlib.contextmanager
def stopped_after(step):
    """Let a run get a SIGTERM when it has told of an iteration."""
    write = journal.Journal.write

    def write_and_stop(self, iteration):
        write(self, iteration)
        if iteration.step == step:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.Journal, 'write', write_and_stop)
        yield


def test_validation_that_a_stop_has_left_out_is_made_up_for(data, finished, tmp_path):
    root = tmp_path / 'exp'
    with stopped_after(2):
        tiny_run.start(
            data,
            root,
            *('--train_iterations', '5', '--val_every', '2', '--learning_rate', '0.01'),
            *('--checkpoint_frequency', '2', *val_flags(data)),
        )
    assert 'stopped after iteration 2' in log_of(root)
    tiny_run.resume(root)
    assert read_scores(root) == read_scores(finished)


def test_validation_whose_points_are_gone_is_made_up_for(finished, tmp_path):
    root = shutil.copytree(finished, tmp_path / 'exp')
    with stopped_after(4):
        tiny_run.resume(root, '--checkpoint', 'checkpoint-2')
    # TensorBoard has dropped what was after iteration 2; best.json tells of it yet.
    assert list(read_scores(root)) == [2]
    assert json.loads((root / 'best.json').read_text())['last'] == 5
    tiny_run.resume(root)
    assert read_scores(root) == read_scores(finished)


def test_validation_that_was_made_is_not_made_again(finished, tmp_path):
    root = shutil.copytree(finished, tmp_path / 'exp')
    tiny_run.resume(root)
    assert 'nothing to do: the run is finished' in log_of(root)
    assert log_of(root).count('validation after iteration ') == 3


def fail(*_, **__):
    raise OSError


def test_failed_replacement_leaves_the_old_one(state, tmp_path, monkeypatch):
    state.save_best({'step': 1})
    monkeypatch.setattr('common.write_json', fail)
    with pytest.raises(OSError, match='cannot write best.json to'):
        state.save_best({'step': 2})
    assert best_of(tmp_path)[1] == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_without_a_best_there_is_no_record(state):
    assert checkpoints.read_best(state.directory) is None


# --- what is scored, and what is refused -----------------------------------------


def test_without_queries_every_image_looks_for_the_others(tmp_path):
    # On a line: a1 0, a2 1, b1 2, b2 9. a1 finds a2 first; the nearest of a2 are a1 and
    # b1, tied, of which a1 is first; b1 ranks a2, a1, b2; b2 finds b1 first.
    fids = ['a1', 'a2', 'b1', 'b2']
    for fid in fids:
        (tmp_path / fid).touch()
    (tmp_path / 'set.csv').write_text(''.join(f'{fid[0]},{fid}\n' for fid in fids))
    held_out = validation.HeldOut(
        str(tmp_path / 'set.csv'), None, 'diagonal', str(tmp_path)
    )
    embs = np.float32([[0], [1], [2], [9]])
    scores = held_out.score(embs, 'euclidean')
    # Ties are one group for the average precision: 1/2 for a2.
    assert scores.mAP == pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4)
    assert scores.top1 == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match='not finite'):
        held_out.score(embs * np.nan, 'euclidean')


def test_set_in_which_nothing_matches_is_refused(tmp_path):
    for fid in (name(1, 1, 0), name(1, 1, 1), name(2, 1, 0)):
        (tmp_path / fid).touch()
    write_csv(tmp_path / 'set.csv', [name(1, 1, 0), name(1, 1, 1), name(2, 1, 0)])
    with pytest.raises(
        ValueError, match='none of the 3 validation queries has a match'
    ):
        validation.HeldOut(str(tmp_path / 'set.csv'), None, 'market1501', str(tmp_path))


def test_validating_on_training_identities_is_warned_of(data, tmp_path, capsys):
    flags = ['--val_set', str(data / 'train.csv'), '--val_excluder', 'diagonal']
    tiny_run.start(data, tmp_path / 'exp', *flags, '--dry_run')
    assert '4 of 4 validation PIDs are also trained on' in capsys.readouterr().err


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--val_set', 'x.csv'], '--val_set needs a --val_excluder'),
        (['--val_query', 'x.csv'], '--val_query needs a --val_set'),
        (['--val_excluder', 'duke'], '--val_excluder needs a --val_set'),
    ],
)
def test_flags_of_validation_go_together(data, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as left:
        tiny_run.start(data, tmp_path / 'exp', *flags)
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'exp').exists()


def test_missing_images_are_named_before_anything_is_written(data, tmp_path):
    write_csv(tmp_path / 'set.csv', [name(1, 1, 0), name(1, 2, 0)])
    flags = ['--val_set', str(tmp_path / 'set.csv'), '--val_excluder', 'market1501']
    message = '2 of 2 images in .*set.csv are missing.*; check --val_image_root'
    with pytest.raises(FileNotFoundError, match=message):
        tiny_run.start(data, tmp_path / 'exp', *flags)
    assert not (tmp_path / 'exp').exists()
