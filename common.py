"""What two or more commands need: flags, errors, args.json, files, logging.

Nothing here imports TensorFlow, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import fcntl
import functools
import importlib
import importlib.util
import itertools
import json
import logging
import math
import os
import pathlib
import re
import shutil
import signal
import stat
import struct
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar, cast

if TYPE_CHECKING:
    import matplotlib.figure

# Of all commands; see setup_logging.
LOGGER = 'triplet'

# Of the code, as CHANGELOG.md lists them.
VERSION = '0.9.0'

# TensorFlow's C++ start-up chatter hides our own first lines; errors still show.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# TensorFlow leaves oneDNN off on processors without AVX-512, where a ResNet-50 step
# takes 2.2 times as long without it (docs/performance.md).
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')


def lazy_import(name: str) -> types.ModuleType:
    """Return module `name`, whose code runs at its first attribute access.

    Importing TensorFlow takes seconds; a command that only prints its help must
    not pay them. The recipe is that of importlib's documentation. Of a library that is
    not installed, the first access is an InputError: not every use of a command needs
    all of them.
    """
    if name in sys.modules:
        return sys.modules[name]
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.loader is None:
        return Missing(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    package, _, leaf = name.rpartition('.')
    if package:  # As `import package.leaf` does; later imports do not make up for it.
        setattr(sys.modules[package], leaf, module)
    spec.loader.exec_module(module)
    return module


class Missing(types.ModuleType):
    """Stands for a library that is not installed, until something is asked of it."""

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith('__'):  # Python asks, not our code.
            raise AttributeError(attribute)
        raise InputError(
            f'{self.__name__} is not installed; pip install -r requirements.txt'
        )


hashlib = lazy_import('hashlib')
metadata = lazy_import('importlib.metadata')
tqdm = lazy_import('tqdm')

Number = TypeVar('Number', int, float)

# What Keras and NumPy take as a seed is below this.
SEED_LIMIT = 2**32

# What to do about a file that cannot be written, where the system's word for it does
# not say so.
FULL = '; make room there, or choose another place'
FORBIDDEN = '; choose a place that you may write to'
REMEDIES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: '; raise the limit on the size of files, or choose another place',
    errno.EACCES: FORBIDDEN,
    errno.EPERM: FORBIDDEN,
    errno.EROFS: FORBIDDEN,
}
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# What Keras imports if it is there, and what of it we do not use (plots, data frames,
# wrappers): a third of TensorFlow's start.
NOT_FOR_KERAS = ('matplotlib', 'pandas', 'sklearn')

# Characters that would break a line, or that a terminal takes for commands.
CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029]')

# Names of what complete_file has not completed.
LEFTOVER = re.compile(r'\..+\.[a-z0-9_]{8}\.partial')


# --- flags -----------------------------------------------------------------------


# Columns that a description is filled to, and characters of choices in a usage line.
MOST_COLUMNS = 78
MOST_CHOICES = 40


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fill a docstring's paragraphs, list long choices once, show every default."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # The docstring's own lines are too long for a terminal; what is indented is
        # meant to be copied.
        return '\n\n'.join(
            super(argparse.RawDescriptionHelpFormatter, self)._fill_text(
                paragraph, min(width, MOST_COLUMNS), indent
            )
            if not paragraph.startswith(' ')
            else paragraph
            for paragraph in text.strip('\n').split('\n\n')
        )

    def _metavar_formatter(
        self, action: argparse.Action, default_metavar: str
    ) -> Callable[[int], tuple[str, ...]]:
        if has_long_choices(action):
            return lambda size: (default_metavar,) * size
        return super()._metavar_formatter(action, default_metavar)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text is not None and has_long_choices(action):
            text += f' One of {", ".join(map(str, action.choices or ()))}.'
        # 'None' and 'False' as a default say nothing a reader can use.
        has_default = not any(
            action.default is nothing for nothing in (None, False, argparse.SUPPRESS)
        )
        if text is not None and has_default and action.option_strings:
            text += ' (default: %(default)s)'
        return text


def has_long_choices(action: argparse.Action) -> bool:
    """Say whether an argument's choices are too long to stand in a usage line."""
    is_ours = action.metavar is None and isinstance(action.choices, tuple | list)
    return is_ours and len(','.join(map(str, action.choices or ()))) > MOST_CHOICES


class Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line and names what was perhaps meant."""

    # Our commands have no namespaces of other classes, as argparse's overloads do.
    def parse_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> argparse.Namespace:
        """Parse as argparse does, but refuse a mistyped flag before all else.

        argparse first asks for the required flag whose name was mistyped.
        """
        args = sys.argv[1:] if args is None else args
        self.refuse_unknown_flags(args)
        return super().parse_args(args, namespace)

    def refuse_unknown_flags(self, args: Sequence[str]) -> None:
        """Leave with an error if a word of `args` is a flag that does not exist."""
        # argparse offers no public list of its flags.
        known = self._option_string_actions
        words = list(itertools.takewhile(lambda word: word != '--', args))
        if any(word in ('-h', '--help', '--version') for word in words):
            return
        flags = [word.partition('=')[0] for word in words if word.startswith('--')]
        # With a space, it is a value to argparse.
        unknown = [flag for flag in flags if flag not in known and ' ' not in flag]
        if unknown:
            more = f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''
            near = suggest(unknown[0], [flag for flag in known if flag[:2] == '--'])
            self.error(f'unrecognized arguments: {unknown[0]}{more}{near}')

    def _check_value(self, action: argparse.Action, value: object) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = suggest(value, action.choices or ())
            raise argparse.ArgumentError(action, error.message + near) from None

    def _get_formatter(self) -> argparse.HelpFormatter:
        # The usage shows what to type; errors begin with the name alone.
        is_package = pathlib.Path(sys.argv[0]).parts[-2:] == (self.prog, '__main__.py')
        return self.formatter_class(prog='python -m ' * is_package + self.prog)

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2 and one line on stderr."""
        self.exit(2, f'{self.prog}: error: {message} (see --help)\n')


class ShowVersion(argparse.Action):
    """Print the versions of the command and of TensorFlow, and leave."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Print one line; TensorFlow is not imported for it."""
        try:
            tensorflow = metadata.version('tensorflow')
        except metadata.PackageNotFoundError:
            tensorflow = 'of another package'  # tensorflow-cpu, a build of one's own.
        print(f'{parser.prog} {VERSION} (TensorFlow {tensorflow})')
        parser.exit()


def new_parser(doc: str | None) -> Parser:
    """Return an argument parser whose description is a command's docstring.

    Abbreviated flags are refused: one that works today becomes ambiguous, or means
    something else, when a flag is added.
    """
    parser = Parser(
        prog=command_name(),
        description=doc,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    # -1e-3 and -inf are numbers, too, and no flags.
    parser._negative_number_matcher = re.compile(r'-(\d|\.\d|inf|nan)')
    parser.add_argument(
        '--version',
        action=ShowVersion,
        nargs=0,
        dest=argparse.SUPPRESS,
        default=argparse.SUPPRESS,
        help='Show the versions of this command and of TensorFlow, and leave.',
    )
    return parser


def suggest(word: object, choices: Iterable[object]) -> str:
    """Return '; did you mean X?' of the choice that a word is nearest to.

    That is the only one that it abbreviates, else the most similar one. Returns '' if
    none is similar, or if the word is a choice.

    Args:
        word: what was given, of a flag with its dashes.
        choices: what exists, of any type.
    """
    # Dashes are common to all flags, and make the shortest ones alike.
    names = {str(choice).lstrip('-').lower(): str(choice) for choice in choices}
    name = str(word).lstrip('-').lower()
    longer = [other for other in names if name and other.startswith(name)]
    near = longer if len(longer) == 1 else difflib.get_close_matches(name, names, n=1)
    return f'; did you mean {names[near[0]]}?' if near else ''


def number(text: str, kind: Callable[[str], Number], expected: str) -> Number:
    """Return kind(text), or raise an ArgumentTypeError that says what is expected."""
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} given, {expected} expected'
        ) from None


