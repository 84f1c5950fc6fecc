"""Bad input to every command, a row each: what it is, and what has to be said of it.

test_bad_input.py makes the directory that the rows start from, and runs them.
"""

import json
import os
import pathlib
import typing
from collections.abc import Callable

import h5py
import numpy as np


class Row(typing.NamedTuple):
    """A command line, and the line that answers it.

    Attributes:
        command: such as 'train'; 'resume' is train.py with --resume.
        flags: after those of a sound call, which they win over; {d} is the directory.
        words: in the line, in this order, whole; {d} as above.
        spoil: function of the directory that spoils something in it first, or None.
        code: the exit code.
        is_bare: whether there are no flags of a sound call.
        others: whether other lines may precede ours: TensorFlow's C code writes them.
    """

    command: str
    flags: str
    words: tuple[str, ...]
    spoil: Callable[[pathlib.Path], object] | None = None
    code: int = 1
    is_bare: bool = False
    others: bool = False


def flag(command, flags, *words):
    """Return the Row of a flag that argparse or a check of flags refuses."""
    return Row(command, flags, words, code=2)


def bare(command, flags, *words):
    """Return the Row of a command line of which nothing else is given."""
    return Row(command, flags, words, code=2, is_bare=True)


def numbers(command, name, expected, *values):
    """Return the Rows of numbers that a flag refuses."""
    return [
        flag(command, f'{name} {value}', f'argument {name}:', str(value), expected)
        for value in values
    ]


def empty(command, *names):
    """Return the Rows of paths that are '', as that of a variable that is not set."""
    return [
        flag(command, f'{name}=', name, "'' given, a path expected") for name in names
    ]


def file(command, flags, spoil, *words, others=False):
    """Return the Row of a file that is spoilt."""
    return Row(command, flags, words, spoil, others=others)


# --- how to spoil something ------------------------------------------------------


def put(name, content):
    """Return what writes a text or bytes to a file, in place of whatever is there."""

    def spoil(directory):
        remove(name)(directory)
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        encoded = content.encode() if isinstance(content, str) else content
        (directory / name).write_bytes(encoded)

    return spoil


def remove(*names):
    """Return what removes files, all that match a pattern."""

    def spoil(directory):
        for name in names:
            for path in directory.glob(name):
                path.unlink()

    return spoil


def make_directory(name):
    """Return what puts a directory in the place of a file."""

    def spoil(directory):
        remove(name)(directory)
        (directory / name).mkdir(parents=True)

    return spoil


def make_pipe(name):
    """Return what puts a FIFO in the place of a file, which nobody writes to."""

    def spoil(directory):
        remove(name)(directory)
        os.mkfifo(directory / name)

    return spoil


def cut(name, size):
    """Return what leaves a file its first bytes."""

    def spoil(directory):
        (path,) = directory.glob(name)
        path.write_bytes(path.read_bytes()[:size])

    return spoil


def store(**values):
    """Return what sets values in the run's args.json; ... removes one."""

    def spoil(directory):
        file = directory / 'exp' / 'args.json'
        stored = json.loads(file.read_text()) | values
        kept = {name: value for name, value in stored.items() if value is not ...}
        file.write_text(json.dumps(kept))

    return spoil


def embeddings(**arrays):
    """Return what writes an HDF5 file of these data sets in place of train.h5."""

    def spoil(directory):
        with h5py.File(directory / 'train.h5', 'w') as file:
            for name, array in arrays.items():
                file[name] = array

    return spoil


def saved(name, *arrays, **named):
    """Return what writes a NumPy file."""

    def spoil(directory):
        if arrays:
            np.save(directory / name, arrays[0], allow_pickle=True)
        else:
            np.savez(directory / name, **named)

    return spoil


POINTS = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
FIDS = [f'{pid}_{number}.png' for pid in range(4) for number in range(3)]
JPEG_HEADER = b'\xff\xd8\xff\xe0' + bytes(20)


def changed(value):
    """Return the points with one number replaced."""
    points = POINTS.astype(np.float64)
    points[4, 2] = value
    return points


# --- train.py: flags -------------------------------------------------------------

WHOLE = 'a whole number expected'
POSITIVE = 'at least 1 expected'
NON_NEGATIVE = 'at least 0 expected'

