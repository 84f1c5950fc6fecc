"""The images that are searched: files of embed.py, joined, some of them left out."""

import hashlib
import itertools
import typing

import numpy as np

import array_files
import common
import datasets
import embedding_files

# What a gallery image without a PID is called in tables; in JSON, it has none.
NO_PID = '-'

# Embeddings whose sum is computed at once.
ROWS_AT_ONCE = 2**16


class Gallery(typing.NamedTuple):
    """Images to search.

    Attributes:
        embs: [G, D], an array or what slices like one.
        pids: object array [G] of str, or of None where nobody tells.
        fids: object array [G] of str.
        roots: object array [G] of str, or of None: directory that the FID is in.
        origin: embedding_files.Origin.
        filenames: of the files, for messages.
    """

    embs: typing.Any
    pids: np.ndarray
    fids: np.ndarray
    roots: np.ndarray
    origin: embedding_files.Origin
    filenames: list

    def without(self, pids):
        """Return the Gallery without the images of some PIDs.

        Raises:
            InputError: it has none of one of them, or nothing else.
        """
        known = set(self.pids.tolist()) - {None}
        for pid in pids:
            if pid not in known:
                raise common.InputError(
                    f'--without {pid}: the gallery has no image of that PID'
                    f'{common.suggest(pid, known)}'
                )
        rows = np.flatnonzero([pid not in set(pids) for pid in self.pids])
        if not len(rows):
            raise common.InputError(
                '--without leaves no image to search; name fewer PIDs'
            )
        return self.select(rows)

    def check_inside(self, image_root, is_allowed):
        """Raise InputError if FIDs lead out of their image root.

        Args:
            image_root: of all of them, or None: what the files say.
            is_allowed: whether nothing is refused.
        """
        name = ' and '.join(self.filenames)
        roots = self.roots
        if image_root is not None:
            roots = np.full(len(self.fids), image_root, object)
        for root in dict.fromkeys(roots.tolist()):
            if root is not None:  # Otherwise, no image is opened.
                fids = self.fids[roots == root]
                datasets.check_inside(name, fids, root, is_allowed)

    def select(self, rows):
        """Return the Gallery of some rows, ascending int64 [n]."""
        kept = embedding_files.Kept(self.embs, rows)
        return self._replace(
            embs=kept[:] if isinstance(self.embs, np.ndarray) else kept,
            pids=self.pids[rows],
            fids=self.fids[rows],
            roots=self.roots[rows],
        )


class Joined:
    """Embeddings of several files, one after the other; slices like an array.

    Args:
        parts: list of [N, D], what slices like arrays.
    """

    ndim = 2

    def __init__(self, parts):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape = int(self.ends[-1]), parts[0].shape[1]
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, place):
        found = array_files.slice_parts(self.ends, place, self.parts.__getitem__)
        return np.concatenate([np.empty((0, self.shape[1]), self.dtype), *found])


def load(filenames, csv_files=None, has_header=False):
    """Return the Gallery of some files of embeddings.

    Its numbers are in memory if they take less than half of what is free.

    Args:
        filenames: list of str.
        csv_files: list of str, their data sets in the same order, or None: the files
            tell PIDs and FIDs, or nobody does.
        has_header: whether the first line of the CSVs names their columns.

    Raises:
        FileNotFoundError, InputError: a file is missing or wrong, or does not belong to
            the others.
    """
    if csv_files is not None and len(csv_files) != len(filenames):
        raise common.InputError(
            f'{len(filenames)} files of embeddings but {len(csv_files)} of '
            '--gallery_dataset; give the CSV of each, in the same order'
        )
    opened = [
        open_one(name, csv_files and csv_files[i], has_header)
        for i, name in enumerate(filenames)
    ]
    check_alike(filenames, opened)
    if not any(len(one.fids) for one in opened):
        raise common.InputError(f'{" and ".join(filenames)}: nothing to search in')
    embs = Joined([one.embs for one in opened])
    free = common.free_memory()
    if free is None or len(embs) * embs.shape[1] * embs.dtype.itemsize < free / 2:
        embs = embs[:]
    return Gallery(
        embs,
        *(
            np.concatenate([getattr(one, name) for one in opened])
            for name in ('pids', 'fids', 'roots')
        ),
        # What one of them does not say, another may.
        embedding_files.Origin(
            *(
                next((value for value in values if value is not None), None)
                for values in zip(*(one.origin for one in opened), strict=True)
            )
        ),
        list(filenames),
    )


def open_one(filename, csv_file, has_header):
    """Return the Gallery of one file; see load. What was skipped is left out."""
    opened = embedding_files.open_embeddings(filename)
    if csv_file is not None:
        dataset = datasets.read(csv_file, has_header)
        if len(dataset.fids) != len(opened.embs):
            raise common.InputError(
                f'{filename} has {len(opened.embs)} embeddings but {csv_file} has '
                f'{len(dataset.fids)} rows; give the CSV that was embedded'
            )
        if opened.fids is not None:
            embedding_files.check_fids(dataset.fids, opened.fids, csv_file, filename)
        pids, fids = dataset.pids, dataset.fids
    else:
        fids = opened.fids
        if fids is None:
            raise common.InputError(
                f'{filename} does not name its images; give --gallery_dataset'
            )
        pids = [None] * len(fids) if opened.pids is None else opened.pids
    pids, fids = (datasets.to_object_array(list(texts)) for texts in (pids, fids))
    with array_files.reading(filename, embedding_files.HDF5):
        embedding_files.check_numbers(opened.embs, fids, filename, opened.skipped)
    root = opened.attributes.get(embedding_files.IMAGE_ROOT)
    roots = np.full(len(fids), root, object)
    gallery = Gallery(
        *(opened.embs, pids, fids, roots),
        embedding_files.read_origin(opened.attributes, filename),
        [filename],
    )
    if not len(opened.skipped):
        return gallery
    return gallery.select(np.delete(np.arange(len(fids)), opened.skipped))


def fingerprint(images):
    """Return a text that differs where an embedding, PID or FID of a Gallery does."""
    embs, checksum = images.embs, 0
    for first in range(0, len(embs), ROWS_AT_ONCE):
        block = np.asarray(embs[first : first + ROWS_AT_ONCE])
        checksum = embedding_files.update_checksum(checksum, block[None])
    names = hashlib.sha256()
    for texts in (images.fids, images.pids):
        joined = '\n'.join('' if text is None else text for text in texts)
        names.update(joined.encode('utf-8', 'surrogateescape'))
    return f'{list(embs.shape)} {checksum:08x} {names.hexdigest()}'


def check_alike(filenames, opened):
    """Raise InputError unless files were embedded by one network in one way.

    Args:
        filenames: list of str.
        opened: list of their Galleries.
    """
    pairs = itertools.combinations(zip(filenames, opened, strict=True), 2)
    for (filename, one), (other_name, other) in pairs:
        if one.embs.shape[1] != other.embs.shape[1]:
            raise common.InputError(
                f'{other_name} has {other.embs.shape[1]} dimensions but {filename} has '
                f'{one.embs.shape[1]}; search files of one network'
            )
        if one.origin.has_other_weights(other.origin.weights):
            raise common.InputError(
                f'{other_name} was embedded by {other.origin.checkpoint} but '
                f'{filename} by {one.origin.checkpoint}, which has other weights; '
                'embed both with one checkpoint'
            )
        if one.origin.has_other_view(other.origin.view):
            views = [
                embedding_files.describe_view(each.origin.view) for each in (other, one)
            ]
            raise common.InputError(
                f'{other_name} was embedded with {views[0]} but {filename} with '
                f'{views[1]}; embed both alike'
            )
