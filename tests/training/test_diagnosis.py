"""diagnosis.py: tables by hand; collapse provoked, and a healthy run not accused."""

import math

import numpy as np
import pytest
import tensorflow as tf

import tiny_run
import train
from training import diagnosis

LN2 = math.log(2)


pytestmark = pytest.mark.usefixtures('one_block_net')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Return a directory with train.csv: eight PIDs of four images each."""
    directory = tmp_path_factory.mktemp('data')
    tiny_run.write_dataset(directory, num_images=(4,) * 8)
    return directory


def log_of(root):
    return (root / 'train.log').read_text(encoding='utf-8')


def rows_of(lines):
    """Return {name: text} of a table without its title."""
    return dict(line.strip().split('  ', 1) for line in lines[1:])


# --- tables ----------------------------------------------------------------------


def test_data_table_counts():
    # Three PIDs with 1, 2 and 6 images; 30 iterations of 2 x 4 are 60 visits of PIDs.
    counts = np.array([1, 2, 6])
    rows = rows_of(diagnosis.data_table(counts, 2, 4, 30, is_decaying=True))
    assert {name: text.strip() for name, text in rows.items()} == {
        'images': '9',
        'identities': '3',
        'images per identity': 'min 1, median 2, max 6',
        'fewer than K = 4': '2 identities, whose images come twice in a batch',
        'schedule': '30 iterations of 2 x 4: every identity 20 times, every image 26.7 '
        'times',
        'suggestion': '--train_iterations 900 --decay_start_iteration 540 would show '
        'every identity about 600 times, as the paper does',
    }


@pytest.mark.parametrize(
    'num_pids, batch_p, iterations, expected',
    [
        (751, 18, 25000, None),  # The paper on Market-1501,
        (625, 18, 25000, None),  # and on MARS.
        (751, 18, 100, None),  # Far from the schedule, but not in size.
        (75, 18, 2500, None),  # A tenth of the size, and of the schedule.
        (75, 18, 25000, '--train_iterations 2500 '),
        (7510, 32, 25000, '--train_iterations 140000 '),
        (2, 18, 25000, '--train_iterations 67 '),
    ],
)
def test_schedule_is_suggested_where_the_size_is_far_from_the_papers(
    num_pids, batch_p, iterations, expected
):
    suggestion = diagnosis.suggest_schedule(num_pids, batch_p, iterations)
    assert suggestion is None if expected is None else expected in suggestion


@pytest.mark.parametrize('is_nested', [False, True])
@pytest.mark.parametrize('activation', ['relu', 'silu'])
def test_activations_are_what_the_backward_pass_reads(activation, is_nested):
    images = tf.keras.Input((None, None, 3))
    conv = tf.keras.layers.Conv2D(5, 1, use_bias=False, activation=activation)
    hidden = conv(images)
    if is_nested:
        hidden = tf.keras.Model(images, hidden)(images)
    embs = tf.keras.layers.GlobalAveragePooling2D()(hidden)
    network = tf.keras.Model(
        images, {'emb': tf.keras.ops.zeros_like(embs), 'emb_train': embs}
    )
    # Only the activation needs a value of the forward pass that is not the input: ReLU
    # its output, SiLU (whose gradient TensorFlow names otherwise) its input, both
    # 2 * 4 * 6 * 5 numbers of four bytes.
    num_bytes = 4 * 2 * 4 * 6 * 5
    measured = diagnosis.measure_activations(network, 2, (4, 6))
    assert measured == (num_bytes, num_bytes)


@pytest.mark.parametrize(
    'free, has_advice', [(50e6, True), (50e9, False), (None, False)]
)
def test_memory_advice_is_given_where_it_does_not_suffice(free, has_advice):
    images = tf.keras.Input((None, None, 3))
    embs = tf.keras.layers.GlobalAveragePooling2D()(images)
    network = tf.keras.Model(images, {'emb': embs})
    optimizer = tf.keras.optimizers.Adam()
    optimizer.build([])
    rows = rows_of(diagnosis.memory_table(network, optimizer, 2, (4, 4), free))
    assert ('advice' in rows) == has_advice


def test_tables_are_in_the_log_before_the_first_iteration(data, tmp_path, capsys):
    tiny_run.start(data, tmp_path / 'exp')
    for text in (log_of(tmp_path / 'exp'), capsys.readouterr().err):
        before = text.partition('iter:')[0]
        assert 'images per identity  min 4, median 4, max 4' in before
        assert 'net and head  mobilenet_v1_1_224, direct' in before
        assert 'all variables start random' in before
        assert 'still needed ' in before


# --- collapse --------------------------------------------------------------------


@pytest.mark.parametrize(
    'loss_name, margin, expected',
    [
        ('batch_hard', 'soft', LN2),
        ('batch_sample', 0.2, 0.2),
        ('batch_hard', 'none', None),
        ('lifted', 1.0, None),
    ],
)
def test_loss_of_identical_embeddings(loss_name, margin, expected):
    assert diagnosis.collapsed_loss(loss_name, margin) == expected


@pytest.mark.parametrize(
    'losses, spreads, expected',
    [
        ([LN2] * 300, [1.0] + [0.05] * 299, 1),  # Collapsed: one warning, not 200.
        ([LN2] * 300, [1.0] + [0.3] * 299, 0),  # Rests, but keeps its spread.
        ([0.75] * 300, [1.0] + [0.05] * 299, 0),  # Shrinks, but the loss is another.
        ([LN2] * 99, [1.0] + [0.05] * 98, 0),  # Too short to say.
    ],
)
def test_collapse_is_loss_and_spread_together_and_said_once(losses, spreads, expected):
    watch = diagnosis.CollapseWatch(LN2, None, diagnosis.make_collapse_memory())
    warnings = [
        watch.observe(loss, spread)
        for loss, spread in zip(losses, spreads, strict=True)
    ]
    assert sum(warning is not None for warning in warnings) == expected


def test_interrupted_run_remembers_from_what_it_collapsed(data, tmp_path):
    flags = [
        *('--decay_start_iteration', '-1', '--learning_rate', '1.0'),
        *('--checkpoint_frequency', '0', '--histogram_frequency', '0'),
        *('--batch_p', '4'),
    ]
    # Collapsed within a few iterations; 100 of them make a warning. What the second
    # process sees of it has no spread to fall from.
    tiny_run.start(data, tmp_path / 'exp', *flags, '--train_iterations', '60')
    assert 'have collapsed' not in log_of(tmp_path / 'exp')
    tiny_run.resume(tmp_path / 'exp', '--train_iterations', '150')
    assert log_of(tmp_path / 'exp').count('WARNING the embeddings have collapsed') == 1
    tiny_run.resume(tmp_path / 'exp', '--train_iterations', '160')
    assert log_of(tmp_path / 'exp').count('WARNING the embeddings have collapsed') == 1


def train_for(data, root, learning_rate, *more):
    """Train for 150 iterations at a constant rate; return the log."""
    tiny_run.start(
        data,
        root,
        *('--train_iterations', '150', '--decay_start_iteration', '-1'),
        *('--checkpoint_frequency', '0', '--histogram_frequency', '0'),
        *('--batch_p', '4', '--learning_rate', learning_rate, *more),
    )
    return log_of(root)


def test_high_learning_rate_collapses_and_is_told_what_to_do(data, tmp_path):
    log = train_for(data, tmp_path / 'exp', '1.0')
    assert log.count('WARNING the embeddings have collapsed') == 1
    for remedy in ('--learning_rate', '--batch_p', 'weights', '--loss batch_sample'):
        assert remedy in log.partition('have collapsed')[2].splitlines()[0]


def test_healthy_run_is_not_accused(data, tmp_path):
    log = train_for(data, tmp_path / 'exp', '0.001')
    assert 'WARNING' not in log


# --- one batch, and none ---------------------------------------------------------


def test_one_batch_is_learned_by_heart(data, tmp_path):
    root = tmp_path / 'exp'
    log = train_for(data, root, '0.001', '--overfit_one_batch', '--detailed_logs')
    assert 'one batch was learned by heart (loss from ' in log
    fids = np.fromfile(root / 'fids', 'S1').reshape(150, -1)
    assert (fids == fids[0]).all()


def test_one_batch_that_is_not_learned_is_told(data, tmp_path):
    log = train_for(
        data, tmp_path / 'exp', '1e-9', '--overfit_one_batch', '--train_iterations', '3'
    )
    assert 'WARNING one batch was not learned by heart' in log


@pytest.mark.parametrize(
    'losses, precision, expected',
    [
        ([2.0] + [0.9] * 10, 1.0, True),
        ([2.0] + [1.1] * 10, 1.0, False),
        ([2.0] + [0.9] * 10, 0.9, False),
        ([0.5] + [-3.0] * 10, 1.0, True),  # --margin none has no lower bound.
    ],
)
def test_one_batch_is_judged_by_loss_and_precision(losses, precision, expected):
    watch = diagnosis.OverfitWatch()
    for loss in losses:
        watch.observe(loss, precision)
    assert watch.verdict()[0] == expected


def test_dry_run_reads_a_batch_and_writes_nothing(data, tmp_path, capsys):
    tiny_run.start(data, tmp_path / 'exp', '--dry_run')
    assert list(tmp_path.iterdir()) == []
    error = capsys.readouterr().err
    assert 'identities           8' in error
    assert 'the first batch are in order; nothing was written' in error


def test_dry_run_names_an_unreadable_image(data, tmp_path):
    (tmp_path / 'train.csv').write_text('a,1.png\nb,2.png\n')
    for name in ('1.png', '2.png'):
        (tmp_path / name).write_bytes(b'no image')
    with pytest.raises(ValueError, match='is not a readable image'):
        tiny_run.start(tmp_path, tmp_path / 'exp', '--dry_run', '--batch_k', '1')
    assert not (tmp_path / 'exp').exists()


def test_dry_run_of_a_run_to_be_resumed_changes_nothing(data, tmp_path):
    root = tmp_path / 'exp'
    tiny_run.start(data, root)
    before = {path: path.read_bytes() for path in root.iterdir()}
    train.main(
        [
            '--experiment_root',
            str(root),
            '--resume',
            '--train_iterations',
            '4',
            '--dry_run',
        ]
    )
    assert {path: path.read_bytes() for path in root.iterdir()} == before
