"""Save and restore by variable name; say what matched and what did not.

One rule reads everything: a file maps names to arrays, and a variable takes the array
of its name. That covers TF-Slim's files in TensorFlow's old and new format, the
experiments of the original code and our own, whose keys are the same names.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import types
import typing
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import common

# How tf.train.Checkpoint writes the key of a variable that was given as a keyword.
KEY_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'

# The number of updates made so far, as TensorFlow 1 names it.
STEP_NAME = 'global_step'

# The factor of the loss in a float16 run, and the iterations since it last changed.
SCALE_NAMES = {'dynamic_scale': 'loss_scale', 'step_counter': 'loss_scale_steps'}

# What an optimizer keeps of each variable, and its last part in checkpoints: as
# TensorFlow 1 names it, where it has such an optimizer.
SLOT_NAMES = {
    keras.optimizers.Adam: {'momentum': 'Adam', 'velocity': 'Adam_1'},  # And AdamW.
    keras.optimizers.Lamb: {'momentum': 'Lamb', 'velocity': 'Lamb_1'},
    keras.optimizers.Lion: {'momentum': 'Lion'},
    keras.optimizers.RMSprop: {'velocity': 'RMSProp'},
    keras.optimizers.SGD: {'momentum': 'Momentum'},
}

# The best checkpoint of a run that validates is called so by users. The record names
# its files, so that replacing the record replaces all at once.
BEST_NAME = 'best'
BEST_RECORD = 'best.json'
BEST_FILES = re.compile(r'best(-\d+(-again)?)?')

# The other checkpoints of a run, by the number of updates.
NUMBERED = re.compile(r'checkpoint-(\d+)')

# What TensorFlow and the original read to find the newest one.
INDEX_FILE = 'checkpoint'

# What a file may hold beyond our variables: the classifier of the pretraining, and
# what follows from the step or concerns TensorFlow itself.
UNUSED_PARTS = ('logits', 'Logits')
TRAINING_NAMES = (STEP_NAME, *SCALE_NAMES.values(), 'beta1_power', 'beta2_power')
TENSORFLOW_NAMES = ('save_counter', '_CHECKPOINTABLE_OBJECT_GRAPH')

# What TensorFlow raises of a checkpoint that is damaged.
DAMAGES = (tf.errors.OpError, ValueError, IndexError, RuntimeError, MemoryError)

# Where a run keeps what it remembers of its past, beside weights and moments.
MEMORY_SCOPE = 'memory/'

# What a checkpoint has of args.json, JSON in one text: that file may get lost.
ARGS_NAME = MEMORY_SCOPE + 'args.json'


class Report(typing.NamedTuple):
    """Names of variables, each in one list; of TensorFlow's own, in none.

    Attributes:
        loaded: from the file.
        random: of the network alone.
        unused: of the file alone.
        training: of the file alone, too: the optimizer's, which only training needs.
    """

    loaded: list[str]
    random: list[str]
    unused: list[str]
    training: Sequence[str] = ()

    def __str__(self) -> str:
        optimizers = f", {len(self.training)} the optimizer's" * bool(self.training)
        return (
            f'{len(self.loaded)} variables loaded, '
            f'{len(self.random)} left random{shorten(self.random)}, '
            f'{len(self.unused)} in the file unused{shorten(self.unused)}{optimizers}'
        )


def shorten(names: Sequence[str]) -> str:
    """Return the first three names in brackets, or nothing."""
    more = ', ...' if len(names) > 3 else ''
    return f' ({", ".join(names[:3])}{more})' if names else ''


class DamagedError(common.InputError):
    """A checkpoint is there, but cannot be read."""


class WeightsFile:
    """The arrays of a checkpoint by TensorFlow 1 name, read when asked for.

    Args:
        prefix: path of a checkpoint in the old one-file format, or the common prefix
            of the files of the new one.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, or something else.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        if not exists(prefix):
            found = 'a directory' if os.path.isdir(prefix) else 'no such file'
            raise common.MissingFileError(
                f'{prefix} is not a checkpoint: {found}; expected a file, or what is '
                'common to the names of several, as .../checkpoint-25000 for '
                'checkpoint-25000.index and its data'
            )
        check_footer(prefix)
        try:
            self.reader = tf.train.load_checkpoint(prefix)
            shapes = self.reader.get_variable_to_shape_map()
        except DAMAGES as error:
            raise DamagedError(f'{prefix} is not a readable checkpoint') from error
        self.key_of = {name_of_key(key): key for key in shapes}
        self.shapes = {name: tuple(shapes[key]) for name, key in self.key_of.items()}

    def read(self, name: str) -> np.ndarray:
        """Return the array of one name.

        Raises:
            ValueError: the file is damaged there.
        """
        try:
            return self.reader.get_tensor(self.key_of[name])
        except DAMAGES as error:
            raise DamagedError(
                f'{self.prefix} is damaged: {name} cannot be read'
            ) from error


