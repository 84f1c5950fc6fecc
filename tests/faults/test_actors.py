"""Actors of bulk_embed.py are killed: others embed what they had not written."""

import random

import pytest

import bulk_run

FAULTS = ('SIGKILL of actors of bulk_embed.py',)

NUM_JOBS = 7


@pytest.mark.slow_fault(FAULTS[0])
def test_killed_actors_lose_no_image(tmp_path, monkeypatch, reliability):
    # Other tests may take the memory that Ray would then end its processes for.
    monkeypatch.setenv('RAY_memory_monitor_refresh_ms', '0')
    reason = bulk_run.find_reason()
    if reason is not None:
        reliability.skip(FAULTS[0], reason)
    bulk_run.start(tmp_path)
    expected = bulk_run.embed_alone(tmp_path)
    rng = random.Random(1)  # How far they get until then differs anyway.
    times = 0
    for number in range(NUM_JOBS):
        output = tmp_path / f'parts{number}'
        delays = [rng.uniform(0, 1) for _ in range(1 + number % 2)]
        times += bulk_run.lose_actors(tmp_path, output, delays)
        bulk_run.compare(output, expected)
    assert times >= NUM_JOBS
    reliability.add(
        fault=FAULTS[0],
        times=times,
        how=f'kill -9 in {NUM_JOBS} jobs of two actors on this machine, within a '
        'second after the first part, and in some again within the next',
        lost='the part that was embedded; it is embedded by another actor, and all '
        'embeddings are those of embed.py, bit for bit',
        seen='-',
    )