TRAIN_FLAGS = [
    bare('train', '', 'the following arguments are required: --experiment_root'),
    flag('train', '--batchp 2', '--batchp; did you mean --batch_p?'),
    flag('train', '--gpu 0 --speed 3', 'unrecognized arguments: --gpu and 1 more'),
    flag('train', 'more', 'unrecognized arguments: more'),
    flag('train', '--resume=yes', "--resume: ignored explicit argument 'yes'"),
    flag('train', '--batch_p', 'argument --batch_p: expected one argument'),
    *numbers('train', '--batch_p', POSITIVE, '0', '-1'),
    *numbers('train', '--batch_p', WHOLE, '2.5', 'two'),
    *numbers('train', '--batch_k', POSITIVE, '0'),
    *numbers('train', '--net_input_height', POSITIVE, '0', '-64'),
    *numbers('train', '--net_input_width', WHOLE, '1e2'),
    *numbers('train', '--pre_crop_height', POSITIVE, '0'),
    *numbers('train', '--embedding_dim', POSITIVE, '0', '-3'),
    *numbers('train', '--train_iterations', POSITIVE, '0'),
    *numbers('train', '--train_iterations', WHOLE, '1e3'),
    *numbers('train', '--warmup_iterations', NON_NEGATIVE, '-1'),
    *numbers('train', '--checkpoint_frequency', NON_NEGATIVE, '-1'),
    *numbers('train', '--histogram_frequency', WHOLE, 'often'),
    *numbers('train', '--image_frequency', NON_NEGATIVE, '-1'),
    *numbers('train', '--loading_threads', POSITIVE, '0'),
    *numbers('train', '--pad_crop', NON_NEGATIVE, '-1'),
    *numbers('train', '--color_jitter', 'from 0 to 1 expected', '2', 'nan'),
    *numbers('train', '--random_erasing', 'from 0 to 1 expected', '-0.1', '-1e-3'),
    *numbers('train', '--random_erasing', 'a number expected', 'often'),
    *numbers('train', '--learning_rate', 'above 0 expected', '0', '-1e-3', 'nan'),
    *numbers('train', '--learning_rate', 'above 0 expected', 'inf', '-inf'),
    *numbers('train', '--learning_rate', 'a number expected', 'fast'),
    *numbers('train', '--weight_decay', NON_NEGATIVE, '-1', 'nan'),
    *numbers('train', '--adam_beta1_at_decay', 'to below 1 expected', '1'),
    *numbers('train', '--seed', NON_NEGATIVE, '-1'),
    *numbers('train', '--seed', WHOLE, '1.5'),
    *numbers('train', '--seed', 'at most 4294967295 expected', 2**32, 10**30),
    *numbers('train', '--margin', "a number, 'soft' or 'none' expected", 'hard'),
    flag('train', '--decay_start_iteration late', '--decay_start_iteration', "'late'"),
    flag('train', '--margin nan', '--margin', 'nan'),
    flag('train', '--val_every 5', '--val_every', '--val_set'),
    flag('train', '--loss magnet', "invalid choice: 'magnet'", "'batch_hard'"),
    flag('train', '--metric euklidean', 'did you mean euclidean?'),
    flag('train', '--optimizer adma', 'did you mean adam?'),
    flag('train', '--model_name resnet50', 'did you mean resnet_v1_50?'),
    flag('train', '--model_name vgg16', "invalid choice: 'vgg16'", "'resnet_v1_50'"),
    flag('train', '--head_name fc1042', 'did you mean fc1024?'),
    flag('train', '--last_stride 3', '--last_stride: invalid choice: 3', '1, 2'),
    flag('train', '--precision half', "invalid choice: 'half'", "'bfloat16'"),
    flag('train', '--distribute all', "invalid choice: 'all'", "'mirrored'"),
    *empty('train', '--experiment_root', '--train_set', '--image_root'),
    *empty('train', '--initial_checkpoint', '--val_set', '--val_query'),
]

TRAIN_FLAGS_TOGETHER = [
    flag('train', '--batch_p 1 --batch_k 1', 'leaves no pair; raise one of them'),
    flag('train', '--batch_k 1 --loss batch_all', '--batch_k 1; both must be at least'),
    flag('train', '--batch_p 1 --loss lifted_general', '--batch_p 1', 'at least 2'),
    flag('train', '--loss lifted', "a number as margin, not 'soft'; give one"),
    flag(
        'train',
        '--pre_crop_height 31 --pre_crop_width 16 --crop_augment',
        '32x16 pixels does not fit into the pre-crop size of 31x16; raise',
    ),
    flag(
        'train',
        '--pad_crop 2 --crop_augment --pre_crop_height 36',
        '--pad_crop 2 and --crop_augment both',
        'leave one of them out',
    ),
    flag('train', '--optimizer adamw', '--optimizer adamw without --weight_decay'),
    flag(
        'train',
        '--adam_beta1_at_decay 0.5 --optimizer sgd',
        '--adam_beta1_at_decay needs --optimizer adam or adamw, not sgd',
    ),
    flag(
        'train',
        '--adam_beta1_at_decay 0.5 --decay_start_iteration -1',
        '--adam_beta1_at_decay needs a decay; --decay_start_iteration -1',
    ),
    flag(
        'train',
        '--precision float16 --distribute mirrored',
        'float16 cannot be trained with --distribute mirrored; choose bfloat16',
    ),
    file('train', '--last_stride 1', None, 'last_stride 1', 'or choose a ResNet'),
    flag('train', '--val_query {d}/train.csv', '--val_query needs a --val_set'),
    flag('train', '--val_excluder diagonal', '--val_excluder needs a --val_set'),
    flag('train', '--val_image_root {d}', '--val_image_root needs a --val_set'),
    flag('train', '--val_set {d}/train.csv', '--val_set needs a --val_excluder'),
    flag(
        'train',
        '--val_set {d}/train.csv --val_excluder market',
        "'market'",
        'did you mean market1501?',
    ),
    flag('train', '--distribute multi_worker', 'needs', 'TF_CONFIG'),
    flag('train', '--image_root {d}/none', '--image_root {d}/none is not a directory'),
    flag('train', '--image_root {d}/0_0.png', '{d}/0_0.png is not a directory'),
    flag('train', '--image_root {d} {d}', 'has 2 directories, --train_set 1 file(s)'),
    flag(
        'train',
        '--train_set {d}/train.csv {d}/train.csv',
        '{d}/train.csv twice',
        'leave one of them out',
    ),
    flag(
        'train',
        '--experiment_root {d}/exp',
        '{d}/exp is not empty; add --resume to continue it, or choose a new',
    ),
    flag('train', '--experiment_root {d}/0_0.png', '0_0.png is a file; choose a new'),
]

# --- train.py: files -------------------------------------------------------------

CHECKPOINT = '--initial_checkpoint {d}/exp/checkpoint-1'
DATA = 'exp/checkpoint-1.data*'
UNREADABLE = '{d}/exp/checkpoint cannot be read'
NOT_JSON = '{d}/exp/args.json is not valid JSON'
RESTORE = 'restore what train.py wrote'
IN_FIRST_BATCH = '--batch_p 4 --batch_k 3'
VAL_SET = '--val_excluder diagonal --val_set {d}'
NO_IMAGE = '{d}/1_1.png is not a readable image'
REMOVE_LINE = 'replace it, or leave it out of the data set'