def check_footer(prefix: str) -> None:
    """Raise DamagedError if a checkpoint's last bytes claim a part beyond its end.

    No sum protects them, and TensorFlow takes memory for what they claim. They are
    LevelDB's: places and sizes of two blocks as numbers of seven bits a byte.
    """
    filename = prefix if os.path.isfile(prefix) else f'{prefix}.index'
    size = os.path.getsize(filename)
    with open(filename, 'rb') as file:
        file.seek(max(0, size - 48))
        footer = file.read()[:40]
    numbers, number, shift = [], 0, 0
    for byte in footer:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    if any(number > size for number in numbers[:4]):
        raise DamagedError(f'{prefix} is not a readable checkpoint')


class WeightsInMemory:
    """Arrays by TensorFlow 1 name, with the interface of WeightsFile."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.shapes = {name: tuple(array.shape) for name, array in arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """Return the array of one name."""
        return self.arrays[name]


def name_of_key(key: str) -> str:
    """Return the variable name behind a key of a checkpoint, ours or TensorFlow 1's."""
    if not key.endswith(KEY_SUFFIX):
        return key
    # TensorFlow escapes '/' as '.S' and '.' as '..' in the keys of objects.
    parts = key.removesuffix(KEY_SUFFIX).split('..')
    return '.'.join(part.replace('.S', '/') for part in parts)


def exists(prefix: str) -> bool:
    """Say whether `prefix` names a checkpoint of the new format or of the old one."""
    return os.path.isfile(prefix) or os.path.isfile(f'{prefix}.index')


def latest(directory: str) -> str:
    """Return the prefix of the newest checkpoint in a directory.

    The index file may hold absolute paths of where the directory once was; only
    their last parts count.

    Raises:
        FileNotFoundError: there is none, or the index file is damaged.
    """
    state = read_index(directory)
    if state is not None and state.model_checkpoint_path:
        name = os.path.basename(state.model_checkpoint_path)
        if exists(os.path.join(directory, name)):
            return os.path.join(directory, name)
        raise common.MissingFileError(
            f'{directory}/{INDEX_FILE} names {name}, which is not there; restore it'
            f'{describe_whole(directory, name)}'
        )
    if os.path.lexists(os.path.join(directory, INDEX_FILE)):
        raise common.MissingFileError(
            f'{directory}/{INDEX_FILE} cannot be read; expected the index file that '
            f'train.py writes: restore it{describe_whole(directory)}'
        )
    raise common.MissingFileError(
        f'no checkpoint in {directory}; expected the index file `checkpoint` and the '
        'files it names'
    )


def read_index(directory: str) -> Any:
    """Return what the index file of a directory says, or None if none is readable.

    TensorFlow's own words about a damaged one are dropped.
    """

    def drop(record: object) -> bool:
        return False

    logger = tf.get_logger()
    logger.addFilter(drop)
    try:
        return tf.train.get_checkpoint_state(directory)
    except ValueError:  # It is empty, no text, or names no checkpoint.
        return None
    finally:
        logger.removeFilter(drop)


def find(directory: str, name: str | None = None) -> str:
    """Return the prefix of a checkpoint in a directory, by name or the newest.

    Raises:
        FileNotFoundError: there is none of that name, or none at all.
    """
    if name is None:
        return latest(directory)
    if name == BEST_NAME:
        name = name_of_best(read_best(directory))
    prefix = os.path.join(directory, name)
    if not exists(prefix):
        # checkpoint-9 is before checkpoint-10.
        names = sorted(index_names(directory), key=lambda name: (len(name), name))
        more = ', ...' if len(names) > 5 else ''
        raise common.MissingFileError(
            f'{directory} has no checkpoint {name}; expected one of '
            f'{", ".join(names[:5])}{more}'
            if names
            else f'{directory} has no checkpoint {name}, nor any other'
        )
    return prefix


