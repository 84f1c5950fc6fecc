"""What the commands share: flags, CSV files, result files, errors, logging."""

import argparse
import contextlib
import errno
import io
import json
import os
import pathlib
import socket
import stat
import subprocess
import sys
import tempfile
import types

import h5py
import pytest
import tensorflow as tf

import common
import run_args

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
        (common.seed, '4294967295', 2**32 - 1),
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
        (common.seed, '-1'),
        (common.seed, '4294967296'),
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


def test_negative_numbers_are_no_flags(parser):
    for text in ('-1', '-1e-3', '-.5', '-inf', '-nan'):
        args = parser.parse_args(['--train_set', 'x', '--learning_rate', text])
        assert args.learning_rate == text


def test_every_seed_that_is_taken_seeds_everything():
    for value in (0, common.SEED_LIMIT - 1):
        tf.keras.utils.set_random_seed(common.seed(str(value)))


@pytest.mark.parametrize('parse', [common.path, common.readable_file])
def test_variable_that_is_not_set_is_no_path(parse):
    with pytest.raises(argparse.ArgumentTypeError, match="^'' given, a path expected"):
        parse('')


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


def test_result_is_written_through_symbolic_links(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    target = tmp_path / 'elsewhere' / 'x.json'
    target.write_text('old')
    first, second = tmp_path / 'first.json', tmp_path / 'second.json'
    second.symlink_to('elsewhere/x.json')  # Relative to where it is.
    first.symlink_to(second)
    common.write_json(str(first), {'a': 1})
    assert os.readlink(first) == str(second)
    assert os.readlink(second) == 'elsewhere/x.json'
    assert json.loads(target.read_text()) == {'a': 1}
    assert sorted(os.listdir(tmp_path)) == ['elsewhere', 'first.json', 'second.json']
    assert os.listdir(tmp_path / 'elsewhere') == ['x.json']


def test_result_is_written_where_a_dangling_link_points_to(tmp_path):
    (tmp_path / 'link').symlink_to('new/x.json')
    common.write_json(str(tmp_path / 'link'), {})
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'new' / 'x.json').read_text() == '{}\n'


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / 'a').symlink_to('b')
    (tmp_path / 'b').symlink_to('a')
    with pytest.raises(common.FileError, match='cannot write .*/a: Too many levels of'):
        common.write_json(str(tmp_path / 'a'), {})
    assert (tmp_path / 'a').is_symlink()


def kind_of(filename):
    """Return what a path is, without following links, and where it is."""
    status = os.stat(filename, follow_symlinks=False)
    return stat.S_IFMT(status.st_mode), status.st_ino, status.st_rdev


@pytest.fixture
def forbidden():
    """A directory that cannot be written to, and no rights to do it nevertheless.

    As root, a fault that the tests below look for would replace a device.
    """
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            yield directory
        finally:
            os.seteuid(user)


@pytest.mark.usefixtures('forbidden')
def test_result_can_go_nowhere():
    before = kind_of('/dev/null')
    common.write_json('/dev/null', {})
    assert kind_of('/dev/null') == before


@pytest.mark.usefixtures('forbidden')
@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_device_without_room_is_named_and_stays():
    before = kind_of('/dev/full')
    with pytest.raises(
        common.FileError,
        match='^cannot write /dev/full: No space left on device; make room there, or',
    ):
        common.write_json('/dev/full', {})
    assert kind_of('/dev/full') == before


def test_device_behind_a_link_gets_the_result(tmp_path, monkeypatch):
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    controller, terminal = os.openpty()
    (tmp_path / 'link').symlink_to(os.ttyname(terminal))
    common.write_json(str(tmp_path / 'link'), {})
    assert os.read(controller, 100) == b'{}\r\n'
    assert os.readlink(tmp_path / 'link') == os.ttyname(terminal)
    assert stat.S_ISCHR(os.stat(tmp_path / 'link').st_mode)
    assert os.listdir(tmp_path / 'temporary') == []
    os.close(controller)
    os.close(terminal)


def test_pipe_gets_the_whole_result_and_stays(tmp_path):
    pipe = str(tmp_path / 'pipe')
    os.mkfifo(pipe)
    # Not waiting for a writer, which may never come. What fits into a pipe, some 64 kB,
    # need not be read at the same time.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with common.complete_file(pipe) as temporary, h5py.File(temporary, 'w') as file:
        file['x'] = [1, 2]  # HDF5 goes back and forth in its files.
    content = os.read(reader, 10**5)
    os.close(reader)
    with h5py.File(io.BytesIO(content)) as file:
        assert file['x'][:].tolist() == [1, 2]
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


def test_pipe_gets_nothing_of_a_result_that_fails(tmp_path):
    os.mkfifo(tmp_path / 'pipe')  # Without a reader, opening it would never return.
    with pytest.raises(ZeroDivisionError), common.complete_file(tmp_path / 'pipe'):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ['pipe']


