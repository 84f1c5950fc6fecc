"""A file or directory and the JSON beside it: the old pair, the new one, or a line.

Of an older result that is replaced: whenever the process is killed, what is there under
its name is whole; where its JSON is missing, what reads it says what to do.
"""

import json
import signal

import doomed
import pytest
import stories

import common
from deployment import _sidecar
from searching import index

FAULTS = (
    'SIGKILL while export.py replaces a file',
    'SIGKILL while export.py replaces a directory',
    'SIGKILL while search.py --build_index replaces an index',
)

# Name of the story, of what it replaces, what then tells that the JSON is missing.
REPLACED = (
    ('export.py', 'net.onnx', 'export again'),
    ('export.py --format saved_model', 'net_saved_model', 'export again'),
    ('search.py --build_index', 'gallery.faiss', 'make them with --build_index'),
)


@pytest.fixture(scope='module')
def told(data, all_stories, tmp_path_factory):
    """Return {name: stories.Story}, with that of a directory."""
    directory = tmp_path_factory.mktemp('told').resolve()
    trained = all_stories['train.py'].after
    more = (data, trained, directory / 'exp', directory)
    name = 'export.py --format saved_model'
    return all_stories | {name: stories.export_as('saved_model', name, *more)}


def find_state(root, name):
    """Return which pair is there: what its JSON tells of its origin; or the line.

    Raises:
        InputError, AssertionError: it is no pair.
    """
    target = str(root / name)
    is_index = name.endswith('.faiss')
    try:
        found = (index.read_described if is_index else _sidecar.read)(target)
    except common.MissingFileError as error:
        return str(error)
    if is_index:
        assert common.hash_file(target) == found.sha256
        return found.kind
    _sidecar.check(target, found)
    stored = json.loads((root / f'{name}.json').read_text(encoding='utf-8'))
    return stored['checkpoint']['name']


@pytest.mark.parametrize(
    'fault, story, name, line',
    [
        pytest.param(fault, *row, marks=pytest.mark.slow_fault(fault), id=row[0])
        for fault, row in zip(FAULTS, REPLACED, strict=True)
    ],
)
def test_old_pair_or_new_pair_is_whole_or_a_line_says_so(
    told, fault, story, name, line, reliability
):
    story = stories.find(told, story, fault, reliability)
    states = [find_state(root, name) for root in (story.before, story.after)]
    # From where all is written, without the removal of what is no longer needed.
    first = next(call.n for call in story.calls if call.name == 'fsync')
    numbers = [
        call.n
        for call in story.calls[first - 1 :]
        if not (call.name == 'unlink' and '.partial.d/' in call.path)
    ]
    seen = []
    for n in numbers:
        stories.restart(story)
        outcome = doomed.run(
            story.command, story.argv, doomed.Fault(story.root, n, 'kill')
        )
        assert outcome.code == -signal.SIGKILL, outcome.said
        assert (story.root / name).exists(), outcome.calls[-1]
        state = find_state(story.root, name)
        if state not in states:
            assert state.endswith(line), state
            state = line
        if state not in seen:
            seen.append(state)
            assert stories.find_fault(story) == [], outcome.calls[-1]
    # The window is there, but nothing comes twice.
    assert seen == [states[0], line, states[1]]
    reliability.add(
        fault=fault,
        times=len(numbers),
        how='before each system call from where the new one is written',
        lost='nothing: the old one and its JSON, or the new ones; between two renames, '
        'the JSON',
        seen='nothing, or a line that the JSON is missing; the same command makes both',
    )
