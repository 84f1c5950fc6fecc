"""args.json: what of a run's flags is stored, and how --resume merges it with new ones.

Stored values pass the parser that the command line passes, so that both are checked
alike.
"""

import argparse
import json
import os
import typing
import zlib

import common
import datasets
import run_args

# What --resume takes from the command line: it does not change the mathematics.
FREE_ON_RESUME = (
    'image_root',
    'allow_outside_image_root',
    'loading_threads',
    'checkpoint_frequency',
    'keep_checkpoints',
    'histogram_frequency',
    'image_frequency',
    'detailed_logs',
    'val_set',
    'val_query',
    'val_excluder',
    'val_image_root',
    'val_every',
    'distribute',
)

# Flags of one call, not of the experiment.
OF_ONE_CALL = (
    *('experiment_root', 'resume', 'checkpoint', 'dry_run', 'cache', 'check_images'),
    'quiet',
)

# Lists, of which args.json has a text where there is one.
SEVERAL = ('train_set', 'image_root')

# Without these no one knows which net it was, or what it saw.
OF_THE_NET = (
    'model_name',
    'head_name',
    'embedding_dim',
    'net_input_height',
    'net_input_width',
)

# Flags that the original has stored in every args.json, beside these. All others are
# newer than some args.json; their defaults change nothing.
OF_THE_ORIGINAL = (
    'train_set',
    'batch_p',
    'batch_k',
    'pre_crop_height',
    'pre_crop_width',
    'flip_augment',
    'crop_augment',
    'loss',
    'margin',
    'metric',
    'learning_rate',
    'train_iterations',
    'decay_start_iteration',
)

# A key of args.json that is no flag: of the rows that are trained on.
CHECKSUM = 'train_set_checksum'


# What to say of flags that are ignored as they are given.
HINTS = {
    'train_iterations': '; it can only be raised',
    'decay_start_iteration': '; it can only move with a larger --train_iterations',
}


class Merged(typing.NamedTuple):
    """The flags of a run that goes on.

    Attributes:
        args: argparse.Namespace.
        notes, warnings: lists of str, what to say of them.
        previous: {flag: value} of the schedule as it was stored.
    """

    args: argparse.Namespace
    notes: list
    warnings: list
    previous: dict


class StoredParser(common.Parser):
    """A parser of what args.json has; its errors name the file.

    Args:
        filename: of args.json.
    """

    def __init__(self, filename):
        super().__init__(add_help=False, allow_abbrev=False)
        self.filename = filename

    def error(self, message):
        """Raise an InputError."""
        raise common.InputError(
            f'{self.filename}: {message}; restore what train.py wrote'
        )


def to_json(values):
    """Return {flag: value} as args.json has it."""
    return {
        name: value[0] if name in SEVERAL and value and len(value) == 1 else value
        for name, value in values.items()
    }


def read_stored(stored_parser, experiment_root):
    """Return the flags of the run in a directory, as its command line gave them.

    Args:
        stored_parser: a StoredParser with train.py's flags.
        experiment_root: directory with args.json.

    Returns:
        {flag: value}: those that are stored; unknown ones as they are.

    Raises:
        FileNotFoundError: there is no args.json.
        InputError: a value is none that the flag could have had.
    """
    stored = run_args.read(experiment_root)
    for name in OF_ONE_CALL:
        stored.pop(name, None)
    words = ['--experiment_root', experiment_root]
    defaults = vars(stored_parser.parse_args(words))
    known = sorted(defaults.keys() & stored.keys())
    for name in known:
        words += to_words(stored_parser, name, stored[name], defaults[name])
    parsed = vars(stored_parser.parse_args(words))
    for name in known:
        # On a command line all is text; here 2 is no path, and '128' no number.
        if are_texts(stored[name]) != are_texts(parsed[name]):
            expected = 'a text' if are_texts(parsed[name]) else 'a number'
            stored_parser.error(
                f'--{name} is {json.dumps(stored[name])}, expected {expected}'
            )
    return {name: parsed.get(name, value) for name, value in stored.items()}


def are_texts(value):
    """Say whether a flag's value is a text, or a list of them."""
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) for item in items)


def to_words(stored_parser, name, value, default):
    """Return what gives a flag its stored value on a command line, list of str.

    Args:
        stored_parser: a StoredParser, for its errors.
        name: of the flag.
        value: what JSON has.
        default: of the flag.
    """
    is_switch = isinstance(default, bool)
    items = value if isinstance(value, list) else [value]
    if is_switch and isinstance(value, bool):
        return [f'--{name}'] * value
    if value is None and default is None and name not in SEVERAL:
        return []
    is_list = isinstance(value, list) and name not in SEVERAL
    if is_switch or is_list or not all(type(i) in (str, int, float) for i in items):
        stored_parser.error(
            f'--{name} is {json.dumps(value)}, expected '
            + ('true or false' if is_switch else 'a text or a number')
        )
    if len(items) == 1:
        return [f'--{name}={items[0]}']  # It may begin with a minus.
    return [f'--{name}', *map(str, items)]


