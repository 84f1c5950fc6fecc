"""Every file is where a stranger would look for it: who imports whom.

The rule: what one command alone uses lives in that command's folder; what two commands
use stays at the root; what is one choice of a flag lives in its registry.
"""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import packaging.requirements
import packaging.utils
import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Folders of one command, and of several.
FOLDER_OF = {
    'train': 'training',
    'embed': 'embedding',
    'search': 'searching',
    'bulk_embed': 'bulk',
}
REGISTRIES = ('nets', 'heads', 'excluders', 'data', 'deployment')
LIBRARIES = ('evaluation', 'visuals')  # Of evaluate.py and visualize.py, and others.
APART = ('tests', 'bench', 'drawn_people')  # What the commands do not import.

# At the root although one command uses it: users of the paper's code look there.
PAPERS = {'loss'}

WITHOUT_TENSORFLOW = (*LIBRARIES[:1], 'excluders', 'data')
MOST_LINES = 60  # Of a function, without its docstring.


def list_sources():
    """Return {dotted name: path} of all Python files, packages by their folder."""
    sources = {}
    for path in sorted(ROOT.rglob('*.py')):
        parts = path.relative_to(ROOT).with_suffix('').parts
        if parts[0].startswith('.') or parts[0] in ('demo', 'build'):
            continue
        name = '.'.join(part for part in parts if part != '__init__')
        sources[name] = path
    return sources


SOURCES = list_sources()
TREES = {name: ast.parse(path.read_text('utf-8')) for name, path in SOURCES.items()}


def is_command(name):
    """Say whether a module at the root is a command."""
    return '.' not in name and 'common.run(main)' in SOURCES[name].read_text('utf-8')


COMMANDS = [name for name in SOURCES if is_command(name)]
MODULES = [name for name in SOURCES if name.partition('.')[0] not in APART]


def find_imports(name):
    """Return the modules of ours that a module imports, at once, lazily or later."""
    return (list_imports(name) & SOURCES.keys()) - {name}


