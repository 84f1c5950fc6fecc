"""How many small faults in a module do its tests notice?

    pip install -r requirements-mutation.txt
    python -m bench.mutation loss
    python -m bench.mutation evaluation --sample 60 --seed 1

cosmic-ray makes the faults (mutants), one at a time: another operator, another
constant, a loop that does not run. For each, the module's tests run in a copy of the
tree. Prints the mutants that survived, and a row of docs/mutation.md. A mutant is
killed where a test fails; where the tests take four times as long as without a fault,
it has timed out, which counts as noticed.
"""

import ast
import contextlib
import importlib
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing

import common

ROOT = pathlib.Path(__file__).parents[1]


class Subject(typing.NamedTuple):
    """Modules to put faults into, and the tests that are to notice; path patterns."""

    modules: list
    tests: list


SUBJECTS = {
    'loss': Subject(['loss.py'], ['tests/test_loss*.py']),
    'batches': Subject(['batches.py'], ['tests/test_batches.py']),
    'images': Subject(['images.py'], ['tests/test_images.py']),
    'layers': Subject(['layers.py'], ['tests/test_layers.py']),
    'checkpoints': Subject(
        ['checkpoints.py'],
        ['tests/test_checkpoints.py', 'tests/training/test_optimizers.py'],
    ),
    'evaluation': Subject(['evaluation/*.py'], ['tests/evaluation']),
    'journal': Subject(
        ['training/journal.py'],
        ['tests/training/test_journal.py', 'tests/training/test_reports.py'],
    ),
}

# Imported once, before the tests of each mutant start in a process of their own.
PRELOADED = ('pytest', 'numpy', 'scipy.optimize', 'cv2', 'tensorflow')

# As pytest ends: nothing failed; something did. Others are errors of collecting, as
# where a mutant cannot be imported, and count as a failure.
NONE_FAILED = 0

# A mutant's tests may take so many times what they take without one, plus seconds.
PATIENCE, MORE_PATIENCE = 4, 20


class Mutant(typing.NamedTuple):
    """A fault: an operator of cosmic-ray at a place where it fits, by number."""

    path: pathlib.Path
    operator: str
    occurrence: int
    line: int


class Counts(typing.NamedTuple):
    """Numbers of mutants: all, those tried, and what became of these."""

    all: int
    tried: int
    survived: int
    timeouts: int


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('subject', choices=SUBJECTS, help='What to put faults into.')
    parser.add_argument(
        '--sample', type=int, default=0, help='Mutants drawn at random; 0: all.'
    )
    parser.add_argument('--seed', type=int, default=0, help='Of that draw.')
    return parser


def list_mutants(path):
    """Return all Mutants of a file, but for those in type hints, which do nothing."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast_from_path

    hints = find_type_hints(path.read_text(encoding='utf-8'))
    nodes = list(ast_nodes(get_ast_from_path(path)))
    mutants = []
    for name in sorted(plugins.operator_names()):
        operator = plugins.get_operator(name)
        if operator.arguments() or name.endswith('/NoOp'):
            continue
        starts = [start for n in nodes for start, _ in operator().mutation_positions(n)]
        mutants += [
            Mutant(path, name, i, start[0])
            for i, start in enumerate(starts)
            if not any(first <= start < last for first, last in hints)
        ]
    return mutants


def find(patterns):
    """Return the paths that fit one of some patterns."""
    return [
        path for pattern in patterns for path in sorted(pathlib.Path().glob(pattern))
    ]


def find_type_hints(source):
    """Return where the type hints of a source are, list of (start, end) positions."""
    hints = []
    for node in ast.walk(ast.parse(source)):
        for field in ('annotation', 'returns'):
            hint = getattr(node, field, None)
            if hint is not None:
                start = hint.lineno, hint.col_offset
                hints.append((start, (hint.end_lineno, hint.end_col_offset)))
    return hints


@contextlib.contextmanager
def applied(mutant):
    """Let a file hold a Mutant's fault; yield what became of its line."""
    from cosmic_ray import mutating, plugins

    source = mutant.path.read_text(encoding='utf-8')
    operator = plugins.get_operator(mutant.operator)()
    mutated = mutating.mutate_code(source, operator, mutant.occurrence)
    mutant.path.write_text(mutated, encoding='utf-8')
    try:
        yield mutated.splitlines()[mutant.line - 1].strip()
    finally:
        mutant.path.write_text(source, encoding='utf-8')


