"""holdout.py: which images become queries, and that identities stay apart."""

import numpy as np
import pytest

import datasets
from data import _holdout
from excluders import market1501


def name(pid, camera, frame):
    """Return a FID of Market-1501's kind."""
    return f'{pid}_c{camera}s1_{frame:06d}_00.jpg'


def cameras_of(fids):
    return [market1501.Excluder.pattern.match(fid)[2] for fid in fids]


# Ten PIDs: three cameras with four images each; then one camera only; then one image.
PIDS, FIDS = (
    np.array(column, object)
    for column in zip(
        *((f'{p:04d}', name(f'{p:04d}', c, i)) for p in range(8) for c in (1, 2, 3)
          for i in range(4)),
        *(('0008', name('0008', 1, i)) for i in range(5)),
        ('0009', name('0009', 1, 0)),
        strict=True,
    )
)  # fmt: skip
DATASET = datasets.Dataset(PIDS, FIDS)


def test_parts_share_no_identity_and_lose_no_image():
    parts = _holdout.split(DATASET, 'market1501', 3, seed=0)
    rows = np.concatenate([parts.rest, parts.query, parts.gallery])
    assert sorted(rows) == list(range(len(PIDS)))
    val_pids = set(PIDS[parts.query])
    assert len(val_pids) == 3
    assert val_pids == set(PIDS[parts.gallery])
    assert not val_pids & set(PIDS[parts.rest])


def test_a_pid_gives_one_query_per_camera_and_each_has_a_match_elsewhere():
    parts = _holdout.split(DATASET, 'market1501', 8, seed=0)
    for pid in set(PIDS[parts.query]):
        queries = FIDS[parts.query][PIDS[parts.query] == pid]
        gallery = FIDS[parts.gallery][PIDS[parts.gallery] == pid]
        assert sorted(cameras_of(queries)) == ['1', '2', '3']
        for camera in cameras_of(queries):
            assert set(cameras_of(gallery)) - {camera}


def test_seed_decides_and_the_order_of_rows_does_not():
    def held_back(order, seed):
        parts = _holdout.split(DATASET.select(order), 'market1501', 3, seed)
        return set(FIDS[order][parts.query]), set(FIDS[order][parts.gallery])

    as_is = np.arange(len(PIDS))
    assert held_back(as_is, 0) == held_back(as_is, 0) == held_back(as_is[::-1], 0)
    assert len({frozenset(held_back(as_is, seed)[0]) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    'num_val_pids, message',
    [
        (9, '9 PIDs asked for validation, but only 8 of the 10 have two images'),
        (
            10,
            '10 of 10 PIDs asked for validation; at least one is needed there, and at '
            'least one to train on; to score all, give the CSV as query and as '
            'gallery$',
        ),
        (0, '0 of 10 PIDs asked for validation; at least one'),
    ],
)
def test_impossible_requests_are_refused(num_val_pids, message):
    with pytest.raises(ValueError, match=message):
        _holdout.split(DATASET, 'market1501', num_val_pids, seed=0)


def test_without_cameras_half_of_the_images_are_queries():
    parts = _holdout.split(DATASET, 'diagonal', 9, seed=0)
    for pid in set(PIDS[parts.query]):
        num_images = list(PIDS).count(pid)
        assert list(PIDS[parts.query]).count(pid) == num_images // 2


def test_a_query_never_takes_the_last_match_of_another():
    # Camera 1 twice, camera 2 once: the latter as a query leaves the former two as its
    # matches, but then no other query would have one.
    is_match = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], bool)
    for seed in range(10):
        chosen = _holdout.choose_queries(is_match, np.random.default_rng(seed))
        assert len(chosen) == 1
    # Two cameras with two images each: one query of each.
    is_match = np.kron(1 - np.eye(2), np.ones((2, 2))).astype(bool)
    chosen = _holdout.choose_queries(is_match, np.random.default_rng(0))
    assert [i // 2 for i in chosen] == [0, 1]