def merge(parser, stored_parser, argv, experiment_root):
    """Return the flags of the run in `experiment_root`, and what to say of them.

    The stored values win, except those in FREE_ON_RESUME, a raised --train_iterations
    and with it --decay_start_iteration, and a --train_set that has moved: its rows are
    compared later, by check_rows. Keys that this version does not know are kept. Of a
    flag that is not stored, the command line's value counts, or else the default.

    Args:
        parser: of train.py's flags.
        stored_parser: a StoredParser with the same flags.
        argv: list of str, or None for those of the process.
        experiment_root: directory with args.json.

    Returns:
        Merged.

    Raises:
        InputError: what decides the net is neither stored nor given; see also
            read_stored.
    """
    stored = read_stored(stored_parser, experiment_root)
    defaults = vars(parser.parse_args(argv))
    missing = sorted(defaults.keys() - {*stored, *FREE_ON_RESUME, *OF_ONE_CALL})
    # argparse leaves alone what is already set, unless the command line names it.
    given = vars(
        parser.parse_args(
            argv, namespace=argparse.Namespace(**dict.fromkeys(missing), **stored)
        )
    )
    notes, warnings = fill_in(given, missing, defaults, stored_parser)
    unknown = sorted(stored.keys() - {*defaults, CHECKSUM})
    if unknown:
        notes.append(
            f'args.json has keys that this version does not know, kept and ignored: '
            f'{", ".join(unknown)}'
        )
    for name, value in sorted(stored.items()):
        if name in FREE_ON_RESUME or is_same_value(name, given[name], value):
            continue
        if name == 'train_iterations' and given[name] > value:
            notes.append(f'--train_iterations raised from {value} to {given[name]}')
            continue
        is_longer = given['train_iterations'] > stored.get('train_iterations', 0)
        if name == 'decay_start_iteration' and is_longer:
            notes.append(f'--decay_start_iteration moved from {value} to {given[name]}')
            continue
        if name == 'train_set':
            notes.append(
                f'--train_set {as_words(given[name])} in place of the stored '
                f'{as_words(value)}'
            )
            continue
        hint = HINTS.get(name, '')
        notes.append(
            f'--{name} {as_words(given[name])} ignored: the stored {as_words(value)} '
            f'wins when resuming{hint}'
        )
        given[name] = value
    previous = {
        name: stored[name]
        for name in ('train_iterations', 'decay_start_iteration')
        if name in stored
    }
    return Merged(argparse.Namespace(**given), notes, warnings, previous)


def fill_in(given, missing, defaults, stored_parser):
    """Give flags that are not stored their defaults, and return what to say of them.

    Args:
        given: {flag: value}, changed in place; None: the command line does not name it.
        missing: list of str, the flags that are not stored.
        defaults: {flag: value}.
        stored_parser: a StoredParser, for its errors.

    Returns:
        (notes, warnings): lists of str.
    """
    notes, warnings, newer = [], [], []
    for name in missing:
        if given[name] is not None:
            warnings.append(
                f'args.json has no --{name}; {as_words(given[name])} is taken from '
                'the command line'
            )
            continue
        given[name] = defaults[name]
        if name in OF_THE_NET:
            stored_parser.error(
                f'--{name} is missing, which decides what the net is; give it on the '
                'command line, as it was'
            )
        elif name in OF_THE_ORIGINAL and name != 'train_set':
            warnings.append(
                f'args.json has no --{name}; the default {as_words(given[name])} is '
                'taken. If the run had another value, stop, and give it'
            )
        elif given[name] is not None:  # Off, but for a seed, which is drawn anew.
            newer.append(f'--{name} {as_words(given[name])}')
    if newer:
        notes.append(
            f'args.json is older than some flags, whose defaults change nothing: '
            f'{", ".join(newer)}'
        )
    return notes, warnings


def checksum(pids, fids):
    """Return a number that differs where rows of the training sets differ.

    Args:
        pids, fids: [N] of str.
    """
    rows = '\n'.join(datasets.csv_lines(datasets.Dataset(pids, fids)))
    return zlib.crc32(rows.encode('utf-8'))


def check_rows(values, found):
    """Return a warning or nothing, list of str, once a run has its data.

    Args:
        values: {flag: value} and what else args.json has.
        found: checksum of the rows that were read.

    Raises:
        InputError: they are other rows.
    """
    if not values['resume']:
        return []
    stored, train_sets = values.get(CHECKSUM), values['train_set']
    if stored is None:
        return [
            'args.json has no checksum of the training set, as it comes from an '
            f'earlier version: whether {as_words(train_sets)} is still what the run '
            'was trained on is not known'
        ]
    if stored != found:
        raise common.InputError(
            f'{as_words(train_sets)}: other rows than those the run was trained on '
            f'(checksum {found}, {stored} stored); give --train_set the same '
            'rows, or start a new run with the last checkpoint as '
            '--initial_checkpoint'
        )
    return []


def as_words(value):
    """Return a flag's value as it stands on a command line."""
    return ' '.join(map(str, value)) if isinstance(value, list) else str(value)


def is_same_value(name, given, stored):
    """Say whether a flag's value means the stored one; a path may be relative."""
    if name == 'train_set':
        return list(map(os.path.abspath, given)) == list(map(os.path.abspath, stored))
    if name == 'initial_checkpoint' and given and stored:
        return os.path.abspath(given) == os.path.abspath(stored)
    return given == stored


def to_share(values, pids, fids):
    """Return {name: value} of what has to be the same in all processes of a run.

    Args:
        values: {flag: value}.
        pids, fids: [N] of str, of the training sets.
    """
    shared = {
        # Files may lie elsewhere on another machine.
        f'--{name}': without_directory(value)
        for name, value in to_json(values).items()
        if name not in (*FREE_ON_RESUME, 'experiment_root', CHECKSUM)
    }
    shared['the checksum of --train_set'] = checksum(pids, fids)
    return shared


def without_directory(value):
    """Return a flag's value, of paths the last part alone."""
    if isinstance(value, list):
        return [without_directory(part) for part in value]
    return os.path.basename(value) if isinstance(value, str) else value