def to_number(text: object) -> float | None:
    """Return a text as a finite number, or None: it is none."""
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def positive_int(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    value = number(text, int, 'a whole number')
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} given, at least 1 expected')
    return value


def non_negative_int(text: str) -> int:
    """argparse type: a whole number of at least 0."""
    value = number(text, int, 'a whole number')
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text} given, at least 0 expected')
    return value


def seed(text: str) -> int:
    """argparse type: a whole number that every random generator takes as a seed."""
    value = non_negative_int(text)
    if value >= SEED_LIMIT:
        raise argparse.ArgumentTypeError(
            f'{text} given, at most {SEED_LIMIT - 1} expected'
        )
    return value


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    value = number(text, float, 'a number')
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} given, a number above 0 expected')
    return value


def non_negative_float(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    value = number(text, float, 'a number')
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} given, at least 0 expected')
    return value


def path(text: str) -> str:
    """argparse type: a path, with `~` expanded."""
    if not text:
        raise argparse.ArgumentTypeError(
            "'' given, a path expected (of a variable that is not set?); the current "
            'directory is .'
        )
    return os.path.expanduser(text)


def readable_file(text: str) -> str:
    """argparse type: the path of an existing file, with `~` expanded."""
    filename = path(text)
    if not os.path.isfile(filename):
        raise argparse.ArgumentTypeError(f'{text} is not a file')
    return filename


def readable_directory(text: str) -> str:
    """argparse type: the path of an existing directory, with `~` expanded."""
    directory = path(text)
    if not os.path.isdir(directory):
        raise argparse.ArgumentTypeError(f'{text} is not a directory')
    return directory


def add_loading_threads(group: argparse._ActionsContainer) -> None:
    """Add --loading_threads, which every command that reads images has."""
    group.add_argument(
        '--loading_threads',
        default=8,
        type=positive_int,
        help='Images read at the same time.',
    )


def add_quiet(group: argparse._ActionsContainer) -> None:
    """Add --quiet, which every command that reports has."""
    group.add_argument('--quiet', action='store_true', help='No progress, no report.')


# --- running a command -----------------------------------------------------------


class InputError(ValueError):
    """What a user can mend, and is told in one line: the text of the exception."""


class FileError(InputError, OSError):
    """Likewise, of a file that is in the way, or cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """Likewise, of a file that is not there."""


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and exit with 0, or with 1 after an error.

    An error that the user can mend is one line: InputError, the system's word on a
    file, lack of memory. Set TRIPLET_TRACEBACK=1 to see where it came from. Any other
    exception is a bug of ours and shows its traceback. Both stand in the log file, too,
    if there is one. Bad flags have already left with exit code 2 (argparse).

    SIGTERM and SIGHUP end it as Ctrl+C does: what was half written is removed. A second
    signal does not wait for that. A terminal that is gone costs the lines on it,
    nothing else.
    """
    command = command_name()
    occupy_standard_streams()
    forgive_terminals()
    end_in_order()
    try:
        code = main()
        flush_stdout()
        sys.exit(code)
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); that is its good right.
        drop_stdout()
        sys.exit(0)
    except KeyboardInterrupt as error:
        number, how = signal.SIGINT, 'interrupted'
        if isinstance(error, Terminated):
            number, how = error.number, f'ended by {error.number.name}'
        log_error(how)
        print(f'{command}: {how}', file=sys.stderr)
        sys.exit(128 + number)
    except Exception as error:
        message = describe_error(error)
        log_error(message or 'this is a bug; please report it', is_bug=message is None)
        if message is None:
            traceback.print_exc()
            message = 'this is a bug; please report it with the lines above'
        elif os.environ.get('TRIPLET_TRACEBACK'):
            traceback.print_exc()
        with contextlib.suppress(OSError, InputError):  # The error was another one.
            flush_stdout()
        print(f'{command}: error: {message}', file=sys.stderr)
        sys.exit(1)


