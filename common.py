"""What two or more commands need: flags, CSV files, args.json, files, logging.

Nothing here imports TensorFlow, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import contextlib
import csv
import difflib
import functools
import importlib
import importlib.util
import json
import logging
import os
import pathlib
import sys
import tempfile
import traceback

import numpy as np

# TensorFlow's C++ start-up chatter hides our own first lines; errors still show.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# TensorFlow leaves oneDNN off on processors without AVX-512, where a ResNet-50 step
# takes 2.2 times as long without it (docs/performance.md).
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')


def lazy_import(name):
    """Return module `name`, whose code runs at its first attribute access.

    Importing TensorFlow takes seconds; a command that only prints its help must
    not pay them. The recipe is that of importlib's documentation.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f'no module named {name!r}; see requirements.txt')
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    package, _, leaf = name.rpartition('.')
    if package:  # As `import package.leaf` does; later imports do not make up for it.
        setattr(sys.modules[package], leaf, module)
    spec.loader.exec_module(module)
    return module


pd = lazy_import('pandas')
tqdm = lazy_import('tqdm')


# --- flags -----------------------------------------------------------------------


class HelpFormatter(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Keep the docstring's line breaks and show every default."""

    def _get_help_string(self, action):
        # 'None' and 'False' as a default say nothing a reader can use.
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line, not a page of usage before it."""

    def error(self, message):
        """Leave with exit code 2 and one line on stderr."""
        self.exit(2, f'{self.prog}: error: {message} (see --help)\n')


def new_parser(doc):
    """Return an argument parser whose description is a command's docstring.

    Abbreviated flags are refused: one that works today becomes ambiguous, or means
    something else, when a flag is added.
    """
    return Parser(description=doc, formatter_class=HelpFormatter, allow_abbrev=False)


def suggest(word, choices):
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


def number(text, kind, expected):
    """Return kind(text), or raise an ArgumentTypeError that says what is expected."""
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} given, {expected} expected'
        ) from None


def positive_int(text):
    """argparse type: a whole number of at least 1."""
    value = number(text, int, 'a whole number')
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} given, at least 1 expected')
    return value


def non_negative_int(text):
    """argparse type: a whole number of at least 0."""
    value = number(text, int, 'a whole number')
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text} given, at least 0 expected')
    return value


def positive_float(text):
    """argparse type: a finite number above 0."""
    value = number(text, float, 'a number')
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} given, a number above 0 expected')
    return value


def non_negative_float(text):
    """argparse type: a finite number of at least 0."""
    value = number(text, float, 'a number')
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} given, at least 0 expected')
    return value


def path(text):
    """argparse type: a path, with `~` expanded."""
    return os.path.expanduser(text)


def readable_file(text):
    """argparse type: the path of an existing file, with `~` expanded."""
    filename = path(text)
    if not os.path.isfile(filename):
        raise argparse.ArgumentTypeError(f'{text} is not a file')
    return filename


def readable_directory(text):
    """argparse type: the path of an existing directory, with `~` expanded."""
    directory = path(text)
    if not os.path.isdir(directory):
        raise argparse.ArgumentTypeError(f'{text} is not a directory')
    return directory


def add_loading_threads(group):
    """Add --loading_threads, which every command that reads images has."""
    group.add_argument(
        '--loading_threads',
        default=8,
        type=positive_int,
        help='Images read at the same time.',
    )


def add_quiet(group):
    """Add --quiet, which every command that reports has."""
    group.add_argument('--quiet', action='store_true', help='No progress, no report.')


# --- running a command -----------------------------------------------------------


class InputError(ValueError):
    """What a user can mend, and is told in one line: the text of the exception."""


class FileError(InputError, OSError):
    """Likewise, of a file that is in the way, or cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """Likewise, of a file that is not there."""


def run(main):
    """Run a command's `main` and exit with 0, or with 1 after an error.

    An error that the user can mend is one line: InputError, the system's word on a
    file, lack of memory. Set TRIPLET_TRACEBACK=1 to see where it came from. Any other
    exception is a bug of ours and shows its traceback. Bad flags have already left with
    exit code 2 (argparse).
    """
    command = os.path.basename(sys.argv[0])
    try:
        sys.exit(main())
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); that is its good right. What is
        # still buffered would raise again at exit, so stdout goes nowhere from here.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print(f'{command}: interrupted', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = describe_error(error)
        if message is None:
            traceback.print_exc()
            message = 'this is a bug; please report it with the lines above'
        elif os.environ.get('TRIPLET_TRACEBACK'):
            traceback.print_exc()
        print(f'{command}: error: {message}', file=sys.stderr)
        sys.exit(1)