TRAIN_FILES = [
    file('train', '--experiment_root {d}/0_0.png/a/b', None, '{d}/0_0.png is a file'),
    file('train', '--experiment_root /proc/a', None, 'cannot write to /proc/a '),
    file(
        'train',
        '--initial_checkpoint {d}/none',
        None,
        '{d}/none is not a checkpoint: no such file; expected a file, or',
    ),
    file('train', '--initial_checkpoint {d}', None, '{d} is not a checkpoint: a'),
    file(
        'train',
        '--initial_checkpoint {d}/0_0.png',
        None,
        '{d}/0_0.png is not a readable checkpoint',
    ),
    file(
        'train',
        '--initial_checkpoint imagenet --model_name small_stripes',
        None,
        'small_stripes; give --initial_checkpoint a checkpoint file',
    ),
    file(
        'train',
        f'{CHECKPOINT} --model_name small_stripes',
        None,
        '{d}/exp/checkpoint-1 lacks',
        'check that it belongs to this --model_name',
    ),
    file('train', CHECKPOINT, cut(DATA, 1000), '{d}/exp/checkpoint-1 is damaged'),
    file('train', CHECKPOINT, remove(DATA), '{d}/exp/checkpoint-1 is damaged'),
    file(
        'train',
        CHECKPOINT,
        cut('exp/checkpoint-1.index', 50),
        '{d}/exp/checkpoint-1 is not a readable checkpoint',
    ),
    file(
        'train',
        '--net_input_height 20000 --net_input_width 20000',
        None,
        '4 images of 20000x20000 pixels needs about',
        'GB of memory and swap; lower --batch_p or the net input',
    ),
    file('train', '--batch_p 5', None, '4 PIDs, fewer than --batch_p 5; choose a'),
    file('train', '--train_set {d}/none.csv', None, '{d}/none.csv does not exist'),
    file('train', '', make_directory('train.csv'), 'train.csv is a directory'),
    file('train', '', make_pipe('train.csv'), 'train.csv is a pipe'),
    file('train', '', put('train.csv', ''), '{d}/train.csv: the file is empty'),
    file('train', '', put('train.csv', '\n'), '{d}/train.csv: line 1 has 0 field'),
    file('train', '', put('train.csv', '0\n'), 'line 1 has 1 field(s); expected two'),
    file('train', '', put('train.csv', '0,0_0.png\n0;0_1.png\n'), 'line 2 has 1 field'),
    file('train', '', put('train.csv', '0,0_0.png,1\n0,0_1.png\n'), 'line 2 has 2'),
    file('train', '', put('train.csv', '0,0_0.png\n,0_1.png\n'), 'line 2 has an empty'),
    file('train', '', put('train.csv', '0,0_0.png\n"0,0_1.png\n'), 'line 2 is no CSV'),
    file('train', '', put('train.csv', b'0,a\n0,\xff.png\n'), 'line 2 is not UTF-8'),
    file(
        'train', '', put('train.csv', b'0,0_0.png\n0,\x001.png\n'), "names '\\x001.png"
    ),
    file(
        'train',
        '',
        put('train.csv', 'pid,fid\n0,0_0.png\n1,1_0.png\n'),
        'the first line',
        'add --csv_header',
    ),
    file('train', '--csv_header', put('train.csv', 'pid,fid\n'), 'the file is empty'),
    file('train', '--csv_header', put('train.csv', 'fid,x,pid\n0.png,1\n'), 'line 2'),
    file('train', '', put('train.csv', '0,0_0.png\n1,0_0.png\n'), 'two PIDs'),
    file('train', '', remove('1_1.png'), '1 of 12', '{d}/1_1.png); check --image_root'),
    file('train', '', remove('?_1.png'), '4 of 12 images in {d}/train.csv are missing'),
    file('train', '', make_directory('1_1.png'), '1 of 12', 'check --image_root'),
    *(
        file('train', f'{flags} {IN_FIRST_BATCH}', spoil, NO_IMAGE, reason, REMOVE_LINE)
        for flags in ('', '--cache', '--dry_run')
        for spoil, reason in (
            (put('1_1.png', ''), '(the file is empty)'),
            (put('1_1.png', 'no image'), '(Unknown image file format.'),
            (cut('1_1.png', 100), '(Invalid PNG data, size 100)'),
        )
    ),
    file(
        'train',
        IN_FIRST_BATCH,
        put('1_1.png', JPEG_HEADER),
        NO_IMAGE,
        'Invalid JPEG',
        others=True,
    ),
    file('train', f'{VAL_SET}/none.csv', None, '{d}/none.csv does not exist'),
    file(
        'train',
        '--val_set {d}/train.csv --val_excluder market1501',
        None,
        "no PID and camera in '0_0.png'; market1501 names look like",
    ),
    file(
        'train',
        f'{VAL_SET}/val.csv',
        put('val.csv', '0,none.png\n'),
        '{d}/none.png); check --val_image_root',
    ),
    file(
        'train',
        f'{VAL_SET}/val.csv',
        put('val.csv', '0,0_0.png\n'),
        'none of the 1 validation queries has a match in {d}/val.csv',
        'check --val_set, --val_query and --val_excluder',
    ),
]

# Without an index, no checkpoint is looked at for what args.json had.
NO_ARGS = ('exp/args.json', 'exp/checkpoint')