def interrupt_imports(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Be sys.excepthook: Ctrl+C before `run` is one line, too, and no traceback."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    elif sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f'{command_name()}: interrupted', file=sys.stderr)


# Of our commands alone, not of a program that imports us.
if os.path.dirname(os.path.abspath(sys.argv[0])) == os.path.dirname(__file__):
    sys.excepthook = interrupt_imports


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl+C that asks a command to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number


# Signals that ask a command to end.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def find_ending() -> list[signal.Signals]:
    """Return the signals that end a command: under nohup, not SIGHUP."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [n for n in ENDING if not (ignored and n == signal.SIGHUP)]


def end_in_order() -> None:
    """Let signals that end a command raise an exception; a second one ends it at once.

    But for those that are ignored (nohup).
    """
    for number in ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end)


def end(number: int, frame: object) -> NoReturn:
    """Handle a signal: see end_in_order."""
    for other in ENDING:
        if signal.getsignal(other) is end:
            signal.signal(other, signal.SIG_DFL)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(signal.Signals(number))


def occupy_standard_streams() -> None:
    """Open nothing in place of a standard stream that is closed, as after `2>&-`.

    The next file to be opened would get its number, and what libraries write to it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = open(2, 'w', closefd=False)  # noqa: SIM115 (it is never closed)


class Terminal:
    """A text stream to which writing does not fail, as if somebody was there to read.

    Args:
        stream: what it stands for.
        context: makes the context in which it is written to.
    """

    def __init__(
        self,
        stream: TextIO,
        context: Callable[[], contextlib.AbstractContextManager[None, bool | None]],
    ) -> None:
        self.stream = stream
        self.context = context

    def write(self, text: str) -> int:
        """Write, or lose it."""
        with self.context():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, likewise."""
        with self.context():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def forgive_terminals() -> None:
    """Let a terminal that is gone cost the lines on it, nothing else.

    What stderr goes to may have any fault. Results on stdout are lost in silence with
    a terminal alone.
    """
    sys.stderr = Terminal(sys.stderr, functools.partial(contextlib.suppress, OSError))
    if sys.stdout is not None:
        sys.stdout = Terminal(sys.stdout, writing_results)


@contextlib.contextmanager
def writing_results() -> Iterator[None]:
    """Name stdout if it cannot be written, but forgive a terminal that is gone."""
    try:
        yield
    except (BrokenPipeError, InputError):
        raise
    except OSError as error:
        # Of a file, which is no device, this is a broken disk.
        if error.errno == errno.EIO and stat.S_ISCHR(os.fstat(1).st_mode):
            return
        raise FileError(
            f'cannot write to the standard output: {explain(error)}'
        ) from error


def log_error(message: str, is_bug: bool = False) -> None:
    """Write why a command ends to its log file alone, if it has one.

    Args:
        message: one line.
        is_bug: whether the traceback of the current exception belongs to it.
    """
    logger = logging.getLogger(LOGGER)
    record = logger.makeRecord(
        LOGGER, logging.ERROR, '', 0, message, (), sys.exc_info() if is_bug else None
    )
    for handler in logger.handlers:
        if isinstance(handler, LogFile):
            with contextlib.suppress(OSError):  # The error may be that of this file.
                handler.handle(record)


def log_last_words(message: str) -> None:
    """Do as log_error before the process ends, but wait for a hanging disk no longer.

    Args:
        message: one line.
    """
    writer = threading.Thread(target=log_error, args=(message,), daemon=True)
    writer.start()
    writer.join(1)  # Who asks a second time waits for less than two.


def flush_stdout() -> None:
    """Write what is left of our output, at a time when a failure can be reported."""
    if sys.stdout is None:  # As after `>&-`.
        return
    try:
        with writing_results():
            sys.stdout.flush()
    except FileError:
        drop_stdout()
        raise


def drop_stdout() -> None:
    """Let stdout go nowhere: what is still buffered would raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command_name() -> str:
    """Return what to call the command that runs, such as 'train.py'."""
    path = pathlib.Path(sys.argv[0])
    return path.parent.name if path.name == '__main__.py' else path.name


def describe_error(error: BaseException) -> str | None:
    """Return an exception that a user can mend as one line; None of any other.

    An OSError of the system begins with its file.
    """
    if isinstance(error, InputError):
        return one_line(' '.join(str(error).split()))
    if isinstance(error, OSError) and error.strerror and error.filename:
        return one_line(f'{error.filename}: {error.strerror}')
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return f'a file cannot be written: {explain(error)}'
    if is_tensorflow_error(error, 'ResourceExhaustedError'):
        return (
            f'TensorFlow failed: {tensorflow_reason(error)}; see "Out of memory" in '
            'README.md for what to lower'
        )
    return None


def one_line(text: str) -> str:
    """Return a text with escapes such as `\\n` in place of what is no character.

    For names of files, which may have anything in them.
    """
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def start_tensorflow() -> None:
    """Import TensorFlow without its start-up chatter on stderr.

    It writes a dozen lines about kernels and missing GPUs whatever its log level, and
    ours would drown. If the import fails, all of it is shown; not if it is interrupted.
    """
    with silent_stderr(), hidden(NOT_FOR_KERAS):
        importlib.import_module('tensorflow').config.list_physical_devices()
        importlib.import_module('keras')


@contextlib.contextmanager
def hidden(names: Iterable[str]) -> Iterator[None]:
    """Let what is imported within the block find no such modules, but those loaded."""
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        sys.modules[name] = cast(types.ModuleType, None)  # Python's mark of none.
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


@contextlib.contextmanager
def silent_stderr() -> Iterator[IO[bytes]]:
    """Drop what is written to stderr within the block, by C code too.

    The block gets the file that holds it. If it fails with an Exception, all of it is
    shown.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield chatter
        except Exception:
            chatter.seek(0)
            with contextlib.suppress(OSError):
                os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def is_tensorflow_error(error: BaseException, kind: str = 'OpError') -> bool:
    """Say whether an exception comes from TensorFlow's runtime.

    Args:
        error: any exception.
        kind: name of a class of tf.errors; OpError is all of them.
    """
    # What has not been imported has raised nothing.
    tensorflow = sys.modules.get('tensorflow')
    return tensorflow is not None and isinstance(
        error, getattr(tensorflow.errors, kind)
    )


def tensorflow_reason(error: Any) -> str:
    """Return the reason that a TensorFlow error gives, without its graph's names."""
    reason = error.message.split('\n')[0].split('[Op:')[0]
    return reason.rpartition('}} ')[2].strip(' {}')


@contextlib.contextmanager
def writing(what: str, hint: str = '') -> Iterator[None]:
    """Turn what TensorFlow or the system says of writing files into a FileError.

    Args:
        what: start of the message, such as 'cannot write checkpoint-3'.
        hint: end of it.
    """
    try:
        yield
    except InputError:  # It says which file, and why.
        raise
    except Exception as error:
        if is_tensorflow_error(error):
            reason = tensorflow_reason(error)
        elif isinstance(error, OSError):
            reason = describe_error(error) or error.strerror or str(error)
        else:
            raise
        raise FileError(f'{what} ({reason}){hint}') from error


def setup_logging(log_file: str | None = None, quiet: bool = False) -> logging.Logger:
    """Return the logger of the commands: messages on stderr, and in `log_file` too.

    The console handler writes through tqdm, so that lines do not break a bar.
    """
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    console = TqdmHandler()
    console.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(console)
    if log_file is not None:
        stamped = LogFile(log_file, encoding='utf-8')
        stamped.setFormatter(logging.Formatter('%(asctime)s %(levelname)s %(message)s'))
        logger.addHandler(stamped)
    return logger


class LogFile(logging.FileHandler):
    """A log file; one that cannot be written stops the command.

    The logging module would print a traceback for every line instead.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is the logging module's)
        """Raise the error of a write, with the name of the file."""
        error = sys.exception()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.baseFilename) from error
        super().handleError(record)


class TqdmHandler(logging.Handler):
    """A console handler whose lines appear above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        # Who no longer reads our messages (`| head`, a closed terminal, a full disk)
        # does not want the run to end.
        with contextlib.suppress(OSError):
            tqdm.tqdm.write(self.format(record), file=sys.stderr)


def free_memory(meminfo: str | os.PathLike[str] = '/proc/meminfo') -> int | None:
    """Return the bytes of main memory that are available; None where it is unknown."""
    return read_meminfo(meminfo).get('MemAvailable')


def total_memory(meminfo: str | os.PathLike[str] = '/proc/meminfo') -> int | None:
    """Return the bytes of main memory and swap together; None where it is unknown."""
    sizes = read_meminfo(meminfo)
    if 'MemTotal' not in sizes:
        return None
    return sizes['MemTotal'] + sizes.get('SwapTotal', 0)


def read_meminfo(meminfo: str | os.PathLike[str]) -> dict[str, int]:
    """Return what the system says of its memory, {name: bytes}; {} if nothing."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path(meminfo).read_text(encoding='utf-8').splitlines()
        fields = [line.split() for line in lines]
        return {
            words[0].rstrip(':'): int(words[1]) * 1024
            for words in fields
            if words[2:] == ['kB']
        }
    return {}


def refuse_impossible(needed: float, what: str, remedy: str) -> None:
    """Raise InputError if something needs more memory than the machine has at all.

    Args:
        needed: bytes.
        what: needs them, the start of the message.
        remedy: the end of it.
    """
    total = total_memory()
    if total is not None and needed > total:
        raise InputError(
            f'{what} needs about {needed / 1e9:.1f} GB, this machine has '
            f'{total / 1e9:.1f} GB of memory and swap; {remedy}'
        )


# --- files -----------------------------------------------------------------------


@contextlib.contextmanager
def complete_file(filename: str, makes_directory: bool = True) -> Iterator[str]:
    """Yield a temporary path that becomes `filename` only if the block succeeds.

    The temporary file sits in the same directory, so that the final rename is
    atomic; on an error it is removed and an older `filename` stays as it was.

    A symbolic link stays one: the file that it points to is replaced. What is no
    regular file stays, too (/dev/null, /dev/stdout, a FIFO): once the content is
    complete, it is sent there. So is the file that our own output goes to.

    Args:
        filename: of the file.
        makes_directory: whether its directory is made if there is none.

    Raises:
        FileError: `filename` cannot be written; says why.
    """
    sends = is_stream(filename)
    target = filename if sends else os.path.realpath(filename)
    temporary, lock = None, None
    try:
        directory = tempfile.gettempdir() if sends else os.path.dirname(target)
        if makes_directory and not sends:
            make_directory_of(target)
        remove_leftovers(directory)
        temporary, lock = make_temporary(target, directory)
        yield temporary
        if sends:
            send(temporary, target)
        else:
            replace(target, temporary)
    except OSError as error:
        if is_about_writing(error, temporary):
            raise FileError(f'cannot write {filename}: {explain(error)}') from error
        raise
    finally:
        if temporary is not None:
            # A disk that is read-only now has been told of; what stays is a leftover.
            with contextlib.suppress(OSError):
                os.remove(temporary)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def directory_beside(target: str) -> Iterator[str]:
    """Yield an empty directory beside `target`, which is removed at the end.

    What is made in it can be renamed to `target` in one step. If the process is killed,
    the next one that writes there removes it, as it does what complete_file leaves.

    Raises:
        FileError: it cannot be made; says why.
    """
    target = os.path.realpath(target)
    try:
        directory = make_directory_of(target)
        remove_leftovers(directory)
        temporary, lock = make_temporary(target, directory)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f'cannot write {target}: {explain(error)}') from error
    made = name_directory(temporary)
    try:
        with writing(f'cannot write {target}'):
            os.mkdir(made)
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.remove(temporary)
        os.close(lock)


def name_directory(temporary: str) -> str:
    """Return the directory that belongs to a temporary file, see directory_beside."""
    return f'{temporary}.d'


def make_temporary(target: str, directory: str) -> tuple[str, int]:
    """Make the file that is to become `target`, and lock it.

    Returns:
        (path, descriptor): closing the descriptor unlocks the file; so does the end of
            the process, however it comes.
    """
    while True:
        # A name may have 255 bytes, of which ours needs some.
        lock, temporary = tempfile.mkstemp(
            dir=directory,
            prefix=f'.{os.path.basename(target)[:50]}.',
            suffix='.partial',
        )
        # Where there are no locks, nobody can tell leftovers, and all stay.
        with contextlib.suppress(OSError):
            lock_file(lock, fcntl.F_OFD_SETLKW)
        # In between, another process may have taken it for a leftover.
        if os.path.exists(temporary):
            return temporary, lock
        os.close(lock)


def lock_file(descriptor: int, command: int) -> None:
    """Lock a file until the descriptor is closed, or the process has ended.

    Locks of flock() would keep the HDF5 library out, which takes them itself.

    Args:
        descriptor: of the file, open for writing.
        command: F_OFD_SETLKW waits for other owners, F_OFD_SETLK raises OSError.
    """
    whole = struct.pack('hhqqi', fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(descriptor, command, whole)


@functools.cache
def remove_leftovers(directory: str) -> None:
    """Remove what complete_file could not, as its process was killed; say how many.

    Only the first call for a directory looks. A file whose process lives is locked.
    """
    with os.scandir(directory) as entries:
        leftovers = [
            entry.path
            for entry in entries
            if LEFTOVER.fullmatch(entry.name)
            and entry.is_file(follow_symlinks=False)
            and remove_unowned(entry.path)
        ]
    if leftovers:
        logging.getLogger(LOGGER).warning(
            f'{len(leftovers)} unfinished file(s) of killed processes removed from '
            f'{directory} (first: {os.path.basename(min(leftovers))})'
        )


def remove_unowned(filename: str) -> bool:
    """Remove a file of complete_file unless a process owns it; say whether it did."""
    try:
        lock = os.open(filename, os.O_WRONLY)
    except OSError:  # Its owner was faster, or it is somebody else's.
        return False
    try:
        lock_file(lock, fcntl.F_OFD_SETLK)
        shutil.rmtree(name_directory(filename), ignore_errors=True)
        os.remove(filename)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def is_stream(filename: str) -> bool:
    """Say whether a file to write takes what it is sent, and cannot be replaced.

    Raises:
        FileError: it is nothing that a result can be written to.
    """
    try:
        status = os.stat(filename)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileError(f'cannot write {filename}: {explain(error)}') from error
        return False  # It is not there yet. Or it cannot be written; that will show.
    for is_kind, kind in (
        (stat.S_ISDIR, 'directory'),
        (stat.S_ISBLK, 'disk'),
        (stat.S_ISSOCK, 'socket'),
    ):
        if is_kind(status.st_mode):
            raise FileError(f'{filename} is a {kind}, a file name was expected')
    return not stat.S_ISREG(status.st_mode) or find_own_output(status) is not None


def find_own_output(status: os.stat_result) -> int | None:
    """Return which of stdout (1) and stderr (2) goes to the file of a status, if any.

    As with `--filename /dev/stdout > file`.
    """
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # It may be closed.
            if os.path.samestat(status, os.fstat(descriptor)):
                return descriptor
    return None


def check_file_name(filename: str) -> None:
    """Raise FileError if complete_file could write no file of that name.

    For before the work, which would be lost.
    """
    if is_stream(filename):
        return
    existing = find_existing(os.path.dirname(os.path.realpath(filename)))
    may_write = os.access(
        existing,
        os.W_OK | os.X_OK,
        effective_ids=os.access in os.supports_effective_ids,
    )
    if not may_write:
        raise FileError(
            f'{filename} cannot be written: no permission in {existing}; choose '
            'another place'
        )


def make_directory_of(filename: str) -> str:
    """Return the directory of a file, made if need be, with those above it.

    What is made would survive a power loss.
    """
    directory = os.path.dirname(filename)
    existing = find_existing(directory)
    if existing == directory:
        return directory
    os.makedirs(directory, exist_ok=True)
    made = directory
    while made != existing:
        made = os.path.dirname(made)
        # Who may make names there may perhaps not read them.
        with contextlib.suppress(PermissionError):
            sync(made)
    return directory


def find_existing(directory: str) -> str:
    """Return the lowest directory that exists of a path to one.

    Raises:
        FileError: what exists is no directory.
    """
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if not os.path.isdir(directory):
        raise FileError(f'{directory} is a file, a directory was expected')
    return directory


def replace(filename: str, temporary: str) -> None:
    """Give a complete temporary file its name."""
    # mkstemp makes files private; a result gets the permissions of any new file.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)
    sync(temporary)
    os.replace(temporary, filename)
    sync(os.path.dirname(filename) or '.')


def remove(filename: str) -> None:
    """Remove a file, if there is one; after a power loss it is not back."""
    if not os.path.lexists(filename):
        return
    with contextlib.suppress(FileNotFoundError):  # Somebody was faster.
        os.remove(filename)
        sync(os.path.dirname(filename) or '.')


def sync(path: str) -> None:
    """Wait until a file, or the names in a directory, would survive a power loss.

    Raises:
        OSError: with the path as its file name.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a directory.
        if not (error.errno == errno.EINVAL and os.path.isdir(path)):
            raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)


