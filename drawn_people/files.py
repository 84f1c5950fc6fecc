"""The data set on disk: complete, or not there."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile

import common
from drawn_people.plan import draw_shot, plan_nuisances, plan_people, split_pids
from visuals import thumbnails

JPEG_QUALITY = 90
SUBSETS = ('bounding_box_train', 'query', 'bounding_box_test')
MARKER = 'demo_data.json'


def write_dataset(
    output_dir,
    seed=0,
    *,
    num_train_pids=60,
    num_test_pids=40,
    num_distractors=60,
    num_junk=30,
):
    """Draw the data set into `output_dir`, which appears only when it is complete.

    Args:
        output_dir: directory to create, or an empty one, or one that already holds
            this very data set, which is left alone.
        seed: non-negative integer.
        num_train_pids, num_test_pids: number of identities, at least 1 each.
        num_distractors, num_junk: number of gallery images of PID 0000 and of -1.

    Returns:
        True if the data set was drawn, False if it was there.

    Raises:
        FileError: the directory holds something else.
    """
    settings = {
        'seed': seed,
        'num_train_pids': num_train_pids,
        'num_test_pids': num_test_pids,
        'num_distractors': num_distractors,
        'num_junk': num_junk,
    }
    output_dir = os.path.realpath(output_dir)
    if is_complete(output_dir, settings):
        return False
    train_pids, test_pids = split_pids(seed, num_train_pids, num_test_pids)
    first_stranger = 1 + num_train_pids + num_test_pids
    shots = [
        *plan_people(seed, train_pids, test_pids),
        *plan_nuisances(first_stranger, test_pids, num_distractors, num_junk),
    ]
    with complete_directory(output_dir) as directory:
        counts = write_images(directory, seed, shots)
        common.write_json(os.path.join(directory, MARKER), settings | counts)
    return True


def is_complete(directory, settings):
    """Return whether a directory holds the data set of `settings`; False if empty.

    Raises:
        FileError: it holds something else, or only some of the images.
    """
    if not os.path.lexists(directory):
        return False
    if not os.path.isdir(directory):
        raise common.FileError(f'{directory} is a file, expected a directory')
    if not os.listdir(directory):
        return False
    refusal = 'choose a new directory or remove this one'
    try:
        text = pathlib.Path(directory, MARKER).read_text(encoding='utf-8')
        found = json.loads(text)
        counts = {subset: found[subset] for subset in SUBSETS}
    except (OSError, ValueError, LookupError, TypeError):
        raise common.FileError(
            f'{directory} is not empty and no demo data set; {refusal}'
        ) from None
    for name, value in settings.items():
        if found.get(name) != value:
            raise common.FileError(
                f'{directory} holds a demo data set of {name} {found.get(name)}, '
                f'not {value}; {refusal}'
            )
    if counts != count_images(directory):
        raise common.FileError(
            f'{directory} has lost or gained images since it was drawn; {refusal}'
        )
    return True


def count_images(directory):
    """Return the number of .jpg files of each subset, as a dict."""
    return {
        subset: len(list(pathlib.Path(directory, subset).glob('*.jpg')))
        for subset in SUBSETS
    }


@contextlib.contextmanager
def complete_directory(directory):
    """Yield a temporary directory that becomes `directory` only if the block succeeds.

    It sits beside `directory`, so that the final rename is atomic; on an error it is
    removed. `directory` may exist if it is empty.
    """
    parent, name = os.path.split(directory)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=parent, prefix=f'.{name}.', suffix='.partial')
    try:
        # mkdtemp makes directories private; within, a result gets usual permissions.
        result = os.path.join(temporary, name)
        os.mkdir(result)
        yield result
        os.rename(result, directory)
    finally:
        shutil.rmtree(temporary)


def write_images(directory, seed, shots):
    """Draw `shots` into the subsets' folders; return the number in each, as a dict."""
    for subset in SUBSETS:
        os.mkdir(os.path.join(directory, subset))
    for shot in shots:
        name, image = draw_shot(seed, shot)
        content = thumbnails.encode_jpeg(image, JPEG_QUALITY)
        pathlib.Path(directory, shot.subset, name).write_bytes(content)
    return count_images(directory)
