"""The shell scripts: what they call, with which arguments, and what they refuse.

A bash script stands in for Python. It records how it is called and pretends success, so
that no script here takes more than a moment.
"""

import importlib
import os
import pathlib
import shutil
import subprocess

import pytest

import readme_story

# How test.sh spreads the tests over the cores.
PARALLEL = (
    '-n',
    str(int(subprocess.check_output(['nproc'])) + 1),
    '--dist',
    'loadfile',
)

SCRIPTS = ('demo.sh', 'test.sh', 'market1501_train.sh', 'setup_venv.sh', '.ci/run')

# What market1501_train.sh has to spell out: arXiv:1703.07737, the TriNet experiments.
PAPER = {
    'model_name': 'resnet_v1_50',
    'last_stride': 2,
    'head_name': 'fc1024',
    'embedding_dim': 128,
    'precision': 'float32',
    'batch_p': 18,
    'batch_k': 4,
    'pre_crop_height': 288,
    'pre_crop_width': 144,
    'net_input_height': 256,
    'net_input_width': 128,
    'flip_augment': True,
    'crop_augment': True,
    'pad_crop': 0,
    'color_jitter': 0,
    'random_erasing': 0,
    'loss': 'batch_hard',
    'margin': 'soft',
    'metric': 'euclidean',
    'optimizer': 'adam',
    'learning_rate': 3e-4,
    'weight_decay': 0,
    'warmup_iterations': 0,
    'train_iterations': 25000,
    'decay_start_iteration': 15000,
    'adam_beta1_at_decay': 0.9,  # The original code's; the text of the paper says 0.5.
}
# Flags of train.py that do not change what is learned, or that are arguments.
NO_HYPERPARAMETERS = {
    *('help', 'experiment_root', 'train_set', 'image_root', 'initial_checkpoint'),
    *('resume', 'seed', 'loading_threads', 'checkpoint_frequency', 'cache'),
    *('keep_checkpoints', 'check_images', 'checkpoint', 'allow_outside_image_root'),
    'csv_header',
    'quiet',
    *('histogram_frequency', 'detailed_logs', 'dry_run', 'overfit_one_batch'),
    *(
        'image_frequency',
        'val_set',
        'val_query',
        'val_excluder',
        'val_image_root',
        'val_every',
    ),
    *('distribute', 'sync_batch_norm'),  # One device: nothing to synchronise.
}

# Records where it is called and its arguments, a line each, then an empty line; fails
# where $FAIL matches. It makes the files that the scripts expect of a command, and says
# what the demo shows of evaluate.py.
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$PWD" "$@" '' >> {log}
if [ -n "${{FAIL:-}}" ] && [[ "$*" == *"$FAIL"* ]]; then exit 1; fi
case "$*" in
  '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *make_csv.py*) touch "$(dirname "$1")"/data/market1501_{{train,query,test}}.csv ;;
  *train.py*) mkdir -p demo/experiment ;;
  '-m drawn_people '*) mkdir -p demo/data ;;
  *evaluate.py*) echo 'mAP: 12.34%' ;;
esac
"""

# Says that it is too old; any other use of it is recorded.
OLD_PYTHON = """#!/usr/bin/env bash
case "$1" in
  --version) echo 'Python 3.10.12' ;;
  -c) exit 1 ;;
  *) echo "$@" >> {log} ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A clone of the repository without .venv, in a directory with a space."""
    target = tmp_path / 'a clone'
    readme_story.copy_code(target)
    (target / '.ci').mkdir()
    shutil.copy(readme_story.ROOT / '.ci' / 'run', target / '.ci')
    for name in ('locked.txt', 'locked-dev.txt'):
        shutil.copy(readme_story.ROOT / name, target)
    return target


@pytest.fixture
def python(tmp_path):
    """A recording stand-in for Python, in a directory with a space."""
    filename = tmp_path / 'my python' / 'python3'
    filename.parent.mkdir()
    write_python(filename, RECORDER)
    return filename


def write_python(filename, text):
    """Write a stand-in for Python that records in calls.log beside it."""
    readme_story.write_script(filename, text.format(log=f"'{log_of(filename)}'"))


def log_of(python):
    """Return the file in which a stand-in records its calls."""
    return python.parent / 'calls.log'


def read_calls(python):
    """Return [(directory, arguments)] of the calls recorded since the last reading."""
    log = log_of(python)
    if not log.exists():
        return []
    calls = log.read_text().removesuffix('\n\n').split('\n\n')
    log.unlink()
    return [(words[0], words[1:]) for words in (call.split('\n') for call in calls)]


def run(script, *flags, python=None, cwd=None, **env):
    """Run a script with a stand-in for Python; return the finished process."""
    # An environment the tests run in must not decide which Python a script takes.
    outer = ('PYTHON', 'VIRTUAL_ENV', 'CONDA_PREFIX')
    inherited = {k: v for k, v in os.environ.items() if k not in outer}
    chosen = {} if python is None else {'PYTHON': str(python)}
    return subprocess.run(
        [str(script), *map(str, flags)],
        cwd=cwd,
        env=inherited | chosen | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def parse(call):
    """Return a recorded call's flags, as the command of that name parses them."""
    command = importlib.import_module(pathlib.Path(call[0]).stem)
    return command.build_parser().parse_args(call[1:])


