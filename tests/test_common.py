"""What the commands share: flags, CSV files, result files, errors, logging."""

import contextlib
import errno
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

import common

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = sorted(
    path.name
    for path in ROOT.glob('*.py')
    if 'common.run(main)' in path.read_text(encoding='utf-8')
)

# Imports of seconds, of which only a run has use.
SLOW_MODULES = ('tensorflow', 'keras', 'pandas', 'scipy', 'sklearn')

HELP = f"""
import runpy, sys
sys.argv = [sys.argv[1], '--help']
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
finally:
    # A lazy module is listed itself; once it runs, so are its parts.
    parts = {{name.partition('.')[0] for name in sys.modules if '.' in name}}
    print('IMPORTED', sorted(parts & set({SLOW_MODULES})))
"""


def write(path, text):
    """Write text as UTF-8 to a file; return its name."""
    path.write_text(text, encoding='utf-8')
    return str(path)


# --- commands --------------------------------------------------------------------


@pytest.mark.parametrize('command', COMMANDS)
def test_help_imports_nothing_slow(command):
    process = subprocess.run(
        [sys.executable, '-c', HELP, command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith('usage: ')
    assert process.stdout.endswith('IMPORTED []\n')


@pytest.mark.parametrize('command', COMMANDS)
def test_command_is_executable(command):
    assert os.access(ROOT / command, os.X_OK)
    assert (ROOT / command).read_text(encoding='utf-8').startswith('#!/usr/bin/env ')


@pytest.mark.parametrize(
    'error, line',
    [
        (common.InputError('two\nlines'), 'two lines'),
        (common.MissingFileError('x.csv does not exist'), 'x.csv does not exist'),
        (
            OSError(errno.ENOSPC, 'No space left on device', 'train.log'),
            'train.log: No space left on device',
        ),
    ],
)
def test_foreseeable_error_is_one_line_and_exit_code_1(
    monkeypatch, capsys, error, line
):
    def main():
        raise error

    monkeypatch.setattr(sys, 'argv', ['/somewhere/train.py'])
    monkeypatch.delenv('TRIPLET_TRACEBACK', raising=False)
    with pytest.raises(SystemExit) as stop:
        common.run(main)
    assert stop.value.code == 1
    assert capsys.readouterr().err == f'train.py: error: {line}\n'


@pytest.mark.parametrize(
    'error', [ValueError('a bug'), OSError('no file is named'), AttributeError('a bug')]
)
def test_fault_of_ours_keeps_its_traceback_and_asks_to_be_reported(
    monkeypatch, capsys, error
):
    def main():
        raise error

    monkeypatch.setattr(sys, 'argv', ['/somewhere/train.py'])
    with pytest.raises(SystemExit) as stop:
        common.run(main)
    assert stop.value.code == 1
    first, *_, raised, last = capsys.readouterr().err.splitlines()
    assert first == 'Traceback (most recent call last):'
    assert raised == f'{type(error).__name__}: {error}'
    assert last == (
        'train.py: error: this is a bug; please report it with the lines above'
    )


def test_traceback_of_what_the_user_can_mend_appears_on_request(monkeypatch, capsys):
    def main():
        raise common.InputError('foreseeable')

    monkeypatch.setattr(sys, 'argv', ['/somewhere/train.py'])
    monkeypatch.setenv('TRIPLET_TRACEBACK', '1')
    with pytest.raises(SystemExit) as stop:
        common.run(main)
    assert stop.value.code == 1
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == 'Traceback (most recent call last):'
    assert last == 'train.py: error: foreseeable'


def test_lazy_module_of_a_package_is_its_attribute():
    code = (
        'import common; common.lazy_import("visuals.projector"); import visuals;'
        'print(visuals.projector.SHEET_SIZE)'
    )
    process = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
    )
    assert process.stdout == '8192\n', process.stderr


def test_interrupted_command_exits_with_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        common.run(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err.endswith(': interrupted\n')


@pytest.mark.parametrize(
    'parse, text, value',
    [
        (common.positive_int, '1', 1),
        (common.non_negative_int, '0', 0),
        (common.positive_float, '3e-4', 3e-4),
    ],
)
def test_number_in_range_is_taken(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    'parse, text',
    [
        (common.positive_int, '0'),
        (common.positive_int, '2.5'),
        (common.non_negative_int, '-1'),
        (common.positive_float, '0'),
        (common.positive_float, 'inf'),
        (common.positive_float, 'nan'),
        (common.positive_float, 'fast'),
    ],
)
def test_number_out_of_range_is_refused_by_the_parser(capsys, parse, text):
    parser = common.new_parser('A command.')
    parser.add_argument('--x', type=parse)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([f'--x={text}'])
    assert stop.value.code == 2
    assert 'argument --x' in capsys.readouterr().err


@pytest.fixture
def parser():
    """A parser of one flag that is required and some that are not."""
    parser = common.new_parser('A command.')
    parser.prog = 'train.py'
    parser.add_argument('--train_set', required=True)
    parser.add_argument('--learning_rate')
    parser.add_argument('--model_name', choices=['resnet_v1_50', 'lunet'])
    parser.add_argument('--last_stride', type=int, choices=[1, 2])
    return parser


@pytest.mark.parametrize(
    'flags, message',
    [
        # Not: the following arguments are required.
        (
            ['--trainset', 'x'],
            'unrecognized arguments: --trainset; did you mean --train_set?',
        ),
        (
            ['--trainset=x'],
            'unrecognized arguments: --trainset; did you mean --train_set?',
        ),
        (
            ['--train_set=x', '--learning', '1'],
            'unrecognized arguments: --learning; did you mean --learning_rate?',
        ),
        (
            ['--TRAIN-SET=x', '--modelname=lunet'],
            'unrecognized arguments: --TRAIN-SET and 1 more; did you mean --train_set?',
        ),
        (['--train_set=x', '--gpu'], 'unrecognized arguments: --gpu'),
        (['--train_set=x', 'more'], 'unrecognized arguments: more'),
        ([], 'the following arguments are required: --train_set'),
        (
            ['--train_set=x', '--model_name', 'resnet50'],
            "argument --model_name: invalid choice: 'resnet50' (choose from "
            "'resnet_v1_50', 'lunet'); did you mean resnet_v1_50?",
        ),
        (
            ['--train_set=x', '--last_stride', '3'],
            'argument --last_stride: invalid choice: 3 (choose from 1, 2)',
        ),
    ],
)
def test_mistyped_word_is_answered_with_the_one_meant(capsys, parser, flags, message):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(flags)
    assert stop.value.code == 2
    # Python 3.12 and later quote some choices otherwise.
    error = capsys.readouterr().err
    assert error.replace("'", '') == (
        f'train.py: error: {message} (see --help)\n'.replace("'", '')
    )


def test_value_that_looks_like_a_flag_is_taken(parser):
    args = parser.parse_args(['--train_set=--trainset', '--learning_rate', '--a b'])
    assert (args.train_set, args.learning_rate) == ('--trainset', '--a b')


def test_words_after_two_dashes_are_no_flags():
    parser = common.new_parser('A command.')
    parser.add_argument('files', nargs='*')
    assert parser.parse_args(['--', '--file']).files == ['--file']


def test_help_wins_over_a_mistyped_flag(capsys, parser):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(['--trainset', 'x', '--help'])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith('usage: train.py ')


@pytest.mark.parametrize(
    'word, near',
    [
        ('curve', '; did you mean curves?'),
        ('Projecter', '; did you mean projector?'),
        ('pro', '; did you mean projector?'),  # Not similar, but the start of one.
        ('rankings', ''),
        ('', ''),
    ],
)
def test_near_miss_of_a_choice_is_suggested(word, near):
    assert common.suggest(word, ['curves', 'projector']) == near


def test_dashes_make_no_two_flags_alike():
    assert common.suggest('--gpu', ['--pid']) == ''


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_tells_its_version(command):
    process = subprocess.run(
        [sys.executable, command, '--version'], cwd=ROOT, capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (0, '')
    assert process.stdout == f'{command} 0.9.0 (TensorFlow {tf.__version__})\n'


def test_home_directory_is_expanded(monkeypatch):
    monkeypatch.setenv('HOME', '/home/someone')
    assert common.path('~/exp') == '/home/someone/exp'


def test_reason_of_a_tensorflow_error_has_no_names_of_its_graph():
    error = ValueError()
    error.message = '{{function_node __wrapped__X}} disk full [Op:SaveV2] name: \nmore'
    assert common.tensorflow_reason(error) == 'disk full'


# --- files -----------------------------------------------------------------------


def test_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    filename = write(tmp_path / 'result.json', 'old')
    with (
        pytest.raises(ZeroDivisionError),
        common.complete_file(filename) as temporary,
    ):
        pathlib.Path(temporary).write_text('half')
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ['result.json']
    assert pathlib.Path(filename).read_text() == 'old'


def test_complete_file_has_the_permissions_of_any_new_file(tmp_path):
    old_umask = os.umask(0o027)
    try:
        common.write_json(str(tmp_path / 'x.json'), {})
    finally:
        os.umask(old_umask)
    assert (tmp_path / 'x.json').stat().st_mode & 0o777 == 0o640


def test_json_is_sorted_indented_utf8(tmp_path):
    common.write_json(str(tmp_path / 'new' / 'x.json'), {'b': 'ü', 'a': 1})
    text = (tmp_path / 'new' / 'x.json').read_text(encoding='utf-8')
    assert text == '{\n  "a": 1,\n  "b": "ü"\n}\n'


def test_directory_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(common.FileError, match='is a directory, a file name was'):
        common.write_json(str(tmp_path), {})


@pytest.mark.parametrize(
    'text, message',
    [
        ('{"a": ', r'args\.json is not valid JSON'),
        ('[1]', r'args\.json holds a list, expected an object of flags'),
    ],
)
def test_damaged_args_json_is_refused(tmp_path, text, message):
    write(tmp_path / 'args.json', text)
    with pytest.raises(ValueError, match=message):
        common.read_args(str(tmp_path))


def test_missing_args_json_names_the_flag(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no args\.json .* --experiment_root'):
        common.read_args(str(tmp_path))


def test_log_file_gets_the_time_and_the_console_does_not(tmp_path, capsys):
    logger = common.setup_logging(str(tmp_path / 'x.log'))
    logger.info('hello')
    assert capsys.readouterr().err == 'hello\n'
    line = (tmp_path / 'x.log').read_text(encoding='utf-8')
    assert line.startswith('20')
    assert line.endswith(' INFO hello\n')


def test_quiet_console_shows_warnings_only(capsys):
    logger = common.setup_logging(quiet=True)
    logger.info('hello')
    logger.warning('careful')
    assert capsys.readouterr().err == 'careful\n'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_log_on_a_full_disk_stops_the_command():
    logger = common.setup_logging('/dev/full')
    with pytest.raises(OSError, match='No space left on device') as error:
        logger.info('hello')
    assert error.value.filename == '/dev/full'
    log_file = logger.handlers[-1]
    logger.removeHandler(log_file)
    with contextlib.suppress(OSError):  # What it could not write, it cannot flush.
        log_file.close()


def test_args_json_round_trip(tmp_path):
    common.write_json(str(tmp_path / 'args.json'), {'margin': 'soft'})
    assert common.read_args(str(tmp_path)) == {'margin': 'soft'}
    assert json.loads((tmp_path / 'args.json').read_text()) == {'margin': 'soft'}


@pytest.mark.parametrize(
    'name, last_line',
    [
        (
            'ResourceExhaustedError',
            'TensorFlow failed: no room; see "Out of memory" in README.md for what to '
            'lower',
        ),
        ('InternalError', 'this is a bug; please report it with the lines above'),
    ],
)
def test_of_tensorflows_errors_lack_of_memory_is_one_line(
    monkeypatch, capsys, name, last_line
):
    def fail():
        raise getattr(tf.errors, name)(None, None, 'no room\ntrace')

    monkeypatch.setattr(sys, 'argv', ['/somewhere/train.py'])
    with pytest.raises(SystemExit) as stop:
        common.run(fail)
    assert stop.value.code == 1
    *before, last = capsys.readouterr().err.splitlines()
    assert last == f'train.py: error: {last_line}'
    assert bool(before) == (name == 'InternalError')


def test_messages_nobody_reads_do_not_stop_a_run(monkeypatch):
    def raise_broken_pipe(*_, **__):
        raise BrokenPipeError

    logger = common.setup_logging()
    monkeypatch.setattr(common.tqdm.tqdm, 'write', raise_broken_pipe)
    logger.info('into the void')


def test_free_memory_is_read_or_unknown(tmp_path):
    file = tmp_path / 'meminfo'
    file.write_text('MemTotal: 9 kB\nMemAvailable:    3 kB\n')
    assert common.free_memory(file) == 3 * 1024
    assert common.free_memory(tmp_path / 'none') is None