RESUME = [
    file('resume', '', remove(*NO_ARGS), 'no args.json in {d}/exp; expected a'),
    file('resume', '', make_directory('exp/args.json'), 'no args.json in {d}/exp'),
    file('resume', '--experiment_root {d}/none', None, 'no args.json in {d}/none'),
    file('resume', '', put('exp/args.json', ''), NOT_JSON),
    file('resume', '', put('exp/args.json', '{"seed": '), NOT_JSON),
    file('resume', '', put('exp/args.json', b'\xff'), NOT_JSON),
    file('resume', '', put('exp/args.json', '[' * 10**5), NOT_JSON, 'recursion'),
    file('resume', '', put('exp/args.json', '[1]'), 'args.json holds a list, expected'),
    file('resume', '', store(train_set=None), 'args.json', 'train_set'),
    *(
        file('resume', '', store(**{name: value}), f'args.json: {words}', RESTORE)
        for name, value, words in (
            ('image_root', 5, '--image_root is 5, expected a text'),
            ('batch_p', None, '--batch_p is null, expected'),
            ('batch_p', 'two', "argument --batch_p: 'two' given, a whole number"),
            ('batch_p', '2', '--batch_p is "2", expected a number'),
            ('batch_p', True, '--batch_p is true, expected'),
            ('embedding_dim', -3, 'argument --embedding_dim: -3 given, at least 1'),
            ('embedding_dim', 8.5, "argument --embedding_dim: '8.5' given, a whole"),
            ('net_input_height', -64, 'argument --net_input_height: -64 given, at'),
            ('learning_rate', 'fast', "argument --learning_rate: 'fast' given, a"),
            ('learning_rate', float('nan'), 'argument --learning_rate: nan given, a'),
            ('seed', 10**30, f'argument --seed: {10**30} given, at most 4294967295'),
            ('model_name', 'vgg', "argument --model_name: invalid choice: 'vgg'"),
            ('head_name', ['fc1024'], '--head_name is ["fc1024"], expected'),
            ('loss', 'magnet', "argument --loss: invalid choice: 'magnet'"),
            ('flip_augment', 'yes', '--flip_augment is "yes", expected true or false'),
            ('margin', {}, '--margin is {{}}, expected'),
        )
    ),
    file(
        'resume',
        '',
        store(embedding_dim=16),
        'checkpoint-1 has emb/weights of shape (8, 8), the model expects (8, 16)',
    ),
    file('resume', '', store(head_name='fc1024'), 'checkpoint-1 lacks'),
    file('resume', '', remove('exp/checkpoint*'), 'no checkpoint in {d}/exp; expected'),
    file('resume', '', remove('exp/checkpoint'), 'no checkpoint in {d}/exp; expected'),
    file('resume', '', put('exp/checkpoint', 'x\n'), UNREADABLE),
    file('resume', '', make_directory('exp/checkpoint'), UNREADABLE),
    file(
        'resume', '', remove('exp/checkpoint-1.*'), 'names checkpoint-1, which is not'
    ),
    file('resume', '', cut(DATA, 1000), '{d}/exp/checkpoint-1 is damaged'),
    file('resume', '', cut('exp/checkpoint-1.index', 20), 'is not a readable'),
    file('resume', '', remove('train.csv'), '{d}/train.csv does not exist'),
    file(
        'resume', '', remove('0_1.png'), '1 of 12', '{d}/0_1.png); check --image_root'
    ),
]

# --- embed.py --------------------------------------------------------------------