def list_imports(name, is_when_loaded=False):
    """Return the names of all that a module imports, a set.

    Args:
        name: of the module.
        is_when_loaded: only what it imports when it is imported itself.
    """
    found = set()
    tree = TREES[name]
    for node in tree.body if is_when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from package import module`, or `from module import function`.
            inner = {f'{node.module}.{alias.name}' for alias in node.names}
            found |= {one if one in SOURCES else node.module for one in inner}
        elif isinstance(node, ast.Call) and called_name(node) == 'lazy_import':
            found.add(node.args[0].value)
        elif isinstance(node, ast.Call) and called_name(node) == 'import_module':
            # A choice of a flag: f'nets.{name}' may be any of the registry.
            words = [part for part in ast.walk(node) if isinstance(part, ast.Constant)]
            package = str(words[0].value).partition('.')[0] if words else ''
            if package in REGISTRIES:
                found |= {one for one in SOURCES if one.startswith(f'{package}.')}
    return found


def called_name(call):
    """Return the last part of what an ast.Call calls."""
    function = call.func
    return getattr(function, 'attr', getattr(function, 'id', None))


IMPORTS = {name: find_imports(name) for name in SOURCES}


def reach(name):
    """Return all modules of ours that a module needs, itself included."""
    reached, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += IMPORTS[one]
    return reached


USERS = {
    module: [command for command in COMMANDS if module in reach(command)]
    for module in MODULES
}


def test_the_test_sees_imports_of_every_kind():
    # One of each kind, so that no rule below holds for want of imports.
    assert {'common', 'training.flags', 'training.loop'} <= IMPORTS['train']
    assert 'training.replicas' in IMPORTS['training.workers']
    assert 'nets.resnet_v1_50' in IMPORTS['model']
    assert set(COMMANDS) >= {'train', 'embed', 'evaluate', 'make_csv', 'visualize'}
    assert set(USERS['checkpoints']) == {
        *('train', 'embed', 'bulk_embed', 'export', 'search')
    }


def test_no_command_is_imported():
    importers = {name: IMPORTS[name] & set(COMMANDS) for name in MODULES}
    assert {name: found for name, found in importers.items() if found} == {}


@pytest.mark.parametrize('command', FOLDER_OF)
def test_what_is_in_a_commands_folder_is_its_alone(command):
    folder = FOLDER_OF[command]
    inside = [name for name in MODULES if name.startswith(f'{folder}.')]
    assert inside
    assert {name: USERS[name] for name in inside} == {key: [command] for key in inside}


def test_what_one_command_uses_is_not_at_the_root():
    at_root = [
        name
        for name in MODULES
        if '.' not in name
        and name not in (*COMMANDS, *PAPERS, *REGISTRIES, *LIBRARIES)
        and name not in FOLDER_OF.values()
    ]
    assert len(at_root) > 5
    lonely = {name: USERS[name] for name in at_root if len(USERS[name]) < 2}
    assert lonely == {}


def test_every_module_is_used_by_a_command():
    unused = [name for name in MODULES if not USERS[name] and name not in COMMANDS]
    # A package is imported by its modules, which is no statement of theirs.
    assert [name for name in unused if SOURCES[name].name != '__init__.py'] == []


def test_no_import_goes_upwards():
    """Root libraries and shared folders know nothing of a command's folder."""
    private = tuple(f'{folder}.' for folder in FOLDER_OF.values())
    upwards = {
        name: found
        for name in MODULES
        if name not in COMMANDS and not name.startswith(private)
        if (found := {one for one in IMPORTS[name] if one.startswith(private)})
    }
    assert upwards == {}


def test_registries_and_scores_know_no_pictures():
    low = ('nets', 'heads', 'excluders', 'data', 'evaluation')
    wrong = {
        name: found
        for name in MODULES
        if name.partition('.')[0] in low
        if (found := {one for one in IMPORTS[name] if one.startswith('visuals.')})
    }
    assert wrong == {}


def test_no_imports_go_in_a_circle():
    circles = [
        name for name in MODULES if any(name in reach(one) for one in IMPORTS[name])
    ]
    assert circles == []


@pytest.mark.parametrize('name', [n for n in SOURCES if SOURCES[n].stem == '__init__'])
def test_a_folder_has_a_table_of_contents(name):
    contents = ast.get_docstring(TREES[name])
    assert contents
    if name in (*FOLDER_OF.values(), *LIBRARIES, 'drawn_people'):
        modules = {
            path.name
            for path in SOURCES[name].parent.glob('*.py')
            if path.name != '__init__.py'
        }
        firsts = {line.split()[0] for line in contents.splitlines() if line.strip()}
        listed = {word for word in firsts if word.endswith('.py')}
        assert listed == modules


def imported_by(code):
    """Return the top-level modules that running some code imports, a set."""
    process = subprocess.run(
        [sys.executable, '-c', f'{code}\nimport sys; print(*sys.modules)'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    # A lazy module is listed itself; once it runs, so are its parts.
    parts = [name for name in process.stdout.split() if '.' in name]
    return {name.partition('.')[0] for name in parts}


@pytest.mark.parametrize('folder', WITHOUT_TENSORFLOW)
def test_folder_imports_no_tensorflow(folder):
    names = [name for name in MODULES if name.startswith(f'{folder}.')]
    assert names
    imported = imported_by('\n'.join(f'import {name}' for name in names))
    assert not imported & {'tensorflow', 'keras'}


@pytest.mark.parametrize('registry', REGISTRIES)
def test_list_of_a_registry_imports_no_tensorflow(registry):
    assert not imported_by(f'import {registry}') & {'tensorflow', 'keras', 'scipy'}


def count_lines(function):
    """Return the lines of an ast.FunctionDef without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function):
        first = function.body[0]
        lines -= first.end_lineno - first.lineno + 1
    return lines


OPTIONAL = (
    *('requirements-export.txt', 'requirements-parquet.txt'),
    *('requirements-search.txt', 'requirements-cluster.txt'),
)

BENCH_REQUIREMENTS = [
    *('requirements-dev.txt', 'requirements-mutation.txt', 'bench/requirements.txt'),
]


def read_requirements(*names):
    """Return the names of the distributions in files of requirements, a set."""
    found = set()
    for name in names:
        for line in (ROOT / name).read_text('utf-8').splitlines():
            if line.startswith('-r '):
                found |= read_requirements(line.removeprefix('-r '))
            elif line and not line.startswith('#'):
                found.add(re.match(r'[\w-]+', line)[0].lower())
    return found


def read_pins(filename):
    """Return {name: (version, its sums)} of a file of pinned requirements."""
    pins = {}
    text = (ROOT / filename).read_text('utf-8').replace('\\\n', '')
    for line in text.splitlines():
        if not line.startswith('#'):
            pin, *sums = line.split('--hash=sha256:')
            requirement = packaging.requirements.Requirement(pin)
            (specifier,) = requirement.specifier
            assert specifier.operator == '=='
            name = packaging.utils.canonicalize_name(requirement.name)
            pins[name] = (specifier.version, [one.strip() for one in sums])
    return pins


@pytest.mark.parametrize(
    'requirements, locked',
    [('requirements.txt', 'locked.txt'), ('requirements-dev.txt', 'locked-dev.txt')],
)
def test_locked_files_have_what_is_required_with_the_sums_of_its_files(
    requirements, locked
):
    pins, constraints = read_pins(locked), read_pins('constraints.txt')
    for name, (version, sums) in pins.items():
        assert version == constraints.get(name, (version,))[0], name
        assert sums, name
        assert all(re.fullmatch('[0-9a-f]{64}', one) for one in sums), name
    for line in (ROOT / requirements).read_text('utf-8').splitlines():
        if not line.startswith(('#', '-r')):
            required = packaging.requirements.Requirement(line.partition(' #')[0])
            name = packaging.utils.canonicalize_name(required.name)
            assert pins[name][0] in required.specifier, name


def test_commands_are_tested_with_the_versions_that_the_demo_installs():
    commands, tests = read_pins('locked.txt'), read_pins('locked-dev.txt')
    assert commands.items() <= tests.items()
    assert read_pins('constraints.txt').keys() <= tests.keys()


@pytest.mark.parametrize(
    'folder, files',
    [
        (None, ['requirements.txt']),
        ('embedding', ['requirements.txt']),
        ('deployment', ['requirements.txt']),
        ('drawn_people', ['requirements.txt']),
        ('tests', ['requirements-dev.txt']),
        ('bench', BENCH_REQUIREMENTS),
    ],
)
def test_nothing_is_imported_that_no_requirement_brings(folder, files):
    required = read_requirements(*files)
    optional = read_requirements(*OPTIONAL)
    distributions = importlib.metadata.packages_distributions()
    names = [
        name
        for name in SOURCES
        if name.partition('.')[0] == folder or (folder is None and name in MODULES)
    ]
    ours = {source.partition('.')[0] for source in SOURCES}
    ours |= {SOURCES[source].stem for source in SOURCES if source.startswith('tests.')}
    assert len(names) > 3
    for name in names:
        packages = {imported.partition('.')[0] for imported in list_imports(name)}
        early = {one.partition('.')[0] for one in list_imports(name, True)}
        for package in packages - ours - sys.stdlib_module_names:
            # What is not installed here is called like its module, nearly.
            brought_by = distributions.get(package, [package])
            names_of_them = {one.lower().replace('_', '-') for one in brought_by}
            # What is optional is imported where it is needed, not before.
            known = required if package in early else required | optional
            assert not known.isdisjoint(names_of_them), f'{name} imports {package}'


def test_no_function_is_long():
    long = {
        f'{name}: {node.name}': count_lines(node)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if count_lines(node) > MOST_LINES
    }
    assert long == {}