@pytest.mark.parametrize('script', SCRIPTS)
def test_script_is_bash(script):
    subprocess.run(['bash', '-n', readme_story.ROOT / script], check=True)
    if script != 'setup_venv.sh':  # It is sourced.
        assert os.access(readme_story.ROOT / script, os.X_OK)


# --- market1501_train.sh ---------------------------------------------------------


@pytest.mark.parametrize('flags', [(), ('images',), ('images', 'resnet.ckpt')])
def test_recipe_with_too_few_arguments_shows_its_usage(clone, python, flags):
    result = run(clone / 'market1501_train.sh', *flags, python=python)
    assert result.returncode == 1
    assert result.stdout == ''
    (line,) = result.stderr.splitlines()
    assert line.startswith('usage: ')
    assert 'PATH_TO_IMAGES RESNET_CHECKPOINT_FILE EXPERIMENT_ROOT' in line
    assert read_calls(python) == []


def test_recipe_trains_as_the_paper_did(clone, python):
    run(clone / 'market1501_train.sh', 'images', 'r.ckpt', 'root', python=python)
    call = read_calls(python)[-1][1]
    args = vars(parse(call))
    assert set(args) | {'help'} == set(PAPER) | NO_HYPERPARAMETERS
    for name, value in PAPER.items():
        assert f'--{name}' in call
        assert args[name] == value


def test_recipe_takes_spaces_and_runs_where_it_is_called(clone, python, tmp_path):
    elsewhere = tmp_path / 'some where'
    elsewhere.mkdir()
    flags = ('the images', 'old/resnet v1.ckpt', '../a run')
    result = run(clone / 'market1501_train.sh', *flags, python=python, cwd=elsewhere)
    assert result.returncode == 0, result.stderr
    directory, call = read_calls(python)[-1]
    assert directory == str(elsewhere)
    assert call[0] == str(clone / 'train.py')
    args = parse(call)
    found = (*args.image_root, args.initial_checkpoint, args.experiment_root)
    assert found == flags
    assert args.train_set == [str(clone / 'data' / 'market1501_train.csv')]


def test_recipe_makes_the_csv_files_only_if_one_is_missing(clone, python):
    command = (clone / 'market1501_train.sh', 'im ages', 'r.ckpt', 'root')
    run(*command, python=python)
    first, second = (call for _, call in read_calls(python))
    assert first == [str(clone / 'make_csv.py'), 'market1501', 'im ages']
    assert second[0] == str(clone / 'train.py')
    run(*command, python=python)
    assert len(read_calls(python)) == 1
    (clone / 'data' / 'market1501_test.csv').unlink()
    run(*command, python=python)
    assert len(read_calls(python)) == 2


def test_recipe_does_not_train_without_csv_files(clone, python):
    command = (clone / 'market1501_train.sh', 'images', 'r.ckpt', 'root')
    assert run(*command, python=python, FAIL='make_csv.py').returncode == 1
    assert len(read_calls(python)) == 1


def test_further_flags_win_over_the_recipe(clone, python):
    more = ('--batch_p', '10', '--margin', '0.2', '--seed', '7')
    run(clone / 'market1501_train.sh', 'im', 'r.ckpt', 'root', *more, python=python)
    args = parse(read_calls(python)[-1][1])
    assert (args.batch_p, args.margin, args.seed) == (10, 0.2, 7)
    assert args.batch_k == PAPER['batch_k']


def test_recipe_outside_any_environment_takes_that_of_the_demo(clone, python):
    inside = clone / '.venv' / 'bin' / 'python'
    inside.parent.mkdir(parents=True)
    write_python(inside, RECORDER)
    run(clone / 'market1501_train.sh', 'images', 'r.ckpt', 'root')
    assert len(read_calls(inside)) == 2
    run(clone / 'market1501_train.sh', 'images', 'r.ckpt', 'root', python=python)
    assert len(read_calls(python)) == 1


# --- demo.sh, test.sh and what they share ----------------------------------------