EMBED = [
    bare('embed', '', 'arguments are required: --experiment_root, --dataset'),
    flag('embed', '--data {d}/train.csv', '--data; did you mean --dataset?'),
    flag('embed', '--experiment_root {d}/none', '{d}/none is not a directory'),
    flag('embed', '--experiment_root {d}/0_0.png', '0_0.png is not a directory'),
    *empty('embed', '--experiment_root', '--dataset', '--filename', '--image_root'),
    flag('embed', '--flip_augment', '2 variants of every image need an --aggregator'),
    flag('embed', '--crop_augment five', '5 variants of every image need an'),
    flag('embed', '--aggregator mean', '--aggregator has nothing to join', 'leave it'),
    flag('embed', '--aggregator max --flip_augment', "invalid choice: 'max'", "'mean'"),
    flag('embed', '--crop_augment six', "invalid choice: 'six'", "'five'"),
    flag('embed', '--precision float64', 'did you mean float16?'),
    *numbers('embed', '--batch_size', POSITIVE, '0'),
    *numbers('embed', '--loading_threads', POSITIVE, '-1'),
    *numbers('embed', '--shard', 'I/N expected, with I from 1 to N', '0/2', '3/2', '1'),
    flag(
        'embed', '--shard 1/2 --merge', '--merge joins what --shard', 'one of the two'
    ),
    file('embed', '--shard 1/9', None, '3 part(s) at most; choose fewer parts or a'),
    file('embed', '--merge', None, 'no parts of', 'compute them with --shard'),
    file(
        'embed', '--checkpoint x', None, 'no checkpoint x; expected one of checkpoint'
    ),
    flag('embed', '--merge --resume', '--merge has nothing to resume: leave --resume'),
    flag('embed', '--filename x.parqet', 'x.parqet ends like no format', '.parquet'),
    file('embed', '--dataset {d}/x.tiff', put('x.tiff', ''), 'x.tiff is no image of a'),
    flag('embed', '--on_bad_image ignore', "invalid choice: 'ignore'", "'skip'"),
    flag(
        'embed', '--on_bad_image skip --filename x.npy', '.npy cannot; choose .h5, .npz'
    ),
    file('embed', '--dataset {d}/list.txt', put('list.txt', ' '), 'names no images'),
    file(
        'embed', '--dataset {d}/list.txt', put('list.txt', 'a.png'), '1 of 1', 'a.png'
    ),
    file('embed', '--dataset {d}/none.jpg', None, '{d}/none.jpg); check --image_root'),
    file('embed', '--dataset {d}/none.txt', None, '{d}/none.txt'),
    file('embed', '--dataset {d}/none.csv', None, '{d}/none.csv does not exist'),
    file('embed', '--dataset {d}/exp', None, '{d}/exp has no images; expected files'),
    file('embed', '--image_root {d}/none', None, '12 of 12', 'check --image_root'),
    file('embed', '--filename {d}', None, '{d} is a directory, a file name was'),
    file('embed', '--filename {d}/0_0.png/a/x.h5', None, '{d}/0_0.png is a file, a'),
    file('embed', '--filename /proc/x.h5', None, 'cannot write /proc/x.h5: No such'),
    file(
        'embed',
        '--crop_augment center',
        store(pre_crop_height=31, pre_crop_width=16),
        'cannot cut 32x16 pixels out',
        'size 31x16; leave it out',
    ),
    file('embed', '', remove(*NO_ARGS), 'no args.json in {d}/exp; expected a'),
    file('embed', '', put('exp/args.json', 'flags'), NOT_JSON),
    file('embed', '', put('exp/args.json', '[]'), 'args.json holds a list, expected'),
    file(
        'embed', '', put('exp/args.json', '{}'), 'args.json lacks model_name, head_name'
    ),
    file('embed', '', store(model_name=...), 'args.json lacks model_name; expected'),
    *(
        file('embed', '', store(**{name: value}), f'args.json: {name} is {words}')
        for name, value, words in (
            ('model_name', 'vgg', '"vgg", expected one of'),
            ('model_name', None, 'null, expected one of'),
            ('head_name', 'fc7', '"fc7", expected one of bnneck'),
            ('embedding_dim', -3, '-3, expected a whole number of at least 1; restore'),
            ('embedding_dim', '8', '"8", expected a whole number of at least 1'),
            ('embedding_dim', True, 'true, expected a whole number of at least 1'),
            ('embedding_dim', 8.0, '8.0, expected a whole number of at least 1'),
            ('net_input_height', -64, '-64, expected a whole number of at least 1'),
            ('net_input_width', 0, '0, expected a whole number of at least 1'),
            ('pre_crop_width', None, 'null, expected a whole number of at least 1'),
            ('last_stride', 3, '3, expected one of 1, 2; restore what train.py wrote'),
            ('last_stride', True, 'true, expected one of 1, 2'),
            ('precision', 'half', '"half", expected one of float32, bfloat16'),
        )
    ),
    file('embed', '', store(image_root=5), 'args.json', 'image_root'),
    file('embed', '', store(image_root=...), 'has no image_root; give --image_root'),
    file(
        'embed', '', store(image_root=['/a', '/b']), '(/a, /b); say with --image_root'
    ),
    file('embed', '', store(embedding_dim=16), 'has emb/weights of shape (8, 8)'),
    file('embed', '', store(head_name='fc1024'), 'checkpoint-1 lacks 5 of the'),
    file(
        'embed',
        '',
        store(last_stride=1),
        'last_stride 1 is not for the net mobilenet_v1_1_224',
    ),
    file('embed', '', remove('exp/checkpoint*'), 'no checkpoint in {d}/exp; expected'),
    file('embed', '', put('exp/checkpoint', 'x\n'), UNREADABLE),
    file('embed', '', cut(DATA, 1000), '{d}/exp/checkpoint-1 is damaged'),
    file(
        'embed', '', cut('exp/checkpoint-1.index', 50), 'is not a readable checkpoint'
    ),
    file(
        'embed', '', put('train.csv', 'pid,fid\n0,0_0.png\n1,1_0.png\n'), '--csv_header'
    ),
    file('embed', '', put('train.csv', '0,0_0.png,\n'), 'line 1 has an empty field'),
    file('embed', '', remove('0_1.png'), '1 of 12', '{d}/0_1.png); check --image_root'),
    file('embed', '', make_directory('0_1.png'), '1 of 12', '{d}/0_1.png); check'),
    file('embed', '', put('1_1.png', ''), NO_IMAGE, 'is empty', REMOVE_LINE),
    file(
        'embed', '', put('1_1.png', 'no image'), NO_IMAGE, 'Unknown image', REMOVE_LINE
    ),
    file('embed', '', cut('1_1.png', 100), NO_IMAGE, 'Invalid PNG data', REMOVE_LINE),
    file('embed', '', put('1_1.png', JPEG_HEADER), NO_IMAGE, 'JPEG', others=True),
]

# --- export.py -------------------------------------------------------------------

EXPORT = [
    bare('export', '', 'arguments are required: --experiment_root, --format'),
    flag('export', '--experiment_root {d}/none', '{d}/none is not a directory'),
    *empty('export', '--experiment_root', '--filename', '--image_root'),
    *empty('export', '--check_images', '--query_dataset', '--gallery_dataset'),
    flag('export', '--format onx', 'did you mean onnx?'),
    flag('export', '--input encoded', '--input encoded is for --format saved_model'),
    flag('export', '--format hub_folder', 'needs a --licence', 'cc-by-nc-4.0'),
    flag('export', '--excluder diagonal', 'belong together: give all three, or none'),
    flag('export', '--scores {d}/none.json', '{d}/none.json'),
    *numbers('export', '--num_check_images', POSITIVE, '0'),
    file('export', '--checkpoint x', None, 'no checkpoint x; expected one of'),
    file('export', '--check_images {d}/none.csv', None, '{d}/none.csv does not exist'),
    file('export', '--image_root {d}/none', None, '2 of 2', 'check --image_root'),
    file('export', '', remove('train.csv'), 'names are not here; give --check_images'),
    file('export', '', store(metric='l2'), 'args.json: metric is "l2", expected one'),
    file('export', '', remove(*NO_ARGS), 'no args.json in {d}/exp; expected a'),
    file('export', '', cut(DATA, 1000), '{d}/exp/checkpoint-1 is damaged'),
    file('export', '', put('0_0.png', ''), '0_0.png is not a readable image', 'empty'),
    file('export', '--filename {d}/0_0.png/x', None, '{d}/0_0.png is a file'),
    file('export', '--filename /proc/x', None, 'cannot write /proc/x.onnx'),
    file('export', '', put('exp/thresholds.json', '{}'), 'has no thresholds; expected'),
    file('export', '', put('exp/thresholds.json', '['), 'is not valid JSON'),
]

# --- evaluate.py -----------------------------------------------------------------

NPY = '--query_embeddings {d}/x.npy'
NPZ = '--query_embeddings {d}/x.npz'
TABLE = '--query_embeddings {d}/x.csv'
PARQUET = '--query_embeddings {d}/x.parquet'
NO_HDF5 = '{d}/train.h5 is not a complete HDF5 file; expected what embed.py writes'
NO_EMBEDDINGS = '{d}/train.h5 has no embeddings; expected', 'shape [N, D], found'
OTHER_ROWS = 'embed this very CSV'
DISTINCT = ''.join(f'{i},{fid}\n' for i, fid in enumerate(FIDS))
HEADED = 'pid,fid\n' + ''.join(f'{fid[0]},{fid}\n' for fid in FIDS)

