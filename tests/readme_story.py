"""Run the code of a documentation page as it stands there, on small stand-in data.

The commands run in a copy of the repository's code, with a home directory that holds a
small Market-1501. Three things are made smaller, none of them by editing a command:
data sets are drawn and tiny; the ResNet-50 has one residual unit in each block; and
`python` is a script that appends flags to those of train.py and of embed.py's parts.
"""

import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import typing

import numpy as np
import tensorflow as tf

import model
import nets._resnet
import trinet_recipe
from drawn_people.files import write_dataset

ROOT = pathlib.Path(__file__).parents[1]

# Pages whose commands are run, in this order; the slow ones with --slow only.
PLAYED = (
    *('README.md', 'docs/diagnosis.md'),
    *('docs/embedding.md', 'docs/evaluation.md'),
)
SLOW = ('docs/training.md', 'docs/pretrained.md', 'docs/networks.md')
FOLDERS = (
    *('nets', 'heads', 'excluders', 'data', 'training', 'embedding', 'evaluation'),
    *('visuals', 'deployment', 'searching', 'drawn_people'),
)
CODE = ('*.py', '*.sh', *(f'{d}/*.*' for d in FOLDERS))

# Parts of the commands that do not run here, and why.
NOT_RUN = {
    './demo.sh': 'minutes; test_scripts.py runs it with a recording Python',
    '. .venv/bin/activate': 'the copy has no .venv; our python is on the PATH instead',
    'tensorboard --logdir': 'a server; plot.py reads the same events',
    '--initial_checkpoint imagenet': 'a download',
}

# Appended to train.py's flags, where the last one wins; a finished run goes on.
SMALL_FLAGS = (
    '--train_iterations 2 --batch_p 2 --batch_k 2 --net_input_height 32 '
    '--net_input_width 16 --pre_crop_height 36 --pre_crop_width 18 '
    '--histogram_frequency 1 --loading_threads 2'
)
RESUME_FLAGS = '--train_iterations 3'
# Two parts of a data set need two batches.
PART_FLAGS = '--batch_size 2'
SMALL_UNITS = (1, 1, 1, 1)

PYTHON = f"""#!/usr/bin/env bash
case "$*" in
  *train.py*--resume*) exec {{python}} "$@" {RESUME_FLAGS} ;;
  *train.py*) exec {{python}} "$@" {SMALL_FLAGS} ;;
  *embed.py*--shard*|*embed.py*--merge*) exec {{python}} "$@" {PART_FLAGS} ;;
  *) exec {{python}} "$@" ;;
esac
"""


class Block(typing.NamedTuple):
    """A fenced block of a page.

    Attributes:
        language: after the opening fence, such as 'bash'.
        text: between the fences.
        introduction: the paragraph before it.
    """

    language: str
    text: str
    introduction: str


def read_page(name):
    """Return the text of a page, by its path in the repository."""
    return (ROOT / name).read_text(encoding='utf-8')


def read_blocks(name):
    """Return the Blocks of a page, in order."""
    blocks, end = [], 0
    page = read_page(name)
    for match in re.finditer(r'^```(\w*)\n(.*?)^```$', page, re.DOTALL | re.MULTILINE):
        introduction = page[end : match.start()].strip().split('\n\n')[-1]
        blocks.append(Block(*match.groups(), introduction))
        end = match.end()
    return blocks


def split_commands(text):
    """Return the commands of a bash block, one string each."""
    return text.replace('\\\n', ' ').strip().split('\n')


def is_run(command):
    """Say whether a command runs here."""
    return not any(part in command for part in NOT_RUN)


def module_name(block):
    """Return the file that a Python block is introduced as, or None if it is run."""
    match = re.search(r'`((?:nets|heads)/\w+\.py)`[^`]*:$', block.introduction)
    return match and match[1]


