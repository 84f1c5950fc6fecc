"""A data set of noise and a net of one block: training runs that take a second."""

import contextlib
import pathlib

import cv2
import numpy as np
import pytest

import nets._mobilenet
import train

ROOT = pathlib.Path(__file__).parents[1]

HEIGHT, WIDTH = 32, 16  # Pixels, of the images and of the net's input.


def shrink_net(monkeypatch):
    """Leave mobilenet_v1_1_224 one separable block of eight channels."""
    monkeypatch.setattr(nets._mobilenet, 'SEPARABLE', ((8, 2),))


def write_noise(filename, seed):
    """Write an image of random pixels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pathlib.Path(filename).write_bytes(cv2.imencode('.png', image)[1].tobytes())


def write_dataset(directory, num_images=(3, 3, 3, 3)):
    """Write train.csv and its images: PID i has num_images[i] of them.

    Args:
        directory: pathlib.Path of an existing directory.
        num_images: for each PID, its number of images.

    Returns:
        list of str, the FIDs in CSV order.
    """
    rows = [
        (pid, f'{pid}_{i}.png') for pid, n in enumerate(num_images) for i in range(n)
    ]
    for seed, (_, fid) in enumerate(rows):
        write_noise(directory / fid, seed)
    text = ''.join(f'{pid},{fid}\n' for pid, fid in rows)
    (directory / 'train.csv').write_text(text)
    return [fid for _, fid in rows]


def spoil(directory, contents):
    """Spoil images of write_dataset, and write good.csv, the rows of the others.

    Args:
        directory: pathlib.Path, as of write_dataset.
        contents: {FID: bytes} to overwrite images with.
    """
    for fid, content in contents.items():
        (directory / fid).write_bytes(content)
    rows = (directory / 'train.csv').read_text().splitlines(keepends=True)
    good = [row for row in rows if row.strip().split(',')[1] not in contents]
    (directory / 'good.csv').write_text(''.join(good))


def model_flags():
    """Return the flags of a small net and small batches."""
    return [
        *('--model_name', 'mobilenet_v1_1_224'),
        *('--head_name', 'direct', '--embedding_dim', '8'),
        *('--net_input_height', str(HEIGHT), '--net_input_width', str(WIDTH)),
        *('--batch_p', '2', '--batch_k', '2'),
    ]


def flags(directory, root, *more):
    """Return the flags of a run of two iterations on the data set in `directory`."""
    return [
        *('--experiment_root', str(root), '--seed', '1'),
        *('--train_set', str(directory / 'train.csv'), '--image_root', str(directory)),
        *model_flags(),
        *('--train_iterations', '2', '--loading_threads', '2'),
        *more,
    ]


def start(directory, root, *more):
    """Train from scratch; see flags."""
    train.main(flags(directory, root, *more))


@contextlib.contextmanager
def trained(directory, *more):
    """Train a run `root` on a data set in `directory`; the net is small in the context.

    Args:
        directory: pathlib.Path, which is yielded.
        more: flags beside those of `flags`.
    """
    write_dataset(directory)
    with pytest.MonkeyPatch.context() as patch:
        shrink_net(patch)
        start(directory, directory / 'root', *more)
        yield directory


def resume(root, *more):
    """Go on with a run."""
    train.main(['--experiment_root', str(root), '--resume', *more])


def read_checkpoint(root, step):
    """Return {name: array} of everything in a checkpoint of a run, but its flags."""
    import checkpoints

    weights = checkpoints.WeightsFile(str(pathlib.Path(root, f'checkpoint-{step}')))
    return {
        name: weights.read(name)
        for name in weights.shapes
        if not name.startswith('_') and name != checkpoints.ARGS_NAME
    }