EVALUATE = [
    bare('evaluate', '', 'arguments are required: --excluder, --query_dataset'),
    flag('evaluate', '--excluder market', 'did you mean market1501?'),
    flag('evaluate', '--metric l2', "invalid choice: 'l2'", "'euclidean'"),
    flag('evaluate', '--treshold', 'did you mean --thresholds?'),
    file(
        'evaluate', TABLE, put('x.csv', 'fid,1,2\n'), 'x.csv is no table of embeddings'
    ),
    file('evaluate', TABLE, put('x.csv', 'fid,emb_1\na\n'), 'line 2 has 1 fields, 2'),
    file('evaluate', TABLE, put('x.csv', 'fid,emb_1\na,1\n'), OTHER_ROWS),
    file('evaluate', PARQUET, put('x.parquet', 'x'), 'is not a complete table of'),
    flag('evaluate', '--no_match keep', "invalid choice: 'keep'", "'drop'"),
    flag('evaluate', '--pool median', 'did you mean mean?'),
    flag('evaluate', '--multi_query all', "invalid choice: 'all'", "'max'"),
    flag('evaluate', '--quiet', '--quiet without --filename tells nothing; give it'),
    *numbers('evaluate', '--batch_size', POSITIVE, '0'),
    *numbers('evaluate', '--rerank_k1', POSITIVE, '0'),
    *numbers('evaluate', '--single_shot', POSITIVE, '0'),
    *numbers('evaluate', '--seed', NON_NEGATIVE, '-1'),
    *numbers('evaluate', '--rerank_lambda', '0 to 1 expected', '2', 'nan'),
    flag('evaluate', '--rerank_lambda x', "'x' given", 'to 1 expected'),
    *empty('evaluate', '--filename', '--query_dataset', '--gallery_embeddings'),
    file('evaluate', '--query_dataset {d}/none.csv', None, 'none.csv does not exist'),
    file('evaluate', '--query_dataset {d}', None, '{d} is a directory'),
    file('evaluate', '--query_embeddings {d}/none.h5', None, '{d}/none.h5'),
    file('evaluate', '--gallery_embeddings {d}', None, '{d}'),
    file('evaluate', '--filename {d}', None, '{d} is a directory'),
    file('evaluate', '--filename {d}/0_0.png/x', None, '0_0.png is a file'),
    file('evaluate', '--pool mean', None, 'needs names with tracklets; use --excluder'),
    file(
        'evaluate',
        '--multi_query mean',
        None,
        'needs cameras, which --excluder diagonal',
    ),
    file('evaluate', '--excluder market1501', None, "camera in '0_0.png'; market1501"),
    file('evaluate', '--excluder cuhk03', None, "camera in '0_0.png'; cuhk03 names"),
    file('evaluate', '--excluder csv', None, "row of '0_0.png'; --excluder csv wants"),
    file('evaluate', '', put('train.h5', ''), NO_HDF5),
    file('evaluate', '', put('train.h5', 'no HDF5'), NO_HDF5),
    file('evaluate', '', cut('train.h5', 1000), NO_HDF5),
    file(
        'evaluate', '', embeddings(embedding=POINTS), *NO_EMBEDDINGS, 'embedding [12,'
    ),
    file('evaluate', '', embeddings(emb=POINTS[:, 0]), *NO_EMBEDDINGS, 'emb [12]'),
    file('evaluate', '', embeddings(emb=POINTS[:, :0]), *NO_EMBEDDINGS, 'emb [12, 0]'),
    file(
        'evaluate', '', embeddings(emb=POINTS[None]), *NO_EMBEDDINGS, 'emb [1, 12, 8]'
    ),
    file('evaluate', '', embeddings(emb=[[b'a']] * 12), *NO_EMBEDDINGS, 'emb [12, 1]'),
    file('evaluate', '', embeddings(emb=POINTS + 1j), *NO_EMBEDDINGS, 'complex64'),
    file('evaluate', '', embeddings(), *NO_EMBEDDINGS, 'nothing'),
    file('evaluate', '', embeddings(emb=POINTS[:5]), 'has 5', '12 rows', OTHER_ROWS),
    file('evaluate', '', embeddings(emb=POINTS[:0]), 'has 0', '12 rows', OTHER_ROWS),
    file('evaluate', '', embeddings(emb=changed(np.nan)), '1 of 12', 'row 5, 1_1.png'),
    file('evaluate', '', embeddings(emb=changed(-np.inf)), '1 of 12', 'row 5, 1_1.png'),
    file('evaluate', '', embeddings(emb=changed(1e200)), 'scale the embeddings down'),
    file('evaluate', '--metric cosine', embeddings(emb=POINTS * 0), '12', 'no cosine'),
    file(
        'evaluate', '', embeddings(emb=POINTS, fid=FIDS[::-1]), '12 of 12', OTHER_ROWS
    ),
    file('evaluate', '', embeddings(emb=POINTS, fid=FIDS[:5]), 'fid', '[5]'),
    file('evaluate', '', embeddings(emb=POINTS, fid=range(12)), 'fid', 'int64'),
    file('evaluate', '', embeddings(emb=POINTS, fid=[FIDS]), 'fid', '[1, 12]'),
    file(
        'evaluate',
        NPY,
        saved('x.npy', POINTS[:, :4]),
        '4 dimensions',
        'the same network',
    ),
    file('evaluate', NPY, put('x.npy', b'\x93NUMPY'), 'x.npy is not a complete NumPy'),
    file(
        'evaluate', NPY, saved('x.npy', np.array([{}])), 'not a complete NumPy file of'
    ),
    file('evaluate', NPZ, saved('x.npz', a=POINTS, b=POINTS), 'expected one array emb'),
    file('evaluate', NPZ, put('x.npz', 'no arrays'), 'x.npz is not a complete NumPy'),
    file('evaluate', '', put('train.csv', ''), '{d}/train.csv: the file is empty'),
    file('evaluate', '', put('train.csv', HEADED), '--csv_header'),
    file(
        'evaluate',
        '',
        put('train.csv', DISTINCT),
        'none of the 12 queries has a match in the gallery',
        'check that query set, gallery and excluder belong together',
        others=True,
    ),
]

