"""Code of pages that test_readme.py does not play from beginning to end."""

import importlib.util
import pathlib
import re
import shlex

import numpy as np
import pytest
import tensorflow as tf

import embed
import evaluate
import loss
import make_csv
import readme_story
import search
import test_scripts
import tiny_run
import train

PARSERS = {
    'train.py': train.build_parser,
    'make_csv.py': make_csv.build_parser,
    'embed.py': embed.build_parser,
    'evaluate.py': evaluate.build_parser,
    'search.py': search.build_parser,
}
PAGES = (
    *('docs/differences.md', 'docs/losses.md', 'docs/troubleshooting.md'),
    'docs/search.md',
)


def read_commands(page):
    """Return the commands of a page's bash blocks, lists of words."""
    # In a list, a block is indented.
    text = re.sub(r'(?m)^  ', '', readme_story.read_page(page))
    blocks = re.findall(r'(?ms)^```bash\n(.*?)^```$', text)
    return [
        shlex.split(command)
        for block in blocks
        for command in readme_story.split_commands(block)
        if not command.startswith('pip install')
    ]


def parse(command, *more):
    """Return the flags of `python COMMAND.py ...`, as the command parses them."""
    python, script, *words = command
    assert python == 'python'
    return PARSERS[script]().parse_args([*words, *more])


@pytest.mark.parametrize('page', PAGES)
def test_commands_have_flags_that_exist(page, monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'DukeMTMC-reID').mkdir()
    (tmp_path / 'experiments' / 'trinet').mkdir(parents=True)
    commands = read_commands(page)
    assert commands
    for command in commands:
        if 'batch_mean' in command:
            monkeypatch.setitem(loss.LOSS_CHOICES, 'batch_mean', None)
        parse(command)


def test_recipe_for_duke_is_the_papers():
    (command,) = (c for c in read_commands(PAGES[0]) if c[1] == 'train.py')
    args = vars(parse(command))
    assert {name: args[name] for name in test_scripts.PAPER} == test_scripts.PAPER


# --- a loss of your own ----------------------------------------------------------


@pytest.fixture(scope='module')
def extended(tmp_path_factory):
    """Return loss.py as a module, with the page's loss where the page says."""
    (block,) = (
        block.text
        for block in readme_story.read_blocks('docs/losses.md')
        if block.language == 'python'
    )
    source = pathlib.Path(loss.__file__).read_text(encoding='utf-8')
    before, choices, after = source.partition('LOSS_CHOICES = {')
    after = after.replace(
        '        batch_hard,\n', '        batch_hard, batch_mean,\n', 1
    )
    file = tmp_path_factory.mktemp('extended') / 'extended_loss.py'
    file.write_text(f'{before}{block}\n\n{choices}{after}', encoding='utf-8')
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(module.LOSS_CHOICES) == {*loss.LOSS_CHOICES, 'batch_mean'}
    return module


@pytest.mark.parametrize(
    'margin, expected',
    [
        # Points 0, 2 of a and 3, 7 of b: positives are 2, 2, 4, 4 away, negatives on
        # average 5, 3, 2, 6.
        ('none', [-3, -1, 2, -2]),
        (2.5, [0, 1.5, 4.5, 0.5]),
        ('soft', np.log1p(np.exp([-3, -1, 2, -2]))),
    ],
)
def test_loss_of_the_page_is_its_formula(extended, margin, expected):
    points = np.float32([0, 2, 3, 7])
    dists = np.abs(points[:, None] - points[None])  # [4, 4]
    pids = ['a', 'a', 'b', 'b']
    losses = extended.batch_losses('batch_mean', dists, pids, margin, [0, 0])
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_loss_of_the_page_refuses_another_margin(extended):
    with pytest.raises(ValueError, match="'sotf'; expected a number, 'soft' or 'none'"):
        extended.batch_mean(np.zeros((2, 2), np.float32), ['a', 'b'], 'sotf')


@pytest.mark.parametrize('pids', [[0, 1, 2], [0, 0, 0], [0, 0, 1]])
@pytest.mark.parametrize('margin', ['soft', 'none', 0.2])
def test_loss_of_the_page_is_finite_on_degenerate_batches(extended, pids, margin):
    points = tf.constant([[1.0, 0], [1, 0], [0, 2]])
    with tf.GradientTape() as tape:
        tape.watch(points)
        dists = loss.cdist(points, points, 'euclidean')
        losses = extended.batch_mean(dists, pids, margin)
    assert np.isfinite(losses).all()
    assert np.isfinite(tape.gradient(losses, points)).all()


@pytest.mark.usefixtures('one_block_net')
def test_loss_of_the_page_trains(extended, monkeypatch, tmp_path):
    monkeypatch.setitem(loss.LOSS_CHOICES, 'batch_mean', extended.batch_mean)
    tiny_run.write_dataset(tmp_path)
    flags = ('--loss', 'batch_mean', '--margin', '0.2', '--quiet')
    tiny_run.start(tmp_path, tmp_path / 'exp', *flags)
    assert (tmp_path / 'exp' / 'checkpoint-2.index').is_file()