class Story:
    """A copy of the code, a home directory and a PATH for the commands of a page.

    Args:
        directory: pathlib.Path, existing and empty.

    Attributes:
        code: where the commands run.
        home: what `~` means to them.
        outputs: {command: its stderr and stdout} of those that ran.
    """

    def __init__(self, directory):
        self.code, self.home = directory / 'code', directory / 'home'
        self.bin = directory / 'bin'
        self.outputs = {}
        copy_code(self.code)
        shrink_resnet(self.code)
        self.bin.mkdir()
        for name in ('python', 'python3'):
            write_script(self.bin / name, PYTHON.format(python=sys.executable))

    def run(self, command):
        """Run a command line; keep what it says, and fail if it fails."""
        ours = {'HOME': str(self.home), 'PATH': f'{self.bin}:{os.environ["PATH"]}'}
        result = subprocess.run(
            ['bash', '-eu', '-c', command],
            cwd=self.code,
            env={k: v for k, v in os.environ.items() if k != 'PYTHON'} | ours,
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.outputs[command] = result.stderr + result.stdout
        told = f'$ {command}\n{self.outputs[command]}\nexit code {result.returncode}'
        assert result.returncode == 0, told

    def play(self, page):
        """Write the modules of a page to where it says, then run the rest in order."""
        blocks = read_blocks(page)
        for block in blocks:
            if block.language == 'python' and module_name(block):
                (self.code / module_name(block)).write_text(block.text)
        for block in blocks:
            if block.language == 'python' and not module_name(block):
                (self.code / 'snippet.py').write_text(block.text)
                self.run('python snippet.py')
            elif block.language == 'bash':
                for command in split_commands(block.text):
                    if is_run(command):
                        self.run(command)


def copy_code(target):
    """Copy the repository's scripts and modules to a directory that does not exist."""
    for pattern in CODE:
        for source in ROOT.glob(pattern):
            copy = target / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)


def write_script(filename, text):
    """Write an executable file."""
    filename.write_text(text, encoding='utf-8')
    filename.chmod(filename.stat().st_mode | stat.S_IXUSR)


def shrink_resnet(code):
    """Leave the copy's ResNet-50 one residual unit in each block."""
    module = code / 'nets' / '_resnet.py'
    text, count = re.subn(
        r'(?m)^    50: .*$', f'    50: {SMALL_UNITS},', module.read_text()
    )
    assert count == 1
    module.write_text(text)


def furnish_home(home, monkeypatch):
    """Put what README expects into a home directory.

    Args:
        home: pathlib.Path that does not exist.
        monkeypatch: pytest's.
    """
    write_dataset(
        str(home / 'Market-1501-v15.09.15'),
        seed=0,
        num_train_pids=3,
        num_test_pids=2,
        num_distractors=2,
        num_junk=2,
    )
    for number, image in enumerate(home.glob('*/query/*.jpg')):
        vehicle = home / 'vehicles' / f'car{number % 4}'
        vehicle.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, vehicle)

    monkeypatch.setitem(nets._resnet.NUM_UNITS, 50, SMALL_UNITS)
    network = model.build_model('resnet_v1_50', 'fc1024', 128)
    arrays = {variable.path: variable.numpy() for variable in network.variables}
    body = {k: v for k, v in arrays.items() if k.startswith('resnet_v1_50/')}
    classifier = {'resnet_v1_50/logits/biases': tf.zeros(1000)}
    write_old_checkpoint(home / 'resnet_v1_50.ckpt', body | classifier)
    published = home / 'experiments' / 'published'
    published.mkdir(parents=True)
    moments = {'emb/weights/Adam': arrays['emb/weights'], 'beta1_power': tf.zeros([])}
    write_checkpoint(published / 'checkpoint-25000', arrays | moments)
    (stored,) = (
        b.text for b in read_blocks('docs/pretrained.md') if b.language == 'json'
    )
    assert json.loads(stored)['model_name'] == 'resnet_v1_50'
    (published / 'args.json').write_text(stored)
    np.savez(home / 'trinet-market1501.npz', *trinet_recipe.make_arrays())


def put_images(story):
    """Put the two images that README embeds where its commands run."""
    images = sorted(story.home.glob('*/query/*.jpg'))
    for name, image in zip(('query.jpg', 'gallery.jpg'), images, strict=False):
        shutil.copy(image, story.code / name)


def write_old_checkpoint(filename, arrays):
    """Write arrays by name in TensorFlow's old one-file format."""
    names = sorted(arrays)
    data = [tf.constant(arrays[name]) for name in names]
    tf.raw_ops.Save(filename=str(filename), tensor_names=names, data=data)


def write_checkpoint(prefix, arrays):
    """Write arrays by name, as TensorFlow 1's Saver does."""
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[''] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names],
    )
