"""README.md and docs/ are right: code runs as written, tables are complete.

readme_story.py tells what the commands run on, and lists the few that do not run.
"""

import json
import pathlib
import re

import h5py
import pytest

import bulk_embed
import checkpoints
import embed
import evaluate
import excluders
import export
import heads
import loss
import make_csv
import nets
import plot
import readme_story
import search
import train
import trinet_embed
import visualize
from data import LAYOUT_CHOICES
from training import flags

PAGES = [
    *('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'),
    *(
        f'docs/{path.name}'
        for path in sorted((readme_story.ROOT / 'docs').glob('*.md'))
    ),
]
README = readme_story.read_page('README.md')


slow = pytest.mark.slow('three more pages are played, two minutes')


@pytest.fixture(scope='module')
def played(request):
    """The pages that are played."""
    is_all = request.config.getoption('--slow')
    return readme_story.PLAYED + readme_story.SLOW * is_all


@pytest.fixture(scope='module')
def story(played, tmp_path_factory):
    """The commands of README and of some pages of docs/, run in order."""
    story = readme_story.Story(tmp_path_factory.mktemp('readme'))
    with pytest.MonkeyPatch.context() as monkeypatch:
        readme_story.furnish_home(story.home, monkeypatch)
    readme_story.put_images(story)
    for page in played:
        story.play(page)
    return story


def find_table(page, heading, is_wanted=lambda row: True):
    """Return the first cells of a page's table under a heading row, as one text."""
    _, found, rest = readme_story.read_page(page).partition(f'| {heading} |')
    assert found, f'{page}: {heading}'
    table = rest.partition('\n\n')[0]
    rows = [row for row in table.splitlines()[2:] if is_wanted(row)]
    return '\n'.join(row.split('|')[1] for row in rows)


def find_output(story, pattern):
    """Return what the one command that matches a pattern said."""
    (output,) = (v for k, v in story.outputs.items() if re.search(pattern, k))
    return output


def list_commands(pages):
    """Return the commands of the bash blocks of pages."""
    return [
        command
        for page in pages
        for block in readme_story.read_blocks(page)
        if block.language == 'bash'
        for command in readme_story.split_commands(block.text)
    ]


def test_every_command_runs(story, played):
    commands = list_commands(readme_story.PLAYED + readme_story.SLOW)
    for part in readme_story.NOT_RUN:
        assert any(part in command for command in commands), part
    expected = set(filter(readme_story.is_run, list_commands(played)))
    assert set(story.outputs) - {'python snippet.py'} == expected


@slow
def test_published_checkpoint_is_loaded_whole(story):
    report = find_output(story, r'embed\.py .*published')
    # Two are for training only.
    assert re.search(
        r'checkpoint-25000: \d+ variables loaded, 0 left random, 0 in the file unused, '
        r"2 the optimizer's",
        report,
    )


def test_recipe_loads_the_net_and_leaves_the_head_random(story):
    report = find_output(story, r'market1501_train\.sh')
    assert re.search(
        r'variables loaded, 7 left random \(emb/biases.*\), 1 in the file unused '
        r'\(resnet_v1_50/logits/biases\)',
        report,
    )


def test_experiment_root_holds_what_the_table_says(story):
    names = {p.name for p in (story.home / 'experiments' / 'trinet').iterdir()}
    names = {re.sub(r'(?<=events\.out\.tfevents\.).*', '*', name) for name in names}
    table = find_table('docs/training.md', 'file | content')
    table = set(re.findall('`([^`]+)`', table))
    flagged = {'embeddings', 'losses', 'fids', 'best.json', 'best-STEP.*', '.lock'}
    assert table - names == {'checkpoint-STEP.*'} | flagged
    # Two iterations, then one more by the resumed run.
    for step in (0, 2, 3):
        assert f'checkpoint-{step}.index' in names


def test_hdf5_file_holds_what_the_table_says(story):
    table = find_table('docs/embedding.md', 'name | type, shape | content')
    table = set(re.findall('`([^`]+)`', table)) - {'crc32'}  # An attribute of two.
    trinet = story.home / 'experiments' / 'trinet'
    with h5py.File(trinet / 'market1501_query_ten.h5') as file:
        assert set(file) == table | {'embs'}
        assert 'crc32' in file['emb'].attrs
        assert 'crc32' in file['emb_aug'].attrs
        assert file['emb_aug'].shape[0] == len(file['augmentation_types']) == 10
        names = {'args', 'checkpoint', 'versions', 'weights', 'image_root'}
        assert set(file.attrs) == names
    with h5py.File(trinet / 'market1501_query_embeddings.h5') as file:
        assert set(file) == (table | {'embs'}) - {'emb_aug'}


def test_json_file_has_the_keys_that_the_table_says(story):
    table = set(
        re.findall(
            '`([^`]+)`',
            find_table(
                'docs/evaluation.md',
                'key of the JSON | content, scores in 0..1',
                lambda row: '| with `--' not in row,  # Keys that flags add.
            ),
        )
    )
    evaluation = story.home / 'experiments' / 'trinet' / 'market1501_evaluation.json'
    assert set(json.loads(evaluation.read_text())) == table