def describe_error(error):
    """Return an exception that a user can mend as one line; None of any other.

    An OSError of the system begins with its file.
    """
    if isinstance(error, InputError):
        return ' '.join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f'{error.filename}: {error.strerror}'
    if is_tensorflow_error(error, 'ResourceExhaustedError'):
        return (
            f'TensorFlow failed: {tensorflow_reason(error)}; see "Out of memory" in '
            'README.md for what to lower'
        )
    return None


def start_tensorflow():
    """Import TensorFlow without its start-up chatter on stderr.

    It writes a dozen lines about kernels and missing GPUs whatever its log level, and
    ours would drown. If the import fails, all of it is shown.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            importlib.import_module('tensorflow').config.list_physical_devices()
        except BaseException:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def is_tensorflow_error(error, kind='OpError'):
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


def tensorflow_reason(error):
    """Return the reason that a TensorFlow error gives, without its graph's names."""
    reason = error.message.split('\n')[0].split('[Op:')[0]
    return reason.rpartition('}} ')[2].strip(' {}')


def setup_logging(log_file=None, quiet=False):
    """Return the logger of the commands: messages on stderr, and in `log_file` too.

    The console handler writes through tqdm, so that lines do not break a bar.
    """
    logger = logging.getLogger('triplet')
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

    def handleError(self, record):  # noqa: N802 (the name is the logging module's)
        error = sys.exception()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.baseFilename) from error
        super().handleError(record)


class TqdmHandler(logging.Handler):
    """A console handler whose lines appear above the progress bar."""

    def emit(self, record):
        # Who no longer reads our messages (`| head`) does not want the run to end.
        with contextlib.suppress(BrokenPipeError):
            tqdm.tqdm.write(self.format(record), file=sys.stderr)


def free_memory(meminfo='/proc/meminfo'):
    """Return the bytes of main memory that are available; None where it is unknown."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(meminfo).read_text(encoding='utf-8').splitlines():
            if line.startswith('MemAvailable:'):
                return int(line.split()[1]) * 1024
    return None


# --- files -----------------------------------------------------------------------


@contextlib.contextmanager
def complete_file(filename):
    """Yield a temporary path that becomes `filename` only if the block succeeds.

    The temporary file sits in the same directory, so that the final rename is
    atomic; on an error it is removed and an older `filename` stays as it was.
    """
    filename = os.path.abspath(filename)
    if os.path.isdir(filename):
        raise FileError(f'{filename} is a directory, a file name was expected')
    directory = os.path.dirname(filename)
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise FileError(f'{directory} is a file, a directory was expected')
    os.makedirs(directory, exist_ok=True)
    handle, temporary = tempfile.mkstemp(
        dir=directory,
        prefix=f'.{os.path.basename(filename)}.',
        suffix='.partial',
    )
    os.close(handle)
    try:
        yield temporary
        # mkstemp makes files private; a result gets the permissions of any new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, filename)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def write_figure(filename, figure, dots_per_inch=100):
    """Write a matplotlib figure as PNG, atomically."""
    with complete_file(filename) as temporary:
        figure.savefig(temporary, format='png', dpi=dots_per_inch)


def write_json(filename, content):
    """Write `content` to `filename` as JSON, sorted and indented, UTF-8, atomically."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    with complete_file(filename) as temporary:
        pathlib.Path(temporary).write_text(text + '\n', encoding='utf-8')


def read_args(experiment_root):
    """Return the flags stored in `experiment_root`/args.json as a dict.

    Raises:
        FileNotFoundError: there is no args.json.
        ValueError: it is not a JSON object.
    """
    filename = os.path.join(experiment_root, 'args.json')
    if not os.path.isfile(filename):
        raise MissingFileError(
            f'no args.json in {experiment_root}; expected a directory that train.py '
            'wrote, check --experiment_root'
        )
    try:
        stored = json.loads(pathlib.Path(filename).read_text(encoding='utf-8'))
    except ValueError as error:
        raise InputError(f'{filename} is not valid JSON: {error}') from error
    if not isinstance(stored, dict):
        raise InputError(
            f'{filename} holds a {type(stored).__name__}, expected an object of flags'
        )
    return stored


# --- data sets -------------------------------------------------------------------


