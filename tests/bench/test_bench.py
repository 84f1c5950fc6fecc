"""What the benches stand on: their table of contents, their sides, their yardsticks."""

import importlib
import pkgutil
import sys

import cv2
import numpy as np
import pytest

import bench
from bench import _sides, _yardsticks
from nets import _trinet

MODULES = [module.name for module in pkgutil.iter_modules(bench.__path__)]
COMMANDS = [name for name in MODULES if not name.startswith('_')]


def test_the_table_of_contents_has_every_module():
    words = bench.__doc__.split()
    listed = {word.removeprefix('bench.') for word in words if word[:6] == 'bench.'}
    listed |= {word.removesuffix('.py') for word in words if word[-3:] == '.py'}
    assert set(MODULES) <= listed


@pytest.mark.parametrize('name', COMMANDS)
def test_help_tells_how_a_bench_is_run(name, capsys):
    with pytest.raises(SystemExit, match='0'):
        importlib.import_module(f'bench.{name}').build_parser().parse_args(['--help'])
    assert f'python -m bench.{name}' in capsys.readouterr().out


def test_a_side_runs_from_any_directory_and_its_end_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    side = _sides.Side('_product', library='none')  # argparse's status is 2.
    with _sides.closing({'side': side}), pytest.raises(SystemExit, match='status 2'):
        side.measure(precision='float32')


class Counting:
    """A side that answers how many tasks all of them have had."""

    num_tasks = 0

    def measure(self, start):
        Counting.num_tasks += 1
        return {'number': start + Counting.num_tasks}


def test_sides_measure_in_turn_after_a_warm_up(monkeypatch):
    monkeypatch.setattr(Counting, 'num_tasks', 0)
    sides = {'a': Counting(), 'b': Counting()}
    tasks = {'a': {'start': 0}, 'b': {'start': 100}}
    # The tasks 1 and 2 warm up.
    assert _sides.alternate(sides, 2, tasks) == {
        'a': [{'number': 3}, {'number': 5}],
        'b': [{'number': 104}, {'number': 106}],
    }


def test_words_of_flags():
    flags = {'runs': 3, 'flip_augment': True, 'dataset': None, 'precision': 'float32'}
    expected = ['--runs', '3', '--flip_augment', '--precision', 'float32']
    assert _sides.to_words(flags) == expected


def test_usage_is_that_of_the_command_not_of_who_starts_it():
    size_mb = 300
    held = np.ones(size_mb * 10**6, np.uint8)
    assert _sides.peak_memory() > size_mb * 0.9  # In units of 1000 KiB.
    small = _sides.run([sys.executable, '-c', 'print("done")'])
    del held
    assert small.output == 'done\n'
    assert small.peak_mb < size_mb / 2
    script = f'held = bytearray(b"1") * {size_mb * 10**6}'
    assert _sides.run([sys.executable, '-c', script]).peak_mb > size_mb * 0.9


def test_a_command_that_fails_ends_the_bench():
    with pytest.raises(SystemExit, match='failed'):
        _sides.run([sys.executable, '-c', 'raise SystemExit(3)'])


def test_jpegs_are_of_the_size_of_market1501_and_always_the_same(tmp_path):
    contents = []
    for directory in (tmp_path / 'a', tmp_path / 'b'):
        directory.mkdir()
        names = _yardsticks.draw_jpegs(directory, 3)
        assert [cv2.imread(name).shape for name in names] == 3 * [(128, 64, 3)]
        contents.append([(directory / f'{i}.jpg').read_bytes() for i in range(3)])
    assert contents[0] == contents[1]
    assert len(set(contents[0])) == 3


def test_operations_are_those_of_the_weights_at_their_resolutions():
    height, width = _trinet.CROP_SIZE
    expected = 2 * 1024 * _trinet.EMBEDDING_DIM
    for name, _, shape in _trinet.normed_layers():
        places = 1
        if name != 'dense1':
            # Resolution is a half after conv1, a quarter in stage 2, an eighth in 3.
            shrinks = 2 if name == 'conv1' else 2 ** int(name[3])
            places = (height // shrinks) * (width // shrinks)
        expected += 2 * places * int(np.prod(shape))
    counted = _yardsticks.count_operations(
        _trinet.CROP_SIZE, _trinet.EMBEDDING_DIM, is_caffe=True
    )
    assert counted == expected


def test_a_stage_of_slims_net_strides_in_its_last_unit():
    # A 32x32 image has 8x8 places in the first stage. By hand, in multiplications: a
    # stage's last unit has but its first convolution before the stride.
    root = 7 * 7 * 3 * 64 * 16 * 16
    dense = 2048 * 1024 + 1024 * 128
    stages = 0
    for depth, units, before, after in (
        (64, 3, 64, 16),
        (128, 4, 16, 4),
        (256, 6, 4, 1),
        (512, 3, 1, 1),
    ):
        entering = 64 if depth == 64 else 2 * depth
        wide = 4 * depth
        first = (entering * wide + entering * depth + 13 * depth**2) * before
        middle = (units - 2) * 17 * depth**2 * before
        last = (4 * depth**2) * before + 13 * depth**2 * after
        stages += first + middle + last
    expected = 2 * (root + stages + dense)
    assert _yardsticks.count_operations((32, 32)) == expected


def test_spread_is_median_and_range():
    assert _yardsticks.spread([0.003, 0.001, 0.002], 1e3, 1) == '2.0 (1.0 to 3.0)'
