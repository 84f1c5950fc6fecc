"""Indexes of FAISS: built, checked, searched; what does not fit is refused."""

import errno
import json
import pathlib

import numpy as np
import pytest

import common
import embedding_files
from evaluation import ranking
from searching import gallery, index, nearest

NUM_ROWS, DIM = 600, 8


def draw_gallery(seed=0):
    """Return a gallery.Gallery of 60 identities with ten images each, in clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(60, DIM))
    embs = np.repeat(centres, 10, axis=0) + 0.2 * rng.normal(size=(NUM_ROWS, DIM))
    embs = embs.astype(np.float32)
    pids = np.array([f'p{i // 10}' for i in range(NUM_ROWS)], object)
    fids = np.array([f'{i}.png' for i in range(NUM_ROWS)], object)
    roots = np.full(NUM_ROWS, None)
    return gallery.Gallery(embs, pids, fids, roots, embedding_files.Origin(), ['g.h5'])


@pytest.fixture(scope='module')
def images():
    return draw_gallery()


@pytest.fixture(scope='module', params=['flat', 'hnsw', 'ivf', 'ivfpq'])
def built(request, images, tmp_path_factory):
    """Return (kind, file name) of an index of each kind."""
    filename = str(tmp_path_factory.mktemp('index') / f'{request.param}.index')
    told = index.build(request.param, filename, images, 'euclidean', 0.5)
    assert told.startswith(f'{filename}: {request.param} of 600 images')
    return request.param, filename


@pytest.fixture
def flat(images, tmp_path):
    """Return the file name of an exact index."""
    filename = str(tmp_path / 'flat.index')
    index.build('flat', filename, images, 'euclidean', 0.9)
    return filename


def find(filename, images, embs, count, without=(), metric='euclidean', by_pid=False):
    """Return what Index.find does."""
    with index.Index(filename, images, list(without), metric) as opened:
        return opened.find(embs, count, by_pid)


def seal(filename):
    """Let the sum in the JSON be that of the index."""
    beside = pathlib.Path(f'{filename}.json')
    told = json.loads(beside.read_text()) | {'sha256': common.hash_file(filename)}
    beside.write_text(json.dumps(told))


def search_exactly(embs, images, count, metric='euclidean'):
    """Return the nearest.Nearest of each query without an index."""
    distances = ranking.EmbeddingDistances(embs, images.embs, metric)
    return nearest.nearest_images(distances, count)


def test_index_finds_what_the_exact_search_finds(built, images):
    kind, filename = built
    embs = images.embs[5::60] + np.float32(0.01)
    found = find(filename, images, embs, 5)
    exact = search_exactly(embs, images, 5)
    shares = [
        np.isin(one.rows, other.rows).mean()
        for one, other in zip(found, exact, strict=True)
    ]
    told = json.loads(pathlib.Path(f'{filename}.json').read_text())
    if kind in ('flat', 'hnsw'):
        assert min(shares) == 1
        assert told['recall_1'] == told['recall_10'] == 1
    # What is found has its exact distance, in order.
    for query, one in zip(embs, found, strict=True):
        dists = ranking.compute_distances(query[None], images.embs, 'euclidean')[0]
        np.testing.assert_array_equal(one.dists, dists[one.rows])
        assert (np.diff(one.dists) >= 0).all()
    # Ten images of an identity are far from all others: lists and codes tell them.
    assert np.mean(shares) > 0.8
    assert told['num_bytes'] == pathlib.Path(filename).stat().st_size


def test_recall_is_the_share_of_the_nearest_that_is_found(images):
    rows = np.array([0, 17])
    exact = search_exactly(images.embs[rows], images, 11)
    found = [one.rows[1:] for one in exact]  # Each is nearest to itself.
    assert index.measure_recall(images, rows, found, 'euclidean') == (1, 1)
    worse = [found[0][1:], np.append(found[1][:4], [599, 598])]
    recall_1, recall_10 = index.measure_recall(images, rows, worse, 'euclidean')
    assert recall_1 == 0.5
    others = np.isin([599, 598], exact[1].rows).sum()
    assert recall_10 == pytest.approx((0.9 + 0.4 + 0.1 * others) / 2)


def test_index_that_finds_too_little_is_not_kept(images, tmp_path, monkeypatch):
    filename = str(tmp_path / 'x.index')
    # Of nothing but the other end of the gallery, no neighbour is proposed.
    monkeypatch.setattr(
        index, 'propose_and_rank', lambda made, images, row, *_: np.array([599 - row])
    )
    with pytest.raises(common.InputError, match=r'finds 0.0% of the 10 nearest images'):
        index.build('flat', filename, images, 'euclidean', 0.01)
    assert list(tmp_path.iterdir()) == []


def test_cosine_is_proposed_and_ranked_by_angle(images, tmp_path):
    longer = images._replace(embs=images.embs * np.linspace(1, 9, NUM_ROWS)[:, None])
    filename = str(tmp_path / 'x.index')
    index.build('flat', filename, longer, 'cosine', 0.99)
    embs = longer.embs[::100] + 0.01
    found = find(filename, longer, embs, 7, metric='cosine')
    exact = search_exactly(embs, longer, 7, 'cosine')
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
    with pytest.raises(
        common.InputError, match='proposes by cosine distance, not by e'
    ):
        index.Index(filename, longer, [], 'euclidean')


def test_individuals_that_are_left_out_are_not_found(flat, images):
    # All but the last two identities: more candidates are needed than the first time.
    without = [f'p{i}' for i in range(58)]
    (found,) = find(flat, images, images.embs[:1], 20, without)
    assert sorted(found.rows.tolist()) == list(range(580, 600))


def test_identities_are_found_by_their_nearest_image(flat, images):
    (found,) = find(flat, images, images.embs[100:101], 30, by_pid=True)
    distances = ranking.EmbeddingDistances(images.embs[100:101], images.embs)
    (exact,) = nearest.nearest_identities(distances, images.pids, 'best', 30)
    assert found.rows.tolist() == exact.rows.tolist()
    assert found.rows[0] == 100


def test_index_of_other_images_is_refused(flat):
    with pytest.raises(common.InputError, match='was made of other files than --gall'):
        index.Index(flat, draw_gallery(1), [], 'euclidean')


def test_damaged_index_is_refused_before_faiss_reads_it(flat, images):
    path = pathlib.Path(flat)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(common.InputError, match='flat.index is damaged: its SHA-256'):
        index.Index(flat, images, [], 'euclidean')


@pytest.mark.parametrize(
    'changed',
    [{'metric': 'cityblock'}, {'recall_1': None}, {'num_rows': 1.5}, {'more': 1}],
)
def test_damaged_json_is_refused(flat, images, changed):
    beside = pathlib.Path(f'{flat}.json')
    told = json.loads(beside.read_text())
    index.read_described(flat)
    beside.write_text(json.dumps(told | changed))
    with pytest.raises(
        common.InputError, match=r'json is not what --build_index write'
    ):
        index.Index(flat, images, [], 'euclidean')
    beside.unlink()
    with pytest.raises(FileNotFoundError, match='are not both there; make them with'):
        index.Index(flat, images, [], 'euclidean')


def test_older_index_stays_if_there_is_no_room_for_its_json(flat, images, monkeypatch):
    paths = [pathlib.Path(flat), pathlib.Path(f'{flat}.json')]
    older = [path.read_bytes() for path in paths]

    def write_text(path, *_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, 'write_text', write_text)
        with pytest.raises(common.InputError, match='cannot write .*flat.index'):
            index.build('hnsw', flat, images, 'euclidean', 0.5)
    assert [path.read_bytes() for path in paths] == older
    assert sorted(paths[0].parent.iterdir()) == paths
    index.build('hnsw', flat, images, 'euclidean', 0.5)
    assert index.read_described(flat).kind == 'hnsw'


def test_file_that_faiss_cannot_read_is_told(images, tmp_path):
    filename = str(tmp_path / 'x.index')
    index.build('flat', filename, images, 'euclidean', 0.9)
    pathlib.Path(filename).write_text('no index')
    seal(filename)
    with pytest.raises(common.InputError, match=r'FAISS fails with .*x.index \(exit 1'):
        find(filename, images, images.embs[:1], 1)


def test_what_an_index_cannot_do_is_told(images, tmp_path):
    filename = str(tmp_path / 'x.index')
    with pytest.raises(common.InputError, match='cannot propose by cityblock distance'):
        index.build('flat', filename, images, 'cityblock', 0.9)
    few = images.select(np.arange(100))
    with pytest.raises(
        common.InputError, match=r'100 images; ivfpq learns its codes f'
    ):
        index.build('ivfpq', filename, few, 'euclidean', 0.9)
    assert list(tmp_path.iterdir()) == []


def test_embeddings_of_many_blocks_are_indexed_in_order(images, monkeypatch):
    monkeypatch.setattr(index._faiss, 'ROWS_AT_ONCE', 70)
    monkeypatch.setattr(index._faiss, 'MOST_TRAINED', 300)
    made = index._faiss.build('ivf', images.embs, 1, lambda embs: embs, iter)
    made.nprobe = made.nlist
    _, rows = made.search(images.embs, 1)
    assert rows[:, 0].tolist() == list(range(NUM_ROWS))
    sample = index._faiss.draw_sample(images.embs, 1, lambda embs: embs)
    # Of each of nine blocks, half.
    assert len(sample) == 8 * 35 + 20


def write_numbered(filename, images, numbers):
    """Write an exact index that calls the images by other numbers."""
    import faiss

    made = faiss.IndexIDMap(faiss.IndexFlatL2(DIM))
    made.add_with_ids(images.embs, np.asarray(numbers, np.int64))
    faiss.write_index(made, filename)
    seal(filename)


def test_images_that_are_not_there_are_not_found(flat, images):
    write_numbered(flat, images, np.arange(NUM_ROWS) + 1)
    message = f'{flat} is damaged: it finds image 601 of 600; make it again'
    with pytest.raises(common.InputError, match=message):
        find(flat, images, images.embs[-1:], 3)


def test_image_that_an_index_has_twice_is_found_once(flat, images):
    write_numbered(flat, images, np.arange(NUM_ROWS) // 2)
    (found,) = find(flat, images, images.embs[:1], 100)
    assert len(set(found.rows.tolist())) == len(found.rows) == 100


def test_no_more_memory_is_taken_than_an_index_can_fill(flat, images):
    path = pathlib.Path(flat)
    claim = (NUM_ROWS * DIM).to_bytes(8, 'little')
    content = path.read_bytes()
    assert content.count(claim) == 1
    path.write_bytes(content.replace(claim, (2**28).to_bytes(8, 'little')))  # 1 GB.
    seal(flat)
    message = rf'FAISS fails with {flat} \(exit 1: it asks for more memory than it can'
    with pytest.raises(common.InputError, match=message):
        find(flat, images, images.embs[:1], 3)