def numbered(directory: str) -> list[str]:
    """Return the names of a directory's checkpoints with numbers, in their order."""
    return sorted(filter(NUMBERED.fullmatch, index_names(directory)), key=number_of)


def index_names(directory: str) -> list[str]:
    """Return the names of a directory's checkpoints in the new format, in no order."""
    files = os.listdir(directory) if os.path.isdir(directory) else []
    return [f.removesuffix('.index') for f in files if f.endswith('.index')]


def number_of(name: str) -> int:
    """Return N of checkpoint-N."""
    match = NUMBERED.fullmatch(name)
    assert match is not None
    return int(match[1])


def describe_whole(directory: str, damaged: str | None = None) -> str:
    """Return which checkpoint to take instead of a damaged one, the end of a message.

    Args:
        directory: of both.
        damaged: name of the one that cannot be read, if it has any.
    """
    for name in reversed(numbered(directory)):
        if name != damaged and is_whole(os.path.join(directory, name)):
            return f'; the newest whole one is {name}: --checkpoint {name} takes it'
    return '; no other numbered checkpoint there is whole'


def is_whole(prefix: str) -> bool:
    """Say whether all of a checkpoint can be read."""
    try:
        weights = WeightsFile(prefix)
        for name in weights.shapes:
            weights.read(name)
    except common.InputError:
        return False
    return True


def read_args(prefix: str) -> dict[str, Any] | None:
    """Return the flags of the run that wrote a checkpoint, or None if it has none.

    Raises:
        FileNotFoundError, ValueError: see WeightsFile.
    """
    weights = WeightsFile(prefix)
    if ARGS_NAME not in weights.shapes:
        return None
    try:
        stored = json.loads(np.asarray(weights.read(ARGS_NAME)).item())
    except (ValueError, TypeError) as error:
        raise DamagedError(f'{prefix} is damaged: {ARGS_NAME} is no JSON') from error
    if not isinstance(stored, dict):
        raise DamagedError(f'{prefix} is damaged: {ARGS_NAME} is no object')
    return stored


@contextlib.contextmanager
def naming_another(prefix: str) -> Iterator[None]:
    """Let the error of a damaged checkpoint say which other one is whole."""
    try:
        yield
    except DamagedError as error:
        directory, name = os.path.split(prefix)
        raise DamagedError(f'{error}{describe_whole(directory, name)}') from error


def read_best(directory: str) -> dict[str, Any] | None:
    """Return what TrainingState.save_best recorded last, or None if there is no best.

    Raises:
        InputError: it cannot be read.
    """
    filename = os.path.join(directory, BEST_RECORD)
    if not os.path.exists(filename):
        return None
    record = common.read_object(filename)
    name = name_of_best(record)
    if not isinstance(name, str) or not BEST_FILES.fullmatch(name):
        raise common.InputError(
            f'{filename} has {name!r} as its checkpoint; expected what a validation '
            'writes, such as best-3000: restore it, or remove it'
        )
    return record if exists(os.path.join(directory, name)) else None


def name_of_best(record: dict[str, Any] | None) -> str:
    """Return the name of the best checkpoint's files; BEST_NAME in earlier versions.

    Args:
        record: of read_best.
    """
    return BEST_NAME if record is None else record.get('checkpoint', BEST_NAME)