def test_demo_runs_commands_with_flags_that_exist(clone, python, monkeypatch):
    result = run(clone / 'demo.sh', python=python)
    assert result.returncode == 0, result.stderr
    assert 'untrained: mAP: 12.34%\ntrained:   mAP: 12.34%\n' in result.stdout
    assert result.stdout.endswith(f': {clone}/demo/ranking.png\n')
    monkeypatch.chdir(clone)
    drawing, *calls = [
        call
        for _, call in read_calls(python)
        if call[0].endswith('.py') or call[:2] == ['-m', 'drawn_people']
    ]
    assert drawing == ['-m', 'drawn_people', 'demo/data']
    for call in calls:
        assert (clone / call[0]).is_file()
        parse(call)
    assert [call[0] for call in calls] == [
        *('make_csv.py', 'train.py'),
        *('embed.py', 'embed.py', 'evaluate.py') * 2,
        'visualize.py',
    ]


def test_demo_stops_where_a_command_fails(clone, python):
    assert run(clone / 'demo.sh', python=python, FAIL='evaluate.py').returncode == 1
    assert read_calls(python)[-1][1][0] == 'evaluate.py'


def test_tests_are_ruff_mypy_and_pytest(clone, python):
    result = run(clone / 'test.sh', '-k', 'a or b', python=python)
    assert result.returncode == 0, result.stderr
    assert read_calls(python)[-4:] == [
        (str(clone), ['-m', 'ruff', 'check', '.']),
        (str(clone), ['-m', 'ruff', 'format', '--check', '.']),
        (str(clone), ['-m', 'mypy']),
        (str(clone), ['-m', 'pytest', *PARALLEL, '-k', 'a or b']),
    ]


@pytest.mark.parametrize('failing', ['ruff check', 'ruff format', 'mypy', 'pytest'])
def test_tests_fail_if_one_of_them_fails(clone, python, failing):
    assert run(clone / 'test.sh', python=python, FAIL=failing).returncode == 1


def test_ci_runs_the_tests_and_nothing_else(clone, tmp_path):
    readme_story.write_script(clone / 'test.sh', '#!/bin/sh\necho tested\nexit 3\n')
    result = run(clone / '.ci' / 'run', cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (3, 'tested\n', '')


@pytest.mark.parametrize('script', ['demo.sh', 'test.sh'])
def test_second_run_installs_nothing(clone, python, script):
    # Setting up calls, in this order: a question for the version, venv, pip.
    run(clone / script, python=python)
    setup = [call[:2] for _, call in read_calls(python)[:3]]
    assert [words[0] for words in setup] == ['-c', '-m', '-m']
    assert [words[1] for words in setup[1:]] == ['venv', 'pip']
    result = run(clone / script, python=python)
    assert f'{clone}/.venv is ready' in result.stdout
    assert not [c for _, c in read_calls(python) if c[:2] in setup]


def test_changed_requirements_are_installed(clone, python):
    run(clone / 'test.sh', python=python)
    read_calls(python)
    with open(clone / 'locked-dev.txt', 'a') as file:
        file.write('more==1\n')
    run(clone / 'test.sh', python=python)
    calls = [call for _, call in read_calls(python)]
    assert [call[1] for call in calls[1:3]] == ['pip', 'ruff']  # No new .venv.


@pytest.mark.parametrize(
    'script, locked', [('demo.sh', 'locked.txt'), ('test.sh', 'locked-dev.txt')]
)
def test_only_files_of_the_listed_sums_are_installed(clone, python, script, locked):
    run(clone / script, python=python)
    (call,) = (call for _, call in read_calls(python) if call[1] == 'pip')
    assert '--require-hashes' in call
    assert call[-2:] == ['-r', f'{clone}/{locked}']


def test_failed_installation_is_tried_again(clone, python):
    assert run(clone / 'test.sh', python=python, FAIL='pip install').returncode == 1
    assert read_calls(python)[-1][1][1] == 'pip'  # No ruff, no pytest.
    assert run(clone / 'test.sh', python=python).returncode == 0
    assert [call[1] for _, call in read_calls(python)].count('pip') == 1


@pytest.mark.parametrize('script', ['demo.sh', 'test.sh'])
def test_old_python_is_refused_in_one_line(clone, tmp_path, script):
    old = tmp_path / 'python3.10'
    write_python(old, OLD_PYTHON)
    result = run(clone / script, python=old)
    assert (result.returncode, result.stdout) == (1, '')
    (line,) = result.stderr.splitlines()
    assert 'error: Python 3.10.12 found, 3.11 to 3.13 expected' in line
    assert line.endswith(f'name another with PYTHON=python3.12 {clone / script}')
    assert not log_of(old).exists()
    assert not (clone / '.venv').exists()


def test_missing_python_is_named(clone):
    result = run(clone / 'demo.sh', python='python3.99')
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert 'no python3.99 here; install Python 3.11, 3.12 or 3.13' in line


def test_missing_venv_module_is_explained(clone, python):
    result = run(clone / 'demo.sh', python=python, FAIL='-m venv')
    assert result.returncode == 1
    assert 'apt install python3-venv' in result.stderr.splitlines()[-1]
    assert not (clone / '.venv').exists()
