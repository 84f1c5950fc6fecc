"""Save and restore by variable name; say what matched and what did not.

One rule reads everything: a file maps names to arrays, and a variable takes the array
of its name. That covers TF-Slim's files in TensorFlow's old and new format, the
experiments of the original code and our own, whose keys are the same names.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import types
import typing
import zlib
from collections.abc import Callable, Container, Sequence
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

# The best checkpoint of a run that validates, and what is told of it.
BEST_NAME = 'best'
BEST_RECORD = 'best.json'

# What a file may hold beyond our variables: the classifier of the pretraining, and
# what follows from the step or concerns TensorFlow itself.
UNUSED_PARTS = ('logits', 'Logits')
TRAINING_NAMES = (STEP_NAME, *SCALE_NAMES.values(), 'beta1_power', 'beta2_power')
TENSORFLOW_NAMES = ('save_counter', '_CHECKPOINTABLE_OBJECT_GRAPH')


# What TensorFlow raises of a checkpoint that is damaged.
DAMAGES = (tf.errors.OpError, ValueError, IndexError, RuntimeError, MemoryError)

# Where a run keeps what it remembers of its past, beside weights and moments.
MEMORY_SCOPE = 'memory/'


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
        try:
            self.reader = tf.train.load_checkpoint(prefix)
            shapes = self.reader.get_variable_to_shape_map()
        except DAMAGES as error:
            raise common.InputError(f'{prefix} is not a readable checkpoint') from error
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
            raise common.InputError(
                f'{self.prefix} is damaged: {name} cannot be read'
            ) from error


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
            f'{directory}/checkpoint names {name}, which is not there; '
            'restore it, or let that file name another one (embed.py also takes '
            '--checkpoint)'
        )
    if os.path.lexists(os.path.join(directory, 'checkpoint')):
        raise common.MissingFileError(
            f'{directory}/checkpoint cannot be read; expected the index file that '
            'train.py writes: restore it (embed.py also takes --checkpoint)'
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
    prefix = os.path.join(directory, name)
    if not exists(prefix):
        names = [
            file.removesuffix('.index')
            for file in os.listdir(directory)
            if file.endswith('.index')
        ]
        names.sort(key=lambda name: (len(name), name))  # checkpoint-9 before -10.
        more = ', ...' if len(names) > 5 else ''
        raise common.MissingFileError(
            f'{directory} has no checkpoint {name}; expected one of '
            f'{", ".join(names[:5])}{more}'
            if names
            else f'{directory} has no checkpoint {name}, nor any other'
        )
    return prefix


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
        self.variables = variables_by_name(model) | name_optimizer_variables(
            optimizer, model.trainable_variables
        )
        # Keys are names of variables, never of Python attributes: a refactoring must
        # not orphan anybody's checkpoint.
        self.manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(**self.variables, **self.memory),
            directory,
            max_to_keep=keep or None,
            checkpoint_name='checkpoint',
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
            try:
                self.manager.save(checkpoint_number=step)
            except BaseException:
                # TensorFlow leaves the half of a file that it could write.
                half = os.path.join(self.directory, f'{name}_temp')
                shutil.rmtree(half, ignore_errors=True)
                raise

    def save_best(self, record: dict[str, Any]) -> None:
        """Write weights and step as `best`, and what is told of them to best.json.

        The old files stay until the new ones are complete.

        Args:
            record: what JSON can express.

        Raises:
            OSError: the disk is full or not writable.
        """
        slots = [name for name in self.variables if is_slot(name, self.variables)]
        weights = {k: v for k, v in self.variables.items() if k not in slots}
        partial, complete = (
            os.path.join(self.directory, f'.{BEST_NAME}.{state}')
            for state in ('partial', 'complete')
        )
        shutil.rmtree(partial, ignore_errors=True)
        with common.writing(f'cannot write {BEST_NAME} to {self.directory}'):
            try:
                os.makedirs(partial)
                tf.train.Checkpoint(**weights).write(os.path.join(partial, BEST_NAME))
                common.write_json(os.path.join(partial, BEST_RECORD), record)
                os.rename(partial, complete)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            self.finish_best()

    def finish_best(self) -> None:
        """Move a complete new `best` to its place, now or after an interruption.

        Several files cannot be replaced at one instant; being complete elsewhere, they
        can be moved again.
        """
        complete = os.path.join(self.directory, f'.{BEST_NAME}.complete')
        if os.path.isdir(complete):
            for name in sorted(os.listdir(complete)):
                os.replace(
                    os.path.join(complete, name), os.path.join(self.directory, name)
                )
            os.rmdir(complete)

    def read_best(self) -> dict[str, Any] | None:
        """Return what save_best recorded last, a dict, or None if there is no best.

        Raises:
            InputError: it is no JSON object.
        """
        self.finish_best()
        if not exists(os.path.join(self.directory, BEST_NAME)):
            return None
        filename = os.path.join(self.directory, BEST_RECORD)
        return common.read_object(filename) if os.path.exists(filename) else None

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
        weights = WeightsFile(prefix)
        remembered = {k: v for k, v in self.memory.items() if k in weights.shapes}
        report = restore(self.variables | remembered, weights, prefix, is_stored=True)
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