def write(directory: str, name: str, checkpoint: tf.train.Checkpoint) -> None:
    """Write the files of a checkpoint; none has its name before all are on the disk.

    TensorFlow would write the index in place: a power loss, or a kill, would leave
    half of one. Here, both have their names or the index is missing: each change of
    names is on the disk before the next.

    Args:
        directory, name: of the checkpoint; an older one of that name is replaced.
        checkpoint: what to write.
    """
    partial = os.path.join(directory, f'.{name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        os.mkdir(partial)  # Not with those above it; see TrainingState.go_on_from.
        checkpoint.write(os.path.join(partial, name))
        files = sorted(os.listdir(partial))  # NAME.data-..., then NAME.index.
        for file in files:
            common.sync(os.path.join(partial, file))
        common.remove(os.path.join(directory, f'{name}.index'))
        for file in files:
            os.replace(os.path.join(partial, file), os.path.join(directory, file))
            common.sync(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove(directory: str, name: str) -> None:
    """Remove the files of a checkpoint, first the one without which it is none."""
    common.remove(os.path.join(directory, f'{name}.index'))
    common.remove(os.path.join(directory, f'{name}.data-00000-of-00001'))


def restore(
    variables: dict[str, keras.Variable],
    weights: WeightsFile | WeightsInMemory,
    source: str,
    is_unused_ok: Callable[[str], bool] | None = None,
    is_stored: bool = False,
) -> Report:
    """Give variables the arrays of their names.

    Nothing is assigned unless everything fits.

    Args:
        variables: {name: Keras variable}.
        weights: WeightsFile or WeightsInMemory.
        source: what to call it in messages.
        is_unused_ok: function of a name; True where the weights may have it without
            a variable to take it, beyond what is_excused knows. Default: nowhere.
        is_stored: whether args.json says what the network is, and no flag.

    Returns:
        Report.

    Raises:
        ValueError: names or shapes differ without an excuse; names the first and
            counts the others.
    """
    dashes, place = ('', ' in args.json') if is_stored else ('--', '')
    belongs = f'belongs to this {dashes}model_name and {dashes}head_name{place}'
    shapes = weights.shapes
    loaded = [name for name in variables if name in shapes]
    missing = [name for name in variables if name not in shapes]
    unused = sorted(name for name in shapes if name not in variables)
    foreign = [
        name
        for name in unused
        if not is_excused(name, shapes) and not (is_unused_ok and is_unused_ok(name))
    ]
    if missing:
        raise common.InputError(
            f'{source} lacks {len(missing)} of the {len(variables)} variables '
            f'(first: {missing[0]}); check that it {belongs}'
        )
    if foreign:
        raise common.InputError(
            f'{source} has {len(foreign)} variables that the model lacks '
            f'(first: {foreign[0]}); check that it {belongs}'
        )
    for name in loaded:
        if shapes[name] != tuple(variables[name].shape):
            raise common.InputError(
                f'{source} has {name} of shape {shapes[name]}, the model expects '
                f'{tuple(variables[name].shape)}; check {dashes}model_name and '
                f'{dashes}embedding_dim{place}'
            )
    arrays = {name: weights.read(name) for name in loaded}
    for name, array in arrays.items():
        variables[name].assign(array)
    training = [name for name in unused if is_of_training(name, shapes)]
    unused = [n for n in unused if n not in training and not is_no_news(n)]
    return Report(loaded, [], unused, training)


def is_excused(name: str, names: Container[str]) -> bool:
    """Say whether a file may hold `name` although no variable takes it."""
    is_classifier = any(part in UNUSED_PARTS for part in name.split('/'))
    is_known = is_of_training(name, names) or is_no_news(name)
    return is_classifier or is_known


def is_no_news(name: str) -> bool:
    """Say whether `name` is TensorFlow's own, or what a run remembers of its past."""
    return name in TENSORFLOW_NAMES or name.startswith(MEMORY_SCOPE)


def is_of_training(name: str, names: Container[str]) -> bool:
    """Say whether `name` is the optimizer's, among the variables `names` of a file."""
    return is_slot(name, names) or name in TRAINING_NAMES


def is_slot(name: str, names: Container[str]) -> bool:
    """Say whether `name` is an optimizer's slot of one of the variables `names`.

    It is called like its variable with one more part.
    """
    return name.rpartition('/')[0] in names


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Return {name: variable} of a model's weights and moving averages."""
    return {variable.path: variable for variable in model.variables}


def fingerprint(variables: dict[str, keras.Variable]) -> str:
    """Return a SHA-256 of {name: variable}."""
    digest = hashlib.sha256()
    for name in sorted(variables):
        digest.update(name.encode())
        digest.update(memoryview(variables[name].numpy()).cast('B'))
    return digest.hexdigest()


def load_weights(model: keras.Model, prefix: str) -> Report:
    """Restore a whole model, head included, from a checkpoint.

    Args:
        model: of model.build_model.
        prefix: of the checkpoint.

    Returns:
        Report.

    Raises:
        FileNotFoundError, ValueError: see WeightsFile and restore.
    """
    variables = variables_by_name(model)
    with naming_another(prefix):
        return restore(variables, WeightsFile(prefix), prefix, is_stored=True)


def load_body(
    model: keras.Model, weights: WeightsFile | WeightsInMemory, source: str
) -> Report:
    """Restore a model's net, and leave its head random.

    Args:
        model: of model.build_model.
        weights: WeightsFile or WeightsInMemory.
        source: what to call it in messages.

    Returns:
        Report.

    Raises:
        ValueError: see restore.
    """
    variables = variables_by_name(model)
    scope = body_scope(model)
    head = {name for name in variables if not name.startswith(scope)}
    return restore(
        {name: v for name, v in variables.items() if name not in head},
        weights,
        source,
        is_unused_ok=lambda name: not name.startswith(scope),
    )._replace(random=sorted(head))


def body_scope(model: keras.Model) -> str:
    """Return the scope of a model's net, such as 'resnet_v1_50/'."""
    return model.layers[1].name + '/'


def imagenet_weights(net: types.ModuleType, net_name: str) -> WeightsInMemory:
    """Download the ImageNet weights of a net's Keras application.

    Args:
        net: a module of nets/.
        net_name: what to call it in messages.

    Returns:
        WeightsInMemory.

    Raises:
        ValueError: there is no such application, or the download failed.
    """
    if not hasattr(net, 'KERAS_APPLICATION'):
        raise common.InputError(
            f'no Keras application has the architecture of {net_name}; give '
            '--initial_checkpoint a checkpoint file'
        )
    application = getattr(keras.applications, net.KERAS_APPLICATION)
    try:
        source = application(
            weights='imagenet',
            include_top=False,
            **getattr(net, 'KERAS_ARGUMENTS', {}),
        )
    except Exception as error:  # keras.utils.get_file raises a bare Exception.
        raise common.InputError(
            f'the ImageNet weights of keras.applications.{net.KERAS_APPLICATION} '
            f'cannot be downloaded ({error}); check the network, or give '
            '--initial_checkpoint a checkpoint file'
        ) from error
    return WeightsInMemory(net.from_keras(source))


class TrainingState:
    """All that a run has to save: the model, the optimizer's moments and the step.

    Args:
        model: of model.build_model.
        optimizer: a Keras optimizer, built for the model's trainable variables.
        directory: where `checkpoint-STEP.*` and the index `checkpoint` live.
        is_writer: whether `save` writes: of several processes, one.
        memory: {name: tf.Variable} of what else a run remembers; the names begin with
            MEMORY_SCOPE. A checkpoint may lack it.
        keep: how many of the newest checkpoints `save` leaves; 0: all.

    Attributes:
        saved_step: of the newest checkpoint, or None if there is none yet.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        directory: str,
        is_writer: bool = True,
        memory: dict[str, tf.Variable] | None = None,
        keep: int = 0,
    ) -> None:
        self.directory = directory
        self.memory = memory or {}
        self.is_writer = is_writer
        self.keep = keep
        self.saved_step: int | None = None
        self.variables = variables_by_name(model) | name_optimizer_variables(
            optimizer, model.trainable_variables
        )
        self.args = tf.Variable('{}')
        # Keys are names of variables, never of Python attributes: a refactoring must
        # not orphan anybody's checkpoint.
        self.checkpoint = tf.train.Checkpoint(
            **self.variables, **self.memory, **{ARGS_NAME: self.args}
        )
        slots = [name for name in self.variables if is_slot(name, self.variables)]
        self.without_slots = tf.train.Checkpoint(
            **{k: v for k, v in self.variables.items() if k not in slots},
            **{ARGS_NAME: self.args},
        )

    @property
    def step(self) -> int:
        """Number of updates made so far."""
        return int(self.variables[STEP_NAME].numpy())

    @property
    def num_bytes(self) -> int:
        """What a checkpoint takes on disk, but for some kilobytes of names."""
        return sum(
            math.prod(variable.shape) * np.dtype(variable.dtype).itemsize
            for variable in self.variables.values()
        )

    def keep_args(self, values: dict[str, Any]) -> None:
        """Let all checkpoints from now on hold what args.json has."""
        self.args.assign(json.dumps(values, sort_keys=True))

    def save(self, step: int) -> None:
        """Write `checkpoint-STEP`; the index names it once it is complete.

        Raises:
            OSError: the disk is full or not writable.
        """
        if not self.is_writer:
            return
        name = f'checkpoint-{step}'
        with common.writing(
            f'cannot write {name} to {self.directory}',
            '; earlier checkpoints are unharmed',
        ):
            write(self.directory, name, self.checkpoint)
            self.go_on_from(name)

    def go_on_from(self, newest: str) -> None:
        """Let the index name a checkpoint as the newest, and remove what is too old.

        Later ones, which a run has that goes on from an earlier one, are none of its.
        """
        self.saved_step = number_of(newest)
        names = [n for n in numbered(self.directory) if number_of(n) <= self.saved_step]
        kept = names[-self.keep :]  # All, if it is 0.
        # As TensorFlow 1 writes it.
        lines = [
            f'model_checkpoint_path: "{newest}"',
            *(f'all_model_checkpoint_paths: "{name}"' for name in kept),
        ]
        # A directory that somebody has removed is not made anew.
        index = os.path.join(self.directory, INDEX_FILE)
        with common.complete_file(index, makes_directory=False) as file:
            pathlib.Path(file).write_text('\n'.join(lines) + '\n', encoding='utf-8')
        for name in names:
            if name not in kept:
                remove(self.directory, name)

    def save_best(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write weights and step as the best checkpoint, and what is told of them.

        The record is the last to be replaced. The files of the best before stay until
        the next: somebody may be reading them.

        Args:
            record: what JSON can express, with the number of updates as `step`.

        Returns:
            The record as it is stored: with `checkpoint`, the name of the files.

        Raises:
            OSError: the disk is full or not writable.
        """
        before = name_of_best(read_best(self.directory))
        name = f'{BEST_NAME}-{record["step"]}'
        if name == before:  # What it names is never half there.
            name += '-again'
        with common.writing(f'cannot write {name} to {self.directory}'):
            write(self.directory, name, self.without_slots)
            record = {**record, 'checkpoint': name}
            try:
                self.record_best(record)
            except BaseException:
                with contextlib.suppress(OSError):  # The disk may be read-only.
                    remove(self.directory, name)  # Nobody knows of it.
                raise
            for other in index_names(self.directory):
                if BEST_FILES.fullmatch(other) and other not in (name, before):
                    remove(self.directory, other)
        return record

    def record_best(self, record: dict[str, Any]) -> None:
        """Write what is told of the best checkpoint; see save_best.

        Raises:
            OSError: the disk is full or not writable.
        """
        with common.writing(f'cannot write {BEST_RECORD} to {self.directory}'):
            filename = os.path.join(self.directory, BEST_RECORD)
            common.write_json(filename, record, makes_directory=False)

    def fingerprint(self) -> int:
        """Return a number that differs where a variable differs."""
        return functools.reduce(
            lambda crc, name: zlib.crc32(self.variables[name].numpy().tobytes(), crc),
            sorted(self.variables),
            0,
        )

    def load(self, prefix: str) -> Report:
        """Restore everything, from our checkpoint or from one of the original.

        Returns:
            Report.

        Raises:
            FileNotFoundError, ValueError: see WeightsFile and restore.
        """
        with naming_another(prefix):
            weights = WeightsFile(prefix)
            remembered = {k: v for k, v in self.memory.items() if k in weights.shapes}
            report = restore(
                self.variables | remembered, weights, prefix, is_stored=True
            )
        self.saved_step = self.step
        return report._replace(
            loaded=[name for name in report.loaded if name not in remembered]
        )


def name_optimizer_variables(
    optimizer: keras.optimizers.Optimizer, trainable_variables: Sequence[keras.Variable]
) -> dict[str, keras.Variable]:
    """Return {name: variable} of an optimizer, named as TensorFlow 1 would.

    Args:
        optimizer: a Keras optimizer that is built.
        trainable_variables: what it was built for.

    Returns:
        dict with `global_step` and, for Adam, `VARIABLE/Adam` and `VARIABLE/Adam_1`;
        see SLOT_NAMES. If it scales the loss, also what SCALE_NAMES names. The learning
        rate is no state: it follows from the step.
    """
    named = {STEP_NAME: optimizer.iterations}
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        for attribute, name in SCALE_NAMES.items():
            named[name] = getattr(optimizer, attribute)
        optimizer = optimizer.inner_optimizer
    slot_names = next(
        names for kind, names in SLOT_NAMES.items() if isinstance(optimizer, kind)
    )
    # Keras calls the slot of a/b 'adam/a_b_momentum'.
    owners = {v.path.replace('/', '_'): v.path for v in trainable_variables}
    for variable in optimizer.variables:
        owner, _, slot = variable.path.removeprefix(f'{optimizer.name}/').rpartition(
            '_'
        )
        if owner in owners:
            named[f'{owners[owner]}/{slot_names[slot]}'] = variable
    return named
