"""bulk_embed.py on a cluster of this machine: what embed.py writes, and no less."""

import json

import numpy as np
import pytest

import bulk_embed
import bulk_run
import checkpoints
import common
import embedding_files
import evaluate
from bulk import inputs, parts
from searching import gallery


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return a directory with a run `root` and `train.csv` of 240 images, two bad."""
    directory = tmp_path_factory.mktemp('run')
    bulk_run.start(directory)
    return directory


@pytest.fixture(scope='module')
def cluster():
    """Skip where the system lets Ray start no cluster, which is not our fault."""
    with pytest.MonkeyPatch.context() as patch:
        # Other tests may take the memory that Ray would then end its processes for.
        patch.setenv('RAY_memory_monitor_refresh_ms', '0')
        reason = bulk_run.find_reason()
        if reason is not None:
            pytest.skip(reason)
        yield


@pytest.fixture(scope='module')
def embedded(run, cluster, tmp_path_factory):
    """Return the directory of the parts of a job that lost an actor."""
    output = tmp_path_factory.mktemp('bulk') / 'parts'
    assert bulk_run.lose_actors(run, output, [0]) == 1
    return output


@pytest.fixture(scope='module')
def expected(run):
    """Return the embedding_files.Opened of embed.py with the same batches."""
    return bulk_run.embed_alone(run)


def test_embeddings_are_those_of_embed_though_an_actor_was_killed(embedded, expected):
    found = bulk_run.compare(embedded, expected)
    assert found.skipped.tolist() == [15, 23]
    # Parts of one batch each, rounded up.
    assert len(list(embedded.glob('part-*.parquet'))) == bulk_run.NUM_PIDS
    for name in ('checkpoint', 'weights', 'image_root'):
        assert found.attributes[name] == expected.attributes[name]


def test_bad_images_are_rows_with_their_reason(embedded):
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(embedded / 'part-000005.parquet')
    assert table['fid'].to_pylist() == ['5_0.png', '5_1.png', '5_2.png']
    reasons = table['skipped_reason'].to_pylist()
    assert reasons[0]
    assert reasons[1:] == [None, None]
    embs = np.array(table['emb'].to_pylist())
    assert np.isnan(embs[0]).all()
    assert np.isfinite(embs[1:]).all()


def test_directory_is_scored_and_searched(run, embedded, expected, tmp_path):
    csv_file = str(run / 'train.csv')
    scores = []
    for embeddings in (str(embedded), str(run / 'root' / 'expected.h5')):
        filename = tmp_path / 'scores.json'
        evaluate.main(
            [
                *('--query_dataset', csv_file, '--query_embeddings', embeddings),
                *('--gallery_dataset', csv_file, '--gallery_embeddings', embeddings),
                *('--excluder', 'diagonal', '--filename', str(filename), '--quiet'),
            ]
        )
        scores.append(json.loads(filename.read_text()))
    assert scores[0]['mAP'] == scores[1]['mAP']
    assert scores[0]['aps'] == scores[1]['aps']
    images = gallery.load([str(embedded)])
    assert len(images.fids) == 3 * bulk_run.NUM_PIDS - 2
    assert gallery.fingerprint(images)


def test_missing_parts_alone_are_embedded_again(run, embedded, expected, capsys):
    files = sorted(embedded.glob('part-*.parquet'))
    files[3].unlink()
    files[40].unlink()
    with pytest.raises(common.InputError, match=r'2 of 80 parts of .* are missing'):
        embedding_files.open_embeddings(str(embedded))
    times = {file: file.stat().st_mtime_ns for file in embedded.iterdir()}
    bulk_embed.main(bulk_run.flags(run, embedded))
    told = capsys.readouterr().err
    assert 'going on after 78 of 80 parts' in told
    assert '6 images in 2 parts' in told
    assert {f: f.stat().st_mtime_ns for f in times} == times
    bulk_run.compare(embedded, expected)
    # All are there: nothing is started.
    bulk_embed.main(bulk_run.flags(run, embedded))
    assert 'all 80 parts are finished' in capsys.readouterr().err


def test_error_of_an_actor_is_one_line(run, cluster, tmp_path):
    (tmp_path / 'x.tar').write_bytes(np.random.default_rng(0).bytes(5000))
    flags = ['--experiment_root', str(run / 'root'), '--input', str(tmp_path / 'x.tar')]
    with pytest.raises(common.InputError) as error:
        bulk_embed.main([*flags, '--output', str(tmp_path / 'parts'), '--quiet'])
    told = str(error.value)
    assert told.startswith(f'{tmp_path}/x.tar is damaged, or cannot be read')
    assert '\n' not in told


# --- without Ray ------------------------------------------------------------------


def test_job_goes_on_only_as_it_began(tmp_path):
    some = [inputs.Part('files', 'x', ['a.png'], None)] * 3
    told = parts.describe({'batch_size': 3}, 'w', some)
    output = str(tmp_path / 'parts')
    assert parts.begin(output, told) == [0, 1, 2]
    rows = [('a.png', None, None)]
    parts.write_part(output, 1, rows, np.zeros((1, 2)), {'args': '{}'})
    assert parts.begin(output, told) == [0, 2]
    for changed, what in (
        (parts.describe({'batch_size': 4}, 'w', some), 'flags'),
        (parts.describe({'batch_size': 3}, 'v', some), 'weights'),
        (parts.describe({'batch_size': 3}, 'w', some[:2]), 'num_parts'),
    ):
        with pytest.raises(common.InputError, match=f'with another {what}; repeat the'):
            parts.begin(output, changed)
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'x').touch()
    with pytest.raises(common.InputError, match='is not empty, and no job of bulk_em'):
        parts.begin(str(tmp_path / 'other'), told)


def test_description_that_is_no_text_is_refused(tmp_path):
    told = parts.describe({}, 'w', [])
    (tmp_path / 'bulk.json').write_bytes(b'{"flags": "\xff"}')
    with pytest.raises(
        common.InputError, match=r'bulk.json is not valid JSON: .*utf-8'
    ):
        parts.begin(str(tmp_path), told)


def test_directory_of_something_else_is_refused(tmp_path):
    with pytest.raises(common.InputError, match='is a directory without bulk.json'):
        embedding_files.open_embeddings(str(tmp_path))
    (tmp_path / 'bulk.json').write_text('{"num_parts": 0}')
    with pytest.raises(common.InputError, match='bulk.json is not what bulk_embed.py'):
        embedding_files.open_embeddings(str(tmp_path))


def test_parts_slice_like_an_array(tmp_path):
    embs = np.arange(30, dtype=np.float32).reshape(10, 3)
    some = [inputs.Part('files', 'x', ['a.png'], None)] * 3
    output = str(tmp_path / 'parts')
    parts.begin(output, parts.describe({}, 'w', some))
    for number, (first, last) in enumerate(((0, 4), (4, 5), (5, 10))):
        rows = [(f'{i}.png', f'p{i}', None) for i in range(first, last)]
        parts.write_part(output, number, rows, embs[first:last], {})
    opened = embedding_files.open_embeddings(output)
    assert opened.embs.shape == (10, 3)
    assert opened.pids == [f'p{i}' for i in range(10)]
    for place in (slice(0, 10), slice(3, 6), slice(4, 5), slice(9, 20), slice(6, 6)):
        np.testing.assert_array_equal(opened.embs[place], embs[place])
    np.testing.assert_array_equal(np.asarray(opened.embs), embs)


@pytest.mark.parametrize(
    'kind', [common.InputError, common.FileError, checkpoints.DamagedError]
)
def test_what_ray_wraps_is_unwrapped(kind):
    name = f'{kind.__module__}.{kind.__name__}'
    text = (
        'Ray says\n  File "x.py"\ncommon.InputError: the cause\n\nthe direct cause\n\n'
        f'{name}: a.tar is damaged\n\nTo change'
    )
    assert str(bulk_embed.find_cause(RuntimeError(text))) == 'a.tar is damaged'


def test_what_ray_says_itself_is_told():
    told = str(bulk_embed.find_cause(RuntimeError('Ray says\n\nthis')))
    assert told.startswith('Ray failed: this; the same command goes on')
