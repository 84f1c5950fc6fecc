"""Thresholds, and how often they are wrong: against a ROC that is counted by hand."""

import json

import pytest

import common
import embedding_files
from searching import verdicts

# At most 1.0: none of ten different pairs and half of the same; 2.0: one and all.
ROC = {'threshold': [-1, 1.0, 2.0, 3.0], 'fpr': [0, 0, 0.1, 1], 'tpr': [0, 0.5, 1, 1]}
ORIGIN = embedding_files.Origin('w', 'exp/checkpoint-3', embedding_files.PLAIN)
RULES = [{'rule': 'equal error rate', 'threshold': 1.0}]


@pytest.fixture
def root(tmp_path):
    """Return an experiment root with thresholds.json."""
    write(tmp_path / 'thresholds.json')
    return tmp_path


def write(filename, metric='euclidean', **changed):
    """Write what evaluate.py --thresholds does, some of it changed."""
    told = {'thresholds': RULES, 'roc': ROC, 'args': {'metric': metric}}
    filename.write_text(json.dumps(told | changed))


@pytest.mark.parametrize(
    'threshold, fpr, expected',
    [
        (None, None, (1.0, 'equal error rate', 0.0, 0.5)),
        (None, 0.1, (2.0, 'FPR at most 0.1', 0.1, 1.0)),
        (None, 0.05, (1.0, 'FPR at most 0.05', 0.0, 0.5)),
        (None, 1.0, (3.0, 'FPR at most 1', 1.0, 1.0)),
        ('2.5', None, (2.5, 'as given', 0.1, 1.0)),
        ('0.5', None, (0.5, 'as given', 0.0, 0.0)),
        ('-2', None, (-2.0, 'as given', 0.0, 0.0)),
    ],
)
def test_threshold_comes_with_its_errors(root, threshold, fpr, expected):
    limit = verdicts.choose(threshold, fpr, str(root), 'euclidean', ORIGIN)
    assert limit == verdicts.Limit(*expected)


def test_threshold_is_in_a_file_that_is_named(root, tmp_path):
    write(tmp_path / 'x.json', thresholds=[{**RULES[0], 'threshold': 2.0}])
    limit = verdicts.choose(
        str(tmp_path / 'x.json'), None, str(root), 'euclidean', ORIGIN
    )
    assert limit == verdicts.Limit(2.0, 'equal error rate', 0.1, 1.0)


def test_nobody_may_know_a_threshold(tmp_path):
    assert verdicts.choose(None, None, str(tmp_path), 'euclidean', ORIGIN) is None
    assert verdicts.choose(None, None, None, 'euclidean', ORIGIN) is None
    limit = verdicts.choose('1.5', None, None, 'euclidean', ORIGIN)
    assert limit == verdicts.Limit(1.5, 'as given', None, None)
    assert 'how often it is wrong is not known' in limit.describe()


def test_thresholds_of_another_metric_are_nobodys(root):
    write(root / 'thresholds.json', 'cosine')
    assert verdicts.choose(None, None, str(root), 'euclidean', ORIGIN) is None
    assert verdicts.choose(None, None, str(root), 'cosine', ORIGIN).distance == 1.0


@pytest.mark.parametrize(
    'told, words',
    [
        (
            {'weights': 'v', 'checkpoint': 'c-2', 'view': None},
            'of c-2, which has',
        ),
        (
            {'weights': 'w', 'view': {**embedding_files.PLAIN, 'flip_augment': True}},
            'of images that were looked at otherwise than the gallery',
        ),
    ],
)
def test_thresholds_of_other_embeddings_are_passed_over(root, told, words, capsys):
    filename = root / 'thresholds.json'
    write(filename, embeddings=told)
    assert verdicts.choose(None, None, str(root), 'euclidean', ORIGIN) is None
    assert f'thresholds.json has thresholds {words}' in capsys.readouterr().err
    with pytest.raises(common.InputError, match=words):
        verdicts.choose(str(filename), None, None, 'euclidean', ORIGIN)
    nobody = embedding_files.Origin()
    limit = verdicts.choose(None, None, str(root), 'euclidean', nobody)
    assert limit.distance == 1.0
    write(filename, embeddings=ORIGIN._asdict())
    limit = verdicts.choose(None, None, str(root), 'euclidean', ORIGIN)
    assert limit.distance == 1.0
    assert capsys.readouterr().err == ''


def test_distance_at_the_threshold_is_accepted():
    limit = verdicts.Limit(1.5, '', None, None)
    assert limit.accepts(1.5)
    assert not limit.accepts(1.5001)
    assert not limit.accepts(float('nan'))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('1.5', 0.1, None), '--threshold 1.5 is a distance and --fpr 0.1 asks'),
        ((None, 0.1, None), '--fpr 0.1 needs --threshold with the JSON file'),
        (('none.json', None, None), 'none.json'),
    ],
)
def test_flags_that_do_not_fit_are_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((common.InputError, FileNotFoundError), match=message):
        verdicts.choose(*arguments, 'euclidean', ORIGIN)


@pytest.mark.parametrize(
    'changed, message',
    [
        ({'metric': 'cosine'}, 'has thresholds of --metric cosine'),
        ({'roc': None}, 'has no roc as evaluate.py --thresholds writes it'),
        ({'roc': {**ROC, 'fpr': [0, 0, 0.1]}}, 'has no roc as'),
        ({'roc': {**ROC, 'fpr': [0, 1, 0.1, 1]}}, 'has no roc as'),
        ({'roc': {**ROC, 'tpr': [0, 'x', 1, 1]}}, 'has no roc as'),
        ({'roc': {**ROC, 'tpr': [0, float('nan'), 1, 1]}}, 'has no roc as'),
        ({'roc': {name: [] for name in ROC}}, 'has no roc as'),
        ({'thresholds': []}, 'has no thresholds; expected what evaluate.py'),
    ],
)
def test_damaged_thresholds_are_refused(tmp_path, changed, message):
    write(tmp_path / 'thresholds.json', **changed)
    with pytest.raises(common.InputError, match=f'thresholds.json {message}'):
        verdicts.choose(
            str(tmp_path / 'thresholds.json'), None, None, 'euclidean', ORIGIN
        )