def send(temporary: str, filename: str) -> None:
    """Copy a complete temporary file to what is_stream."""
    own = find_own_output(os.stat(filename))
    flush_stdout()  # In the order of writing.
    with (
        open(temporary, 'rb') as source,
        open(filename if own is None else os.dup(own), 'wb') as target,
    ):
        shutil.copyfileobj(source, target)


def is_about_writing(error: OSError, temporary: str | None) -> bool:
    """Say whether an error concerns the file that complete_file writes.

    What else a block does may fail too, such as reading an image.

    Args:
        error: within complete_file.
        temporary: its path; None: it could not be made.
    """
    if isinstance(error, (InputError, BrokenPipeError)) or not error.strerror:
        return False
    if temporary is None or error.filename == temporary:
        return True
    return error.filename is None and error.errno in DISK_ERRORS


def explain(error: OSError) -> str:
    """Return the system's reason for a failed write, and what to do about it."""
    return f'{error.strerror}{REMEDIES.get(error.errno or 0, "")}'


def write_figure(
    filename: str, figure: matplotlib.figure.Figure, dots_per_inch: int = 100
) -> None:
    """Write a matplotlib figure as PNG, atomically."""
    with complete_file(filename) as temporary:
        figure.savefig(temporary, format='png', dpi=dots_per_inch)


