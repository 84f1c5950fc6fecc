"""An interrupted embed.py goes on, and writes byte for byte what one run writes."""

import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

import common
import embed
import embedder
import tiny_run
from embedding import blocks

BAD = {'1_0.png': b'', '2_2.png': b'no image'}  # The last one ends a batch of 3.


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return a directory with a run `root`, 12 images in `train.csv`, two of them bad.

    `good.csv` has the other ten.
    """
    directory = tmp_path_factory.mktemp('run')
    with tiny_run.trained(directory, '--train_iterations', '1'):
        tiny_run.spoil(directory, BAD)
        yield directory


@pytest.fixture(autouse=True)
def every_batch(monkeypatch):
    """Keep every batch; each passes as half a minute."""
    monkeypatch.setattr(blocks, 'SECS', 0)


FLAGS = ('--flip_augment', '--aggregator', 'mean', '--batch_size', '3')


def embed_set(run, filename, *flags, csv='good.csv', quiet=('--quiet',)):
    embed.main(
        [
            *('--experiment_root', str(run / 'root'), '--dataset', str(run / csv)),
            *('--filename', str(filename), *quiet, *FLAGS, *flags),
        ]
    )


def interrupt(monkeypatch, after):
    """Let embedding end with Ctrl+C after some batches; return what is called."""
    calls = []
    embed_batch = embedder.Embedder.embed_batch

    def embed_some(self, batch, view=None):
        calls.append(len(batch))
        if len(calls) > after:
            raise KeyboardInterrupt
        return embed_batch(self, batch, view)

    monkeypatch.setattr(embedder.Embedder, 'embed_batch', embed_some)
    return calls


def count(monkeypatch):
    """Return a list that grows by the size of each batch that is embedded."""
    return interrupt(monkeypatch, 10**9)


@pytest.mark.parametrize('suffix', ['h5', 'npz', 'csv'])
@pytest.mark.parametrize('after', [0, 1, 2, 3])
def test_resumed_file_is_that_of_one_run(run, tmp_path, monkeypatch, after, suffix):
    filename = tmp_path / f'embs.{suffix}'
    embed_set(run, filename)
    expected = filename.read_bytes()
    filename.unlink()
    assert not list(tmp_path.iterdir())  # Nothing is left of a run that ends well.
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            embed_set(run, filename)
    assert not filename.exists()
    calls = count(monkeypatch)
    embed_set(run, filename, '--resume')
    assert calls == [3, 3, 3, 1][after:]
    assert filename.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [filename]


@pytest.mark.parametrize('after', [1, 2, 3])
def test_skipped_images_are_remembered(run, tmp_path, monkeypatch, after, capsys):
    skip = {'csv': 'train.csv'}
    flags = ('--on_bad_image', 'skip')
    filename = tmp_path / 'embs.h5'
    embed_set(run, filename, *flags, **skip)
    expected = filename.read_bytes()
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            embed_set(run, filename, *flags, **skip)
    capsys.readouterr()
    calls = count(monkeypatch)
    embed_set(run, filename, *flags, '--resume', **skip)
    assert calls == [3, 2, 2, 3][after:]
    assert filename.read_bytes() == expected
    told = capsys.readouterr().err
    assert '2 of 12 images skipped (first: 1_0.png)' in told
    assert ('1_0.png is skipped' in told) == (after == 1)  # Once.


def test_part_is_resumed(run, tmp_path, monkeypatch):
    filename = tmp_path / 'embs.h5'
    embed_set(run, filename, '--shard', '2/2')
    part = tmp_path / 'embs.shard-2-of-2.h5'
    expected = part.read_bytes()
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            embed_set(run, filename, '--shard', '2/2')
    calls = count(monkeypatch)
    embed_set(run, filename, '--shard', '2/2', '--resume')
    assert calls == [1]
    assert part.read_bytes() == expected


@pytest.fixture
def interrupted(run, tmp_path, monkeypatch):
    """Return the name of a file of which two batches are kept, and its directory."""
    filename = tmp_path / 'embs.h5'
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            embed_set(run, filename)
    return filename, tmp_path / '.embs.h5.blocks'


def test_hours_are_not_thrown_away_for_a_forgotten_flag(run, interrupted):
    filename, directory = interrupted
    before = sorted(path.name for path in directory.iterdir())
    assert before == ['rows-0.npz', 'rows-3.npz', 'run.json']
    with pytest.raises(common.InputError, match=r'add --resume .* or remove that dire'):
        embed_set(run, filename)
    assert sorted(path.name for path in directory.iterdir()) == before


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--batch_size', '4'), '--batch_size 3, this command has 4; repeat the flags'),
        (('--crop_augment', 'center'), '--crop_augment None, this command has center'),
        (('--precision', 'bfloat16'), '--precision None, this command has bfloat16'),
        (
            ('--aggregator', 'normalized_mean'),
            '--aggregator mean, this command has nor',
        ),
    ],
)
def test_other_flags_do_not_go_on(run, interrupted, flags, message):
    filename, directory = interrupted
    with pytest.raises(common.InputError, match=message):
        embed_set(run, filename, '--resume', *flags)
    assert (directory / 'rows-3.npz').exists()


def test_other_images_do_not_go_on(run, interrupted):
    filename, _ = interrupted
    lines = (run / 'good.csv').read_text().splitlines(keepends=True)
    (run / 'other.csv').write_text(''.join(lines[::-1]))
    with pytest.raises(common.InputError, match='with another data set; remove it to'):
        embed_set(run, filename, '--resume', csv='other.csv')
    # The very same images may have moved.
    (run / 'moved.csv').write_text(''.join(lines))
    embed_set(run, filename, '--resume', csv='moved.csv')


def test_other_weights_do_not_go_on(run, interrupted):
    filename, _ = interrupted
    index = run / 'root' / 'checkpoint'
    before = index.read_text()
    index.write_text('model_checkpoint_path: "checkpoint-0"\n')
    try:
        with pytest.raises(common.InputError, match='with another network; remove it'):
            embed_set(run, filename, '--resume')
    finally:
        index.write_text(before)


def test_damaged_block_is_named(run, interrupted):
    filename, directory = interrupted
    block = directory / 'rows-3.npz'
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 1
    block.write_bytes(content)
    with pytest.raises(common.InputError, match='rows-3.npz is not a complete NumPy'):
        embed_set(run, filename, '--resume')
    block.unlink()  # What comes before it is still good.
    embed_set(run, filename, '--resume')


@pytest.mark.parametrize('change', [lambda embs: embs[..., 1:], lambda embs: embs[1:]])
def test_block_of_other_embeddings_is_named(run, interrupted, change):
    filename, directory = interrupted
    with np.load(directory / 'rows-3.npz') as archive:
        arrays = dict(archive)
    embs = change(arrays['emb'])
    np.savez(directory / 'rows-3.npz', **arrays | {'emb': embs})
    expected = rf'rows-3.npz is not a complete block .*{re.escape(str([*embs.shape]))}'
    with pytest.raises(common.InputError, match=expected):
        embed_set(run, filename, '--resume')


@pytest.mark.parametrize('content', ['[]', '{}', '{"flags": 3, "origin": {}}', 'x'])
def test_damaged_header_is_named(run, interrupted, content):
    filename, directory = interrupted
    (directory / 'run.json').write_text(content)
    with pytest.raises(common.InputError, match=r'run.json'):
        embed_set(run, filename, '--resume')


def test_nothing_to_resume_is_no_error(run, tmp_path):
    embed_set(run, tmp_path / 'embs.h5', '--resume')
    assert list(tmp_path.iterdir()) == [tmp_path / 'embs.h5']


def test_merge_has_nothing_to_resume(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        embed_set(run, tmp_path / 'embs.h5', '--merge', '--resume')
    assert '--merge has nothing to resume' in capsys.readouterr().err


def test_what_is_kept_is_written_from_time_to_time(tmp_path, monkeypatch):
    clock = iter([0, 10, 29, 31, 31, 45, 62, 62, 70])
    monkeypatch.setattr(blocks, 'SECS', 30)
    monkeypatch.setattr(blocks.time, 'monotonic', lambda: next(clock))
    kept = blocks.Blocks(str(tmp_path / 'x.h5'), {'batch_size': 2}, dict, (1, 12, 3))
    batches = [([i, i + 1], np.full((1, 2, 3), i, np.float32)) for i in range(0, 12, 2)]
    assert len(list(kept.keep(batches, {}))) == 6
    names = sorted(path.name for path in (tmp_path / '.x.h5.blocks').iterdir())
    assert names == ['.lock', 'rows-0.npz', 'rows-6.npz', 'run.json']
    assert [rows for rows, _ in kept.replay()] == [[*range(6)], [*range(6, 10)]]
    assert json.loads((tmp_path / '.x.h5.blocks' / 'run.json').read_text()) == {
        'flags': {'batch_size': 2},
        'origin': {},
    }
    kept.close()


# --- two at once ------------------------------------------------------------------


def new_blocks(filename):
    return blocks.Blocks(str(filename), {'batch_size': 3}, dict, (1, 10, 2))


def keep_first(kept, value=0):
    """Keep a first batch of three rows, embedded as some value."""
    kept.write([(range(3), np.full((1, 3, 2), value, np.float32))], {})


@pytest.fixture
def busy(tmp_path):
    """Return the Blocks of a file that is being written, and its name."""
    filename = tmp_path / 'embs.h5'
    with contextlib.closing(new_blocks(filename)) as kept:
        keep_first(kept)
        yield kept, filename


def describe_owner(filename, pid):
    where = re.escape(f'(process {pid} on {socket.gethostname()})')
    return (
        f'^{re.escape(str(filename))} is in use: another embed.py writes it {where}; '
        'wait for it, stop it, or choose another --filename$'
    )


@pytest.mark.parametrize('flags', [(), ('--resume',)])
def test_file_that_another_one_writes_is_in_use(run, busy, flags):
    kept, filename = busy
    names = sorted(os.listdir(kept.directory))
    with pytest.raises(common.InputError, match=describe_owner(filename, os.getpid())):
        embed_set(run, filename, *flags)
    assert sorted(os.listdir(kept.directory)) == names
    assert [rows for rows, _ in kept.replay()] == [[0, 1, 2]]


def test_of_two_that_begin_together_the_second_to_keep_something_ends(busy):
    first, filename = busy
    first.remove()
    second = new_blocks(filename)
    for one in (first, second):
        one.find(is_resumed=False)
    first.files = []
    keep_first(first, 1)
    with pytest.raises(common.InputError, match=describe_owner(filename, os.getpid())):
        keep_first(second, 2)
    second.remove()
    second.close()
    ((_, embs),) = first.replay()
    np.testing.assert_array_equal(embs, np.ones((1, 3, 2)))
    # What the first has kept is not the second's once the first was interrupted.
    first.close()
    with pytest.raises(
        common.InputError, match=r'an interrupted run has embedded: add'
    ):
        keep_first(second, 2)
    second.close()
    ((_, embs),) = first.replay()
    np.testing.assert_array_equal(embs, np.ones((1, 3, 2)))


# Keeps a batch, and waits to be killed.
KEEP = """
import sys, numpy
from embedding import blocks