def run_tests(tests, limit):
    """Run tests in a process forked off this one; return (status, seconds).

    The status is pytest's, or None if they took longer than `limit` seconds.
    """
    started = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()  # Its own group, with the processes that tests start.
        with open(os.devnull, 'w', encoding='utf-8') as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        import pytest

        plugins = ('-p', 'no:randomly', '-p', 'no:cacheprovider')
        os._exit(pytest.main(['-x', *plugins, *map(str, tests)]))
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        secs = time.monotonic() - started
        if ended:
            return os.waitstatus_to_exitcode(status), secs
        if secs > limit:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, secs
        time.sleep(0.05)


def copy_tree(directory):
    """Copy the files that git knows, as they are now, into a directory."""
    listed = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z'],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split('\0')):
        if (ROOT / name).is_file():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)


def measure(subject, sample, seed):
    """Run the tests of a Subject on its mutants, in the current directory.

    Args:
        subject: a Subject.
        sample: number of mutants to draw; 0: all of them.
        seed: of that draw.

    Returns:
        a Counts.

    Raises:
        InputError: a test fails without a fault.
    """
    modules, tests = find(subject.modules), find(subject.tests)
    mutants = [mutant for path in modules for mutant in list_mutants(path)]
    num_all = len(mutants)
    if 0 < sample < len(mutants):
        mutants = random.Random(seed).sample(mutants, sample)
    status, secs = run_tests(tests, limit=math.inf)
    if status != NONE_FAILED:
        raise common.InputError(
            f'{" ".join(map(str, tests))} fail without a fault, status {status}; see '
            'what pytest says of them'
        )
    limit = PATIENCE * secs + MORE_PATIENCE
    outcomes = []
    for number, mutant in enumerate(mutants, start=1):
        with applied(mutant) as line:
            status, _ = run_tests(tests, limit)
        outcomes.append(status)
        if status == NONE_FAILED:
            fault = f'{mutant.operator.rpartition("/")[2]} {mutant.occurrence}'
            print(f'survived: {mutant.path}:{mutant.line} {fault}: {line}', flush=True)
        print(f'{number} of {len(mutants)}', file=sys.stderr, flush=True)
    return Counts(
        num_all, len(outcomes), outcomes.count(NONE_FAILED), outcomes.count(None)
    )


def format_row(name, counts):
    """Return the row of docs/mutation.md for a subject."""
    killed = counts.tried - counts.survived - counts.timeouts
    return (
        f'| `{name}` | {counts.all} | {counts.tried} | {killed} | {counts.survived} | '
        f'{counts.timeouts} | {1 - counts.survived / counts.tried:.0%} |'
    )


def main(argv=None):
    args = build_parser().parse_args(argv)
    try:
        importlib.import_module('cosmic_ray')
    except ImportError as error:
        raise common.InputError(
            'cosmic-ray is not installed; run pip install -r requirements-mutation.txt'
        ) from error
    # A file of bytecode could be taken for that of the next mutant, as old and as long.
    sys.dont_write_bytecode = True
    for name in PRELOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as directory:
        copy_tree(pathlib.Path(directory))
        os.chdir(directory)
        counts = measure(SUBJECTS[args.subject], args.sample, args.seed)
        os.chdir(ROOT)
    print(format_row(args.subject, counts))


if __name__ == '__main__':
    common.run(main)