def run_buffered(code, **kwargs):
    """Run Python code; its output is buffered, whatever the environment says."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'}
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=env, **kwargs)


@pytest.mark.parametrize('target', ['/dev/stdout', '/dev/fd/1'])
@pytest.mark.parametrize('is_file', [False, True])
def test_result_in_our_own_output_keeps_its_place(tmp_path, target, is_file):
    code = (
        'import common; print("before");'
        f'common.write_json({target!r}, {{"a": 1}}); print("after")'
    )
    with open(tmp_path / 'out', 'wb') as file:
        stdout = file if is_file else subprocess.PIPE
        process = run_buffered(code, stdout=stdout)
    written = (tmp_path / 'out').read_bytes() if is_file else process.stdout
    assert written == b'before\n{\n  "a": 1\n}\nafter\n'


def test_socket_is_refused(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / 's'))
        with pytest.raises(common.FileError, match='s is a socket, a file name was'):
            common.write_json(str(tmp_path / 's'), {})


def test_unwritable_directory_is_told_of_the_file_that_was_named(forbidden):
    for name in ('x.json', 'new/x.json'):
        with pytest.raises(common.FileError) as error:
            common.write_json(f'{forbidden}/{name}', {})
        assert str(error.value) == (
            f'cannot write {forbidden}/{name}: Permission denied; choose a place that '
            'you may write to'
        )


@pytest.mark.parametrize(
    'filename', ['/dev/null', '{d}/new', '{d}/a/b', '{d}/old', '{d}/link']
)
def test_name_of_a_file_that_can_be_written_is_taken(tmp_path, filename):
    (tmp_path / 'old').touch()
    (tmp_path / 'link').symlink_to('none')
    common.check_file_name(filename.format(d=tmp_path))
    assert sorted(os.listdir(tmp_path)) == ['link', 'old']


def test_file_in_a_forbidden_place_is_refused_before_the_work(forbidden):
    common.check_file_name('/dev/null')  # Its directory is forbidden, too.
    with pytest.raises(common.FileError) as error:
        common.check_file_name(f'{forbidden}/new/x')
    assert str(error.value) == (
        f'{forbidden}/new/x cannot be written: no permission in {forbidden}; choose '
        'another place'
    )


def test_directories_that_are_made_are_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(common, 'sync', synced.append)
    (tmp_path / 'a').mkdir()
    filename = str(tmp_path / 'a' / 'b' / 'c' / 'x')
    assert common.make_directory_of(filename) == f'{tmp_path}/a/b/c'
    # The names b and c, each in its directory.
    assert sorted(synced) == [f'{tmp_path}/a', f'{tmp_path}/a/b']
    synced.clear()
    common.make_directory_of(filename)
    assert synced == []


def test_directory_is_made_in_one_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(common, 'sync', refuse)
    common.make_directory_of(str(tmp_path / 'a' / 'x'))
    assert (tmp_path / 'a').is_dir()


@pytest.mark.parametrize(
    'write', [common.check_file_name, lambda name: common.write_json(name, {})]
)
def test_file_above_the_directory_to_make_is_named(tmp_path, write):
    (tmp_path / 'file').touch()
    with pytest.raises(common.FileError) as error:
        write(str(tmp_path / 'file' / 'a' / 'b' / 'x.json'))
    assert str(error.value) == f'{tmp_path}/file is a file, a directory was expected'


def test_full_disk_names_the_file_that_was_to_be_written(tmp_path, small_files):
    small_files(4)
    with pytest.raises(common.FileError) as error:
        common.write_json(str(tmp_path / 'x.json'), {'a': 1})
    assert str(error.value) == (
        f'cannot write {tmp_path}/x.json: File too large; raise the limit on the size '
        'of files, or choose another place'
    )
    assert os.listdir(tmp_path) == []


def test_name_as_long_as_can_be_is_written(tmp_path):
    name = 'ü' * 125 + '.json'  # 255 bytes.
    common.write_json(str(tmp_path / name), {})
    assert os.listdir(tmp_path) == [name]


def test_what_fails_beside_the_writing_is_not_blamed_on_it(tmp_path):
    with (
        pytest.raises(FileNotFoundError) as error,
        common.complete_file(str(tmp_path / 'x')),
    ):
        (tmp_path / 'image.jpg').read_bytes()
    assert error.value.filename == str(tmp_path / 'image.jpg')
    with (
        pytest.raises(OSError, match='Input/output') as error,
        common.complete_file(str(tmp_path / 'x')),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # It may be a read.
    assert not isinstance(error.value, common.FileError)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
@pytest.mark.parametrize('size', [1, 10**6])  # Within Python's buffer, and beyond it.
def test_output_without_room_is_one_line(size):
    code = (
        'import sys, common; sys.argv = ["x.py"];'
        f'common.run(lambda: print("a" * {size}))'
    )
    with open('/dev/full', 'w') as full:
        process = run_buffered(code, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith('x.py: error: ')
    assert line.endswith(
        'No space left on device; make room there, or choose another place'
    )


def test_command_without_stdout_works():
    code = 'import common; common.run(lambda: print(1))'
    process = subprocess.run(
        ['bash', '-c', f"'{sys.executable}' -c '{code}' >&-"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    assert (process.returncode, process.stderr) == (0, b'')


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
        run_args.read(str(tmp_path))


def test_missing_args_json_names_the_flag(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no args\.json .* --experiment_root'):
        run_args.read(str(tmp_path))


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
    assert run_args.read(str(tmp_path)) == {'margin': 'soft'}
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


def test_total_memory_counts_swap(tmp_path):
    file = tmp_path / 'meminfo'
    file.write_text('MemTotal: 9 kB\nHugePages_Total: 0\nSwapTotal: 4 kB\n')
    assert common.total_memory(file) == 13 * 1024
    file.write_text('MemTotal: 9 kB\n')
    assert common.total_memory(file) == 9 * 1024
    assert common.total_memory(tmp_path / 'none') is None


@pytest.mark.parametrize('total', [1.5e12, None])
def test_what_may_fit_is_tried(monkeypatch, total):
    monkeypatch.setattr(common, 'total_memory', lambda: total)
    common.refuse_impossible(1.5e12, 'it', 'lower it')


def test_what_cannot_fit_is_refused(monkeypatch):
    monkeypatch.setattr(common, 'total_memory', lambda: 16e9)
    with pytest.raises(common.InputError) as error:
        common.refuse_impossible(1.536e12, 'a batch', 'lower --batch_p')
    assert str(error.value) == (
        'a batch needs about 1536.0 GB, this machine has 16.0 GB of memory and swap; '
        'lower --batch_p'
    )


# --- TensorFlow's start ----------------------------------------------------------


@pytest.mark.parametrize(
    'error, shown', [(KeyboardInterrupt, ''), (ImportError, 'no such GPU\n')]
)
def test_chatter_of_an_interrupted_start_is_dropped(monkeypatch, capfd, error, shown):
    """Of a failed one it is shown: it may say why."""

    def import_module(name):
        os.write(2, b'no such GPU\n')  # As C code does.
        raise error

    monkeypatch.setattr(common.importlib, 'import_module', import_module)
    with pytest.raises(error):
        common.start_tensorflow()
    print('ours', file=sys.stderr)
    assert capfd.readouterr().err == f'{shown}ours\n'


def test_keras_finds_nothing_that_is_slow_and_not_used(monkeypatch):
    monkeypatch.delitem(sys.modules, 'sklearn', raising=False)
    monkeypatch.setitem(sys.modules, 'pandas', sys)  # Somebody has imported it.
    seen = {}

    def import_module(name):
        for other in ('sklearn', 'pandas'):
            seen[name, other] = sys.modules[other]
        return types.SimpleNamespace(config=types.SimpleNamespace(**config))

    config = {'list_physical_devices': list}
    monkeypatch.setattr(common.importlib, 'import_module', import_module)
    common.start_tensorflow()
    assert seen == {
        (name, other): module
        for name in ('tensorflow', 'keras')
        for other, module in (('sklearn', None), ('pandas', sys))
    }
    assert 'sklearn' not in sys.modules
    assert sys.modules['pandas'] is sys


def test_directory_beside_a_file_is_there_for_a_block(tmp_path):
    target = tmp_path / 'new' / 'x.onnx'
    with common.directory_beside(str(target)) as made:
        assert os.listdir(made) == []
        assert os.path.dirname(made) == str(tmp_path / 'new')
        (pathlib.Path(made) / 'x').write_text('x')
        os.replace(os.path.join(made, 'x'), target)
    assert [path.name for path in target.parent.iterdir()] == ['x.onnx']


def test_directory_of_a_killed_process_is_removed_and_of_a_living_one_is_not(tmp_path):
    target = str(tmp_path / 'x.onnx')
    with common.directory_beside(target) as living:
        dead = tmp_path / '.x.onnx.12345678.partial'
        dead.write_bytes(b'')
        dead.with_name(f'{dead.name}.d').mkdir()
        (dead.with_name(f'{dead.name}.d') / 'half').write_text('half')
        common.remove_leftovers.cache_clear()
        with common.directory_beside(target):
            assert not list(tmp_path.glob('*12345678*'))
            assert os.path.isdir(living)
    assert not list(tmp_path.iterdir())


def test_control_characters_of_names_are_shown_as_escapes():
    odd = 'a\nb\x1b[31m\x9f\u2028 ä 人 😀.png'
    shown = r'a\nb\x1b[31m\x9f\u2028 ä 人 😀.png'
    assert common.one_line(odd) == shown
    assert common.describe_error(OSError(2, 'No such file', odd)) == (
        f'{shown}: No such file'
    )
    # Messages are of several lines at times; their words count.
    error = common.InputError('a\n  b \x07')
    assert common.describe_error(error) == r'a b \x07'