def test_pictures_are_drawn(story):
    for name in ('training.png', 'ranking.png'):
        assert (story.code / name).read_bytes().startswith(b'\x89PNG')


@slow
def test_a_net_and_a_head_are_choices_once_their_files_are_there(story):
    story.run('python train.py --help')
    text = ' '.join(story.outputs.pop('python train.py --help').split())
    nets, heads = (
        re.search(f'--{name}_name {name.upper()}_NAME .*?One of (.*?)\\. ', text)[1]
        for name in ('model', 'head')
    )
    assert {'two_convs', 'strided_convs'} <= set(nets.split(', '))
    assert {'fc256', 'two_layers'} <= set(heads.split(', '))
    for name in ('two_convs', 'strided_convs'):
        root = story.home / 'experiments' / name
        assert json.loads((root / 'args.json').read_text())['model_name'] == name
        assert (root / 'checkpoint-2.index').is_file()


@slow
def test_names_of_variables_are_those_that_the_page_tells(story):
    names = re.findall(
        r'`(strided_convs/[\w/]+|hidden1/weights)`',
        readme_story.read_page('docs/networks.md').partition('## Names')[2],
    )
    assert len(names) == 3
    prefix = story.home / 'experiments' / 'strided_convs' / 'checkpoint-2'
    assert set(names) <= set(checkpoints.WeightsFile(str(prefix)).shapes)


@pytest.mark.parametrize(
    'heading, choices',
    [
        ('`--model_name`', nets.NET_CHOICES),
        ('`--head_name`', heads.HEAD_CHOICES),
    ],
)
def test_tables_of_nets_and_heads_are_complete(heading, choices):
    table = find_table('docs/networks.md', heading)
    assert sorted(re.findall(r'`(\w+)`', table)) == sorted(choices)


@pytest.mark.parametrize('name', [*LAYOUT_CHOICES, *excluders.EXCLUDER_CHOICES])
def test_layouts_and_excluders_are_named(name):
    assert f'`{name}`' in README


@pytest.mark.parametrize('name', [*loss.LOSS_CHOICES, *loss.METRIC_CHOICES])
def test_losses_and_metrics_are_explained(name):
    assert f'| `{name}`' in readme_story.read_page('docs/losses.md')


@pytest.mark.parametrize('page', PAGES)
def test_links_point_to_something(page):
    text = readme_story.read_page(page)
    text = re.sub(r'^```.*?^```$', '', text, flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r'\]\(([^)]+)\)', text):
        if target.startswith('https://'):
            continue
        path, _, anchor = target.partition('#')
        directory = (readme_story.ROOT / page).parent
        file = directory / path if path else readme_story.ROOT / page
        assert file.exists(), f'{page}: {target}'
        if anchor:
            headings = re.findall(r'(?m)^#+ (.*)$', file.read_text(encoding='utf-8'))
            anchors = [re.sub(r'[^\w -]', '', h).lower() for h in headings]
            assert anchor in [a.replace(' ', '-') for a in anchors]


@pytest.mark.parametrize('page', PAGES)
def test_no_section_stands_twice(page):
    text = readme_story.read_page(page)
    text = re.sub(r'^```.*?^```$', '', text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r'(?m)^##+ (.*)$', text)
    assert sorted(headings) == sorted(set(headings))


@pytest.mark.parametrize('page', readme_story.PLAYED)
def test_every_flag_named_exists(page):
    parsers = [c.build_parser() for c in (train, embed, evaluate, make_csv)]
    parsers += [c.build_parser() for c in (visualize, plot, trinet_embed)]
    parsers += [c.build_parser() for c in (bulk_embed, export, search)]
    parsers += [make_csv.build_split_parser(), make_csv.build_table_parser()]
    parsers += [visualize.build_curves_parser(), visualize.build_projector_parser()]
    known = {flag for parser in parsers for flag in parser._option_string_actions}
    text = readme_story.read_page(page).replace('--logdir', '')  # TensorBoard's.
    # A name that ends in _* stands for several, such as --pre_crop_*.
    for flag, is_family in re.findall(r'(?<![\w-])(--[a-z]\w*?)(_\*)?(?!\w)', text):
        if is_family:
            assert any(name.startswith(flag) for name in known), flag
        else:
            assert flag in known


def test_flags_that_may_change_on_resume_are_those_of_the_code():
    section = README.partition('## Stop and resume')[2].partition('\n## ')[0]
    (listed,) = re.findall(r'(?s)- flags that do not change .*?;\n', section)
    named = {flag.removeprefix('--') for flag in re.findall(r'`(--\w+)`', listed)}
    assert named == set(flags.FREE)


@pytest.mark.parametrize('page', PAGES)
def test_no_path_of_a_machine_is_named(page):
    text = readme_story.read_page(page)
    assert not re.search(r'(?<![\w.~/-])/(home|root|work|tmp|mnt|opt|data)/', text)
    assert str(pathlib.Path.home()) not in text