def load_dataset(csv_file, image_root=None):
    """Read a data set CSV: one `PID,FID` row an image, no header.

    Every field is kept as text: identity `0002`, `NA` and `#7` stay what they are.

    Args:
        csv_file: path of the CSV, UTF-8.
        image_root: directory the FIDs are relative to; None skips the check that
            every image exists.

    Returns:
        (pids, fids), object arrays [N] of str, in CSV order.

    Raises:
        FileNotFoundError: the CSV, or some of its images, are missing.
        ValueError: the CSV is empty, not UTF-8, or a line has not two fields.
    """
    if not os.path.isfile(csv_file):
        raise MissingFileError(
            f'{csv_file} does not exist; expected a data set CSV, see make_csv.py'
        )
    try:
        table = pd.read_csv(
            csv_file,
            header=None,
            dtype=str,
            na_filter=False,
            skip_blank_lines=False,
            encoding='utf-8',
        )
        is_sound = table.shape[1] == 2 and not (table == '').any(axis=None)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        is_sound = False
    if not is_sound:
        raise InputError(f'{csv_file}: {find_bad_line(csv_file)}')
    pids, fids = (table[i].to_numpy(dtype=object) for i in range(2))
    if image_root is not None:
        check_images_exist(csv_file, fids, image_root)
    return pids, fids


def find_bad_line(csv_file):
    """Return what is wrong with a CSV that load_dataset refuses, naming the line."""
    expected = 'expected two fields, PID,FID'
    line_number = 0
    for line_number, raw in enumerate(read_lines(csv_file), start=1):
        try:
            fields = next(csv.reader([raw.decode('utf-8').rstrip('\r\n')]), [])
        except UnicodeDecodeError:
            return f'line {line_number} is not UTF-8; save the file as UTF-8'
        except csv.Error as error:
            return f'line {line_number} is no CSV ({error}); {expected}'
        if len(fields) != 2:
            return f'line {line_number} has {len(fields)} field(s); {expected}'
        if '' in fields:
            return f'line {line_number} has an empty field; {expected}'
    if line_number == 0:
        return f'the file is empty; {expected} in every line'
    return f'not a readable CSV; {expected} in every line'


def read_lines(filename):
    """Yield the lines of a file as bytes."""
    with open(filename, 'rb') as file:
        yield from file


def check_images_exist(csv_file, fids, image_root, flag='--image_root'):
    """Raise FileNotFoundError with count and first three paths of missing images.

    Args:
        csv_file: for the message.
        fids: [N] of str.
        image_root: directory they are relative to.
        flag: that named the directory.
    """
    missing = find_missing(fids, image_root)
    if len(missing) == 1 < len(fids) and missing[0] == os.path.join(
        image_root, fids[0]
    ):
        raise MissingFileError(
            f'{missing[0]}, named in the first line of {csv_file}, does not exist, all '
            'others do; if that line is a heading, remove it'
        )
    if missing:
        raise MissingFileError(
            f'{len(missing)} of {len(fids)} images in {csv_file} are missing '
            f'(first: {", ".join(missing[:3])}); check {flag}'
        )


def find_missing(fids, image_root):
    """Return the paths of the FIDs that are no files, list of str.

    A directory is listed once and no file asked for, which is several times as fast;
    only what is in no list under exactly its name is looked up (`a/../b.jpg`, or
    other capitals where the file system does not care).
    """
    names_of = functools.cache(
        lambda directory: list_files(os.path.join(image_root, directory))
    )
    missing = []
    for fid in fids:
        directory, slash, name = fid.rpartition('/')
        if name not in names_of(directory + slash):  # '/a.jpg' is in '/', not in ''.
            filename = os.path.join(image_root, fid)
            if not os.path.isfile(filename):
                missing.append(filename)
    return missing


def list_files(directory):
    """Return the names of the files in a directory, a set; empty if it has none."""
    try:
        with os.scandir(directory) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def join_paths(image_root, fids):
    """Return the image files of FIDs, list [N] of str."""
    return [os.path.join(image_root, fid) for fid in fids]


def csv_lines(pids, fids):
    """Return the lines `PID,FID` of a data set, list [N] of str."""
    return [f'{pid},{fid}' for pid, fid in zip(pids, fids, strict=True)]


def group_rows(pids):
    """Return ({unique PIDs} [P] in order of appearance, rows of each as a list [P]).

    Args:
        pids: object array [N] of str.

    Returns:
        (names, rows): object array [P]; list of P int64 arrays, ascending rows.
    """
    codes, names = pd.factorize(pids)  # [N], [P]
    order = np.argsort(codes, kind='stable')  # [N]
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    return names, np.split(order, ends[:-1])
