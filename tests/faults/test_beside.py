"""Commands that work in the same place at the same time."""

import doomed
import h5py
import numpy as np
import pytest
import stories

FAULTS = (
    'another train.py in the root of a running one',
    'two embed.py that write the same file',
    'embed.py while train.py writes the best weights',
)


@pytest.fixture(scope='module')
def story(data, tmp_path_factory):
    """Return the stories.Story of a new run of two iterations, its root our own."""
    directory = tmp_path_factory.mktemp('beside').resolve()
    return stories.train(data, directory / 'exp', directory)


@pytest.fixture
def wait_in(tmp_path):
    """Return a function that starts a command, which then waits before a function.

    It returns another function, which lets the command go on, waits for its end, and
    returns its doomed.Outcome.
    """
    started = []

    def start(place, nth, command, argv):
        ready, said = tmp_path / 'ready', tmp_path / 'said'
        pause = doomed.Pause(place, nth, ready)
        process = doomed.start_until(pause, command, argv, said)
        started.append(process)

        def go_on():
            ready.unlink()
            process.join(120)
            return doomed.Outcome(process.exitcode, said.read_text(), [])

        return go_on

    yield start
    for process in started:
        process.kill()
        process.join()


IN_USE = 'is in use: another train.py is at work there (process '


@pytest.mark.parametrize(
    'place, anew, resumed',
    [
        ('train:build_learner', IN_USE, 'args.json'),
        ('training.diagnosis:check_outcome', 'is not empty; add --resume', IN_USE),
    ],
)
def test_second_run_in_a_root_is_refused_and_the_first_ends_as_ever(
    story, wait_in, place, anew, resumed, reliability
):
    stories.restart(story)
    go_on = wait_in(place, 1, 'train', story.argv)
    for argv, words in (
        (story.argv, anew),
        (stories.resume_flags(story.root), resumed),
    ):
        second = doomed.run('train', argv)
        assert second.code in (1, 2)
        assert len(second.said.splitlines()) == 1
        assert words in second.said
    first = go_on()
    assert first.code == 0, first.said
    assert not stories.find_difference(story)
    assert 'ERROR' not in (story.root / 'train.log').read_text()  # It is the first's.
    reliability.add(
        fault=FAULTS[0],
        times=2,
        how='a new run, and --resume, while the first one starts, and in its first '
        'iteration',
        lost='nothing',
        seen='ROOT is in use: another train.py is at work there (process 123 on HOST)',
    )


def test_two_embeddings_of_one_file_are_both_whole(all_stories, wait_in, reliability):
    story = all_stories['embed.py']
    stories.restart(story)
    go_on = wait_in('embedding_files:join_variants', 1, 'embed', story.argv)
    second = doomed.run('embed', story.argv)
    assert second.code == 0, second.said
    assert not stories.find_damage(story.root)
    first = go_on()
    assert first.code == 0, first.said
    assert not stories.find_difference(story)
    reliability.add(
        fault=FAULTS[1],
        times=1,
        how='one begins and ends while the other one writes',
        lost='nothing: the file is that of one of them, and then of the other',
        seen='-',
    )


def embed(data, root, checkpoint):
    """Embed with a checkpoint, which must succeed; return the embeddings [N, D]."""
    argv = [*stories.embed_flags(data, root), '--checkpoint', checkpoint]
    outcome = doomed.run('embed', argv)
    assert outcome.code == 0, outcome.said
    with h5py.File(root / 'train_embeddings.h5') as file:
        return file['emb'][:]


def test_best_weights_are_whole_at_any_time(data, story, wait_in, reliability):
    stories.restart(story)
    # The weights of the second best are written; best.json tells of the first one yet.
    go_on = wait_in('checkpoints:TrainingState.record_best', 2, 'train', story.argv)
    meanwhile = embed(data, story.root, 'best')
    run = go_on()
    assert run.code == 0, run.said
    afterwards = embed(data, story.root, 'best')
    first, second = (embed(data, story.root, f'checkpoint-{n}') for n in (1, 2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(meanwhile, first)
    np.testing.assert_array_equal(afterwards, second)
    reliability.add(
        fault=FAULTS[2],
        times=1,
        how='between the second best weights and their record',
        lost='nothing: the best before is embedded with',
        seen='-',
    )