# --- the other commands ----------------------------------------------------------

NO_SCORES = '{d}/scores.json', 'expected a JSON file of evaluate.py'
CLIPPED = '--output_dir {d}/0_0.png'

VISUALIZE = [
    bare('visualize', '', 'are required: --excluder, --query_dataset'),
    bare('visualize', 'curve', "'curve' given", 'did you mean curves?'),
    bare('visualize', 'rankings', "'rankings' given; expected curves or projector"),
    flag('visualize', '--filename {d}/x.jpg', 'ends in .html or .png expected'),
    flag('visualize', '--filename {d}', 'ends in .html or .png expected'),
    *empty('visualize', '--filename', '--image_root', '--query_dataset'),
    *numbers('visualize', '--num_queries', POSITIVE, '0'),
    *numbers('visualize', '--top_k', WHOLE, 'x'),
    flag('visualize', '--order best', "invalid choice: 'best'", "'worst'"),
    flag('visualize', '--image_root {d}/none', '{d}/none is not a directory'),
    file('visualize', '--filename {d}/0_0.png/x.html', None, '{d}/0_0.png is a file'),
    file(
        'visualize', '', make_directory('ranking.html'), 'ranking.html is a directory'
    ),
    file('visualize', '', remove('0_1.png'), '{d}/0_1.png', 'check --image_root'),
    file(
        'visualize', '', make_directory('0_1.png'), '{d}/0_1.png', 'check --image_root'
    ),
    file(
        'visualize', '', put('0_1.png', 'x'), '{d}/0_1.png is not an image that OpenCV'
    ),
    file('visualize', '', put('train.h5', 'x'), NO_HDF5),
    bare('visualize', 'curves', 'the following arguments are required: JSON'),
    flag('curves', '{d}/none.json', 'argument JSON: {d}/none.json is not a file'),
    flag('curves', '{d}', 'argument JSON: {d} is not a file'),
    flag('curves', '--labels a b', '2 given (a, b), 1 different ones expected'),
    *numbers('curves', '--max_rank', POSITIVE, '0'),
    *empty('curves', '--output_dir'),
    file('curves', CLIPPED, None, '{d}/0_0.png is a file, a directory', others=True),
    file('curves', '', put('scores.json', ''), '{d}/scores.json is not valid JSON'),
    file('curves', '', put('scores.json', '{"mAP"'), 'scores.json is not valid JSON'),
    file('curves', '', put('scores.json', '[]'), *NO_SCORES),
    file('curves', '', put('scores.json', '{"mAP": 1}'), *NO_SCORES),
    file('curves', '', put('scores.json', '{"mAP": 1, "CMC": "high"}'), *NO_SCORES),
    file('curves', '', put('scores.json', '{"mAP": 1, "CMC": []}'), *NO_SCORES),
    *numbers('projector', '--num_images', POSITIVE, '0'),
    flag('projector', '--excluder market', 'did you mean market1501?'),
    *empty('projector', '--output_dir', '--embeddings'),
    file('projector', CLIPPED, None, '{d}/0_0.png is a file, a directory was'),
    file('projector', '--excluder market1501', None, "camera in '0_0.png'; market1501"),
    file('projector', '', remove('0_1.png'), '{d}/0_1.png', 'check --image_root'),
    file('projector', '--embeddings {d}/none.h5', None, '{d}/none.h5'),
]

NO_EVENTS = (
    'no TensorBoard events in {d}/empty; expected an experiment root of train.py'
)

PLOT = [
    bare('plot', '', 'the following arguments are required: EXPERIMENT'),
    flag('plot', '{d}/none', 'argument EXPERIMENT: {d}/none is not a directory'),
    flag('plot', '{d}/0_0.png', 'argument EXPERIMENT: {d}/0_0.png is not a directory'),
    *empty('plot', '--filename'),
    file('plot', '{d}/empty', make_directory('empty'), NO_EVENTS),
    file('plot', '{d}/empty', put('empty/events.out.tfevents.1.x', 'x'), NO_EVENTS),
    file('plot', '--filename {d}', None, '{d} is a directory', others=True),
    file('plot', '--filename {d}/0_0.png/x', None, '0_0.png is a file', others=True),
]

ONE_IMAGE = put('ids/a/1.jpg', 'x')

