"""Embeddings of one data set computed in parts: which rows, what files, how joined.

A part consists of whole batches, the very ones that one call would have computed: a
product of another batch size may round otherwise, and the parts joined are to equal the
whole bit for bit.
"""

import argparse
import json
import os
import pathlib
import re
import typing

import array_files
import common
import embedding_files
from embedding import outputs

# Flags that may differ from part to part: where things lie, and what is shown.
FREE_FLAGS = {
    'experiment_root',
    'image_root',
    'allow_outside_image_root',
    'dataset',
    'csv_header',
    'filename',
    'shard',
    'merge',
    'loading_threads',
    'quiet',
    'resume',
}

# Name of the attribute that only parts have.
ORIGIN = 'shard'


class Shard(typing.NamedTuple):
    """One of `count` parts, numbered from 1."""

    index: int
    count: int

    def __str__(self):
        return f'{self.index}/{self.count}'


def shard(text):
    """argparse type: I/N, part I of N."""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(
            f'{text} given, I/N expected, with I from 1 to N'
        )
    return Shard(int(match[1]), int(match[2]))


def rows_of(part, num_images, batch_size):
    """Return the rows of a part, a range: its share of the batches.

    Args:
        part: a Shard.
        num_images: of the whole data set, N.
        batch_size: images per batch; the last may have fewer.

    Raises:
        ValueError: there are fewer batches than parts.
    """
    num_batches = -(-num_images // batch_size)
    if part.count > num_batches:
        raise common.InputError(
            f'--shard {part}: {num_images} images in batches of {batch_size} make '
            f'{num_batches} part(s) at most; choose fewer parts or a smaller '
            '--batch_size, the same for all'
        )
    first, last = (
        i * num_batches // part.count * batch_size for i in (part.index - 1, part.index)
    )
    return range(first, min(last, num_images))


def name_of(filename, part):
    """Return the name of a part's HDF5 file, from the name of the whole's."""
    stem, suffix = split_name(filename)
    return f'{stem}.shard-{part.index}-of-{part.count}{suffix}'


def split_name(filename):
    """Return (stem, suffix) of what parts are called; they are HDF5 in any case."""
    stem, suffix = os.path.splitext(filename)
    return stem, '.h5' if outputs.choose_writer(filename) else suffix


def describe(part, training, precision, weights):
    """Return the attribute that tells a part from parts of other embeddings.

    Args:
        part: a Shard.
        training: {name: value} of the training run's flags that matter.
        precision: number format of the products.
        weights: checkpoints.fingerprint of the network.

    Returns:
        {ORIGIN: str}.
    """
    origin = {
        'index': part.index,
        'count': part.count,
        'training': training,
        'precision': precision,
        'weights': weights,
    }
    return {ORIGIN: json.dumps(origin, sort_keys=True)}


def find(filename):
    """Return the files of all parts of a file, list of str, in order.

    Args:
        filename: of the whole.

    Raises:
        FileNotFoundError: there is none, or some are missing.
        ValueError: there are parts of several divisions.
    """
    stem, suffix = split_name(os.path.basename(filename))
    pattern = re.compile(rf'{re.escape(stem)}\.shard-(\d+)-of-(\d+){re.escape(suffix)}')
    directory = pathlib.Path(filename).parent
    names = sorted(os.listdir(directory)) if directory.is_dir() else []
    counts = sorted({int(m[2]) for m in map(pattern.fullmatch, names) if m})
    if not counts:
        raise common.MissingFileError(
            f'no parts of {filename}: {name_of(filename, Shard(1, 2))} and the like '
            'were expected; compute them with --shard'
        )
    if len(counts) > 1:
        raise common.InputError(
            f'{filename} has parts of {len(counts)} divisions (into '
            f'{", ".join(map(str, counts))}); remove those that do not belong to it'
        )
    parts = [Shard(i, counts[0]) for i in range(1, counts[0] + 1)]
    missing = [p for p in parts if not os.path.isfile(name_of(filename, p))]
    if missing:
        raise common.MissingFileError(
            f'{len(missing)} of {counts[0]} parts of {filename} are missing (first: '
            f'{name_of(filename, missing[0])}); compute it with --shard {missing[0]}'
        )
    return [name_of(filename, part) for part in parts]


def check(filenames, args, fids, shape):
    """Refuse parts that are not those of one data set, one network and one command.

    Args:
        filenames: of find.
        args: dict of the flags of the command that merges.
        fids: sequence [N] of str, the whole data set.
        shape: of the whole: [N, D], or [A, N, D] with several variants.

    Returns:
        (attributes, skipped): {name: str}, checkpoint and versions of the whole, and
        {row: reason} of the images that could not be read.

    Raises:
        ValueError: one does not fit; names it, and what was expected.
    """
    first, skipped = None, {}
    for index, filename in enumerate(filenames, start=1):
        part = Shard(index, len(filenames))
        header = read_header(filename, part, len(shape) == 3)
        if header.part != part:
            raise common.InputError(
                f'{filename} holds part {header.part}, by its name {part}; compute it '
                f'again with --shard {part}'
            )
        check_flags(filename, header.args, args)
        rows = rows_of(part, len(fids), args['batch_size'])
        expected = (*shape[:-2], len(rows), shape[-1])
        if header.shape != expected:
            raise common.InputError(
                f'{filename} has embeddings of shape {list(header.shape)}, but part '
                f'{part} of {args["dataset"]} has {list(expected)}; embed this very CSV'
            )
        embedding_files.check_fids(
            fids[rows.start : rows.stop],
            *(header.fids, args['dataset'], filename, rows.start),
        )
        first = first or header
        for name, value in header.origin.items():
            if value != first.origin.get(name):
                raise common.InputError(
                    f'{filename} and {filenames[0]} differ in {name} ({value} and '
                    f'{first.origin.get(name)}); embed all parts alike'
                )
        skipped |= {rows.start + row: why for row, why in header.skipped.items()}
    return first.attributes, skipped


class Header(typing.NamedTuple):
    """What a part's file says of itself.

    Attributes:
        part: the Shard.
        args: dict of the flags it was computed with.
        origin: {what: str} that all parts of a file share.
        attributes: {name: str} that the whole has too, but for the arguments.
        shape: of its embeddings, [B, D] or [A, B, D].
        fids: [B] of str.
        skipped: {row: reason} of images that could not be read.
    """

    part: Shard
    args: dict
    origin: dict
    attributes: dict
    shape: tuple
    fids: list
    skipped: dict


def read_header(filename, part, has_variants):
    """Return the Header of a part's file.

    Args:
        filename: its name.
        part: the Shard expected there.
        has_variants: whether its embeddings are those of several variants.

    Raises:
        ValueError: it is damaged, or something else.
    """
    try:
        with array_files.open_hdf5(filename) as file:
            attributes = {name: str(value) for name, value in file.attrs.items()}
            origin = json.loads(attributes.pop(ORIGIN))
            shape = array_files.find_hdf5(file, name_embeddings(has_variants)).shape
            fids = array_files.find_hdf5(file, 'fid')
            return Header(
                Shard(origin.pop('index'), origin.pop('count')),
                dict(json.loads(attributes.pop('args'))),
                # The directory may be another one on another machine.
                {'checkpoint': os.path.basename(attributes['checkpoint'])}
                | {'versions': attributes['versions']}
                | origin,
                attributes,
                shape,
                embedding_files.read_names(fids, shape[-2], filename),
                embedding_files.read_skipped(file, shape[-2], filename),
            )
    except array_files.DAMAGES as error:
        raise common.InputError(
            f'{filename} is not a complete file of embed.py --shard ({error}); compute '
            f'it again with --shard {part}'
        ) from error


def name_embeddings(has_variants):
    """Return the name of the data set that holds what the net computed."""
    return 'emb_aug' if has_variants else 'emb'


def check_flags(
    filename, stored, args, free=FREE_FLAGS, remedy='repeat the flags of the parts'
):
    """Raise ValueError if a part was computed with other flags than a command has.

    Args:
        filename: of the part.
        stored: dict of its flags.
        args: dict of the command's.
        free: names of flags that may differ.
        remedy: the end of the message.
    """
    for name in sorted((stored.keys() | args.keys()) - free):
        if stored.get(name) != args.get(name):
            raise common.InputError(
                f'{filename} was embedded with --{name} {stored.get(name)}, this '
                f'command has {args.get(name)}; {remedy}'
            )


def read(filenames, batch_size, has_variants):
    """Yield the embeddings of all parts, batch by batch, as embedder.Embedder does.

    Args:
        filenames: of find, checked.
        batch_size: of the parts, images.
        has_variants: whether the embeddings are those of several variants.

    Yields:
        (rows, embeddings): range of positions in the data set, float32 [A, B, D].

    Raises:
        ValueError: a file is damaged.
    """
    done = 0
    for filename in filenames:
        with (
            array_files.reading(filename, 'whole'),
            array_files.open_hdf5(filename) as file,
        ):
            embs = array_files.find_hdf5(file, name_embeddings(has_variants))
            stored, checksum = embedding_files.read_checksum(embs), 0
            for first in range(0, embs.shape[-2], batch_size):
                batch = embs[..., first : first + batch_size, :]
                batch = batch if has_variants else batch[None]
                checksum = embedding_files.update_checksum(checksum, batch)
                yield range(done, done + batch.shape[1]), batch
                done += batch.shape[1]
            embedding_files.check_checksum(stored, checksum, filename)
