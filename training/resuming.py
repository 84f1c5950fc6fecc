"""args.json: what of a run's flags is stored, and how --resume merges it with new ones.

Stored values pass the parser that the command line passes, so that both are checked
alike.
"""

import argparse
import json
import os
import zlib

import common
import datasets

# What --resume takes from the command line: it does not change the mathematics.
FREE_ON_RESUME = (
    'image_root',
    'loading_threads',
    'checkpoint_frequency',
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
    *('experiment_root', 'resume', 'dry_run', 'cache', 'check_images', 'quiet'),
)

# Lists, of which args.json has a text where there is one.
SEVERAL = ('train_set', 'image_root')


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
    stored = common.read_args(experiment_root)
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
    if value is None and default is None:
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

    The stored values win, except those in FREE_ON_RESUME and a raised
    --train_iterations. Keys that this version does not know are kept.

    Args:
        parser: of train.py's flags.
        stored_parser: a StoredParser with the same flags.
        argv: list of str, or None for those of the process.
        experiment_root: directory with args.json.

    Returns:
        (args, notes): argparse.Namespace; list of str.
    """
    stored = read_stored(stored_parser, experiment_root)
    # argparse leaves alone what is already set, unless the command line names it.
    given = vars(parser.parse_args(argv, namespace=argparse.Namespace(**stored)))
    notes = []
    unknown = sorted(stored.keys() - vars(parser.parse_args(argv)).keys())
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
        hint = '; it can only be raised' if name == 'train_iterations' else ''
        notes.append(
            f'--{name} {as_words(given[name])} ignored: the stored {as_words(value)} '
            f'wins when resuming{hint}'
        )
        given[name] = value
    return argparse.Namespace(**given), notes


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
        if name not in (*FREE_ON_RESUME, 'experiment_root')
    }
    rows = '\n'.join(datasets.csv_lines(datasets.Dataset(pids, fids)))
    shared['the checksum of --train_set'] = zlib.crc32(rows.encode('utf-8'))
    return shared


def without_directory(value):
    """Return a flag's value, of paths the last part alone."""
    if isinstance(value, list):
        return [without_directory(part) for part in value]
    return os.path.basename(value) if isinstance(value, str) else value