MAKE_CSV = [
    bare('make_csv', '', 'the following arguments are required: layout, root'),
    bare('make_csv', 'market {d}', 'did you mean market1501?'),
    bare('make_csv', 'spilt {d}/train.csv', "'spilt' given; did you mean split?"),
    bare('make_csv', 'market1501', 'the following arguments are required: root'),
    bare('make_csv', 'duke {d}/none', 'argument root: {d}/none is not a directory'),
    bare('make_csv', 'mars {d}/0_0.png', 'argument root: {d}/0_0.png is not a'),
    bare('make_csv', 'sop {d} --prefix a/b', "'a/b' given, the start of a file name"),
    bare('make_csv', 'sop {d} --output_dir=', "--output_dir: '' given, a path"),
    *(
        Row('make_csv', f'{layout} {{d}}', (f'{{d}} lacks {lacking}', 'expected'))
        for layout, lacking in (
            ('market1501', 'bounding_box_train, query, bounding_box_test'),
            ('duke', 'bounding_box_train, query, bounding_box_test'),
            ('cuhk03', 'cuhk03_new_protocol_config_detected.mat'),
            ('msmt17', 'train'),
            ('mars', 'bbox_train, bbox_test, info'),
            ('cars196', 'cars_annos.mat'),
            ('sop', 'Ebay_train.txt'),
        )
    ),
    file('make_csv', 'folder {d}', None, '12 image(s)', 'first: 0_0.png', 'sub-folder'),
    file('make_csv', 'folder {d}/no', make_directory('no'), '{d}/no holds no images'),
    file(
        'make_csv',
        'folder {d}/ids --output_dir {d}/0_0.png',
        ONE_IMAGE,
        '{d}/0_0.png is a file, a directory was expected',
    ),
    file(
        'make_csv',
        'folder {d}/ids --output_dir /proc',
        ONE_IMAGE,
        'cannot write /proc/folder_all.csv: No such file',
    ),
    file('split', '{d}/none.csv', None, '{d}/none.csv does not exist'),
    *numbers('split', '--val_pids', POSITIVE, '0'),
    *numbers('split', '--val_pids', 'a share below 1, or a number without', '1.5'),
    *numbers('split', '--val_pids', WHOLE, 'some'),
    *numbers('split', '--seed', NON_NEGATIVE, '-1'),
    flag('split', '--excluder market', 'did you mean market1501?'),
    file('split', '--val_pids 9', None, '9 of 4 PIDs asked for validation; at least'),
    file('split', '--excluder market1501', None, "camera in '0_0.png'; market1501"),
    file('split', CLIPPED, None, '{d}/0_0.png is a file, a directory was expected'),
    file('split', '', put('train.csv', '0;1\n'), 'train.csv: line 1 has 1 field'),
    file(
        'split',
        '--output_dir {d}',
        lambda d: (d / 'train_rest.csv').symlink_to('train.csv'),
        '{d}/train_rest.csv is',
        'and would be replaced; choose another --prefix or --output_dir',
    ),
]

TRINET = [
    bare('trinet_embed', '', 'arguments are required: image_list, weights'),
    flag('trinet_embed', '{d}/list.txt {d}/none.npz', '{d}/none.npz is not a file'),
    *numbers('trinet_embed', '--batch_size', POSITIVE, '0'),
    flag('trinet_embed', '--image_root {d}/none', '{d}/none is not a directory'),
    *empty('trinet_embed', '--output'),
    file('trinet_embed', '{d}/none.txt {d}/weights.npz', None, '{d}/none.txt'),
    file('trinet_embed', '{d} {d}/weights.npz', None, '{d}'),
    file('trinet_embed', '', put('weights.npz', ''), 'weights.npz is damaged or'),
    file(
        'trinet_embed', '', put('weights.npz', 'x'), 'weights.npz is not an .npz file'
    ),
    file('trinet_embed', '', put('weights.npz', b'PK\x03\x04'), 'is damaged', 'again'),
    file('trinet_embed', '', saved('weights.npz', POINTS), 'conv1 W', '273 were'),
]

# --- search.py -------------------------------------------------------------------

SEARCH = [
    bare('search', '', 'nothing given; expected one of images to look for, --compare'),
    bare('search', 'a.jpg --serve 0', 'IMAGE and --serve given; expected one of'),
    bare('search', '--serve 0', '--serve needs a --gallery: files that embed.py'),
    bare('search', 'a.jpg --gallery g.h5', 'IMAGE needs a network: --experiment_root'),
    bare('search', '--compare a.jpg', 'expected 2 arguments'),
    bare('search', '--gallery g.h5 --build_index flat', '--build_index needs --index'),
    bare('search', '--gallery g.h5 --build_index tree', "invalid choice: 'tree'"),
    flag('search', '--model {d}/x.onnx', 'are two networks; give one'),
    flag('search', '--group_by_pid mean --index x', 'mean needs all distances'),
    flag('search', '--experiment_root {d}/none', '{d}/none is not a directory'),
    flag('search', '--metric l2', "invalid choice: 'l2'"),
    *empty('search', '--image_root', '--picture', '--index', '--model'),
    *numbers('search', '--top', POSITIVE, '0'),
    *numbers('search', '--serve', '0 to 65535', '70000'),
    *numbers('search', '--fpr', 'at most 1', '1.5'),
    bare('search', '--gallery g.h5 --duplicates -1', '--duplicates: -1 given'),
    bare(
        'search',
        '--gallery g.h5 --duplicates 1 --picture x.png',
        '--duplicates has no use for --picture; leave it out',
    ),
    file('search', '--gallery {d}/none.h5', None, '{d}/none.h5'),
    file('search', '--gallery {d}/0_1.png', None, 'is an image; put images before'),
    file('search', '', cut('gallery.h5', 3000), '{d}/gallery.h5'),
    file('search', '', remove('0_0.png'), '{d}/0_0.png is not a readable image'),
    file('search', '', put('0_0.png', 'x'), '{d}/0_0.png is not a readable image'),
    file('search', '--without 77', None, '--without 77: the gallery has no image of'),
    file('search', '--without 0 1 2 3', None, '--without leaves no image to search'),
    file('search', '--checkpoint x', None, 'no checkpoint x; expected one of'),
    file(
        'search', '--checkpoint checkpoint-0', None, 'was embedded by', 'other weights'
    ),
    file('search', '--threshold {d}/none.json', None, '{d}/none.json'),
    file('search', '--threshold {d}/scores.json', None, 'has no thresholds; expected'),
    file('search', '--fpr 0.1', None, '--fpr 0.1 needs --threshold with the JSON file'),
    file('search', '--index {d}/none', None, '{d}/none and {d}/none.json are not both'),
    file('search', '--picture {d}/0_0.png/x.png', None, '{d}/0_0.png is a file'),
    file('search', '--gallery_dataset {d}/train.csv {d}/train.csv', None, '1 files of'),
]

ROWS = [
    *(*TRAIN_FLAGS, *TRAIN_FLAGS_TOGETHER, *TRAIN_FILES, *RESUME, *EMBED, *EVALUATE),
    *(*EXPORT, *VISUALIZE, *PLOT, *MAKE_CSV, *TRINET, *SEARCH),
]