kept = blocks.Blocks(sys.argv[1], {'batch_size': 3}, dict, (1, 10, 2))
kept.write([(range(3), numpy.zeros((1, 3, 2), numpy.float32))], {})
print('ready', flush=True)
sys.stdin.read()
"""


def test_file_of_a_process_that_was_killed_is_free(tmp_path):
    filename = tmp_path / 'embs.h5'
    process = subprocess.Popen(
        [sys.executable, '-c', KEEP, str(filename)],
        cwd=tiny_run.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process, contextlib.closing(new_blocks(filename)) as kept:
        assert process.stdout.readline() == b'ready\n'
        with pytest.raises(
            common.InputError, match=describe_owner(filename, process.pid)
        ):
            kept.find(is_resumed=True)
        process.kill()
        process.wait()
        kept.find(is_resumed=True)
        assert kept.done == 3
        kept.remove()
    assert not list(tmp_path.iterdir())


def test_where_there_are_no_locks_blocks_are_kept(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(common.fcntl, 'fcntl', refuse)
    with contextlib.closing(new_blocks(tmp_path / 'embs.h5')) as kept:
        keep_first(kept)
        assert [rows for rows, _ in kept.replay()] == [[0, 1, 2]]
        kept.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('secs, kept', [(0, 6), (10, 0)])
def test_interruption_keeps_what_took_time(
    run, tmp_path, monkeypatch, capsys, secs, kept
):
    monkeypatch.setattr(blocks, 'SECS', 1000)
    monkeypatch.setattr(blocks, 'SECS_AT_END', secs)
    filename = tmp_path / 'embs.h5'
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            embed_set(run, filename, quiet=())
    told = capsys.readouterr().err
    assert ('6 of 10 images are done; the same command with --resume' in told) == (
        kept > 0
    )
    calls = count(monkeypatch)
    embed_set(run, filename, '--resume')
    assert sum(calls) == 10 - kept
