"""docs/own_images.md: its commands run as written, its messages are the code's."""

import ast
import contextlib
import io
import re
import shlex

import pytest

import embed
import evaluate
import make_csv
import readme_story
import test_house
import tiny_run
import train
import visualize

PAGE = 'docs/own_images.md'
COMMANDS = {
    'make_csv.py': make_csv.main,
    'train.py': train.main,
    'embed.py': embed.main,
    'evaluate.py': evaluate.main,
}

# Appended to train.py's flags, where the last one wins.
SMALL = [
    *tiny_run.model_flags(),
    *('--pre_crop_height', str(tiny_run.HEIGHT + 4), '--train_iterations', '2'),
    *('--pre_crop_width', str(tiny_run.WIDTH + 2), '--seed', '1'),
]


def furnish(home):
    """Put the page's images into a home directory: noise, and a table."""
    names = [f'{c}_{i:04d}.png' for c in ('gate', 'till') for i in range(2)]
    for number, pid in enumerate(
        ('anna', 'bert', 'carl', 'dora', 'emil', 'fred', 'gil')
    ):
        (home / 'shop' / pid).mkdir(parents=True)
        for i, name in enumerate(names):
            tiny_run.write_noise(home / 'shop' / pid / name, seed=10 * number + i)
    (home / 'shop_new' / 'unknown').mkdir(parents=True)
    known = home / 'shop' / 'carl' / 'till_0001.png'
    (home / 'shop_new' / 'unknown' / 'x.png').write_bytes(known.read_bytes())
    (home / 'lions').mkdir()
    tiny_run.write_noise(home / 'lions' / '1.png', seed=99)
    (home / 'lions' / 'metadata.csv').write_text(
        'identity,date,path,split\nzoe,1999,1.png,train\n'
    )


def run(command):
    """Run a command line of the page within this process; return what it prints."""
    python, name, *words = shlex.split(command)
    assert python == 'python'
    if name == 'train.py':
        start = words.index('--initial_checkpoint')
        assert words[start + 1] == 'imagenet'  # A download.
        words = [*words[:start], *words[start + 2 :], *SMALL]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        COMMANDS[name](words)
    return out.getvalue()


@pytest.fixture(scope='module')
def outputs(tmp_path_factory, one_block_net):
    """What the page's commands and its Python code print, in order, {command: text}."""
    directory = tmp_path_factory.mktemp('own')
    outputs = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv('HOME', str(directory / 'home'))
        monkeypatch.setattr(make_csv, 'DATA_DIR', str(directory / 'data'))
        monkeypatch.chdir(directory)
        furnish(directory / 'home')
        for block in readme_story.read_blocks(PAGE):
            if block.language == 'bash':
                for command in readme_story.split_commands(block.text):
                    outputs[command] = run(command)
            elif block.language == 'python':
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(block.text, {})
                outputs['python'] = out.getvalue()
    return outputs


def test_every_step_does_what_the_page_says(outputs):
    said = ''.join(outputs.values())
    # Seven identities, of which 0.3 are two, with two cameras and two images of each.
    for line in (
        '/data/shop_all.csv: 28 images, 7 PIDs, 2 cameras',
        '/data/lions_train.csv: 1 images, 1 PIDs',
        'data/shop_all_rest.csv: 20 images, 5 PIDs, 2 cameras',
        'data/shop_all_val_query.csv: 4 images, 2 PIDs, 2 cameras',
        'data/shop_all_val_gallery.csv: 4 images, 2 PIDs, 2 cameras',
        'data/shop_new_all.csv: 1 images, 1 PIDs',
    ):
        assert re.search(rf'{re.escape(line)}$', said, re.MULTILINE)
    (scores,) = (text for command, text in outputs.items() if 'evaluate.py' in command)
    assert scores.startswith('mAP: ')
    # Of four gallery images, two are of a query's PID, one of these by its own camera.
    assert 'pairs: 4 same, 8 different' in scores


def test_the_answer_is_who_it_was(outputs):
    # The new image is a copy of one of carl's.
    assert outputs['python'].startswith('unknown/x.png carl at 0.00 ')


def test_every_flag_named_exists():
    parsers = [c.build_parser() for c in (train, embed, evaluate, visualize, make_csv)]
    parsers += [make_csv.build_table_parser(), make_csv.build_split_parser()]
    known = {flag for parser in parsers for flag in parser._option_string_actions}
    named = re.findall(r'(?<![\w-])--[a-z]\w*', readme_story.read_page(PAGE))
    assert len(set(named)) > 20
    assert set(named) <= known


def list_messages():
    """Return the texts of the code, what is put into them being '\0'."""
    texts = []
    for name in test_house.MODULES:
        for node in ast.walk(test_house.TREES[name]):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    ''.join(
                        getattr(part, 'value', None)
                        if isinstance(part, ast.Constant)
                        else '\0'
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_every_message_named_is_one_of_the_code():
    texts = list_messages()
    rows = re.findall(r'(?m)^\| `([^`]+)` \|', readme_story.read_page(PAGE))
    assert len(rows) > 25
    # What the code puts into a message may stand anywhere: part by part is compared.
    parts = [part.strip() for row in rows for part in row.split('…') if part.strip()]
    assert [part for part in parts if not any(part in text for text in texts)] == []