def hash_file(filename: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content."""
    with open(filename, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def write_json(filename: str, content: object, makes_directory: bool = True) -> None:
    """Write `content` as JSON, sorted and indented, UTF-8; see complete_file."""
    with complete_file(filename, makes_directory) as temporary:
        dump_json(temporary, content)


def dump_json(filename: str, content: object) -> None:
    """Write likewise to a file that complete_file has yielded.

    Raises:
        OSError: the file cannot be written, and is named.
    """
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    try:
        pathlib.Path(filename).write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise OSError(error.errno, error.strerror, filename) from error


def read_object(filename: str, expected: str = 'an object') -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        filename: of the file.
        expected: what it should hold, for the message.

    Raises:
        OSError: it cannot be read.
        InputError: it is no JSON, or holds something else.
    """
    try:
        text = pathlib.Path(filename).read_text(encoding='utf-8')
    except ValueError as error:
        raise InputError(f'{filename} is not valid JSON: {error}') from error
    return parse_object(text, filename, expected)


def parse_object(
    text: str | bytes, filename: str, expected: str = 'an object'
) -> dict[str, Any]:
    """Return the object that the text of a JSON file holds; see read_object."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{filename} is not valid JSON: {error}') from error
    if not isinstance(content, dict):
        raise InputError(
            f'{filename} holds a {type(content).__name__}, expected {expected}'
        )
    return content
