"""The images of a collection, in parts: a folder, CSVs, Parquet, or tars of WebDataset.

Everything may be on any file system that PyArrow reads: a path, or an address such as
s3://bucket/photos. A part is listed once, small, and read where it is embedded.
"""

import contextlib
import os
import posixpath
import tarfile
import typing

import common
import datasets
import images
from array_files import import_pyarrow

KINDS = ('csv', 'folder', 'parquet', 'webdataset')
KIND_OF_SUFFIX = {'.csv': 'csv', '.parquet': 'parquet', '.tar': 'webdataset'}

# What a row of Parquet may call its image: the content of a file, or where it is.
CONTENT_COLUMNS, PATH_COLUMNS = ('bytes', 'image', 'jpg'), ('path', 'fid')

# What holds the PID beside an image of a WebDataset.
PID_SUFFIXES = ('.pid', '.cls', '.txt')


@contextlib.contextmanager
def reaching(place):
    """Let what PyArrow raises of a place be an InputError that names it."""
    pyarrow = import_pyarrow()
    try:
        yield
    except common.InputError:
        raise
    except (OSError, EOFError, tarfile.TarError, pyarrow.ArrowException) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        raise common.InputError(
            f'{place} is damaged, or cannot be read or written ({reason}); check it, '
            'or copy it again'
        ) from error


class Part(typing.NamedTuple):
    """Images that are embedded as a whole.

    Attributes:
        kind: 'files', 'parquet' or 'tar'.
        where: directory of the files, or the name of the Parquet file or the tar.
        fids: list [n] of str, names below that directory, or None: `where` has them.
        pids: list [n] of str, or None.
        first, last: of Parquet, its row groups, the last one not included.
        allows_outside: whether paths in Parquet may leave the file's directory.
    """

    kind: str
    where: str
    fids: list | None = None
    pids: list | None = None
    first: int = 0
    last: int = 0
    allows_outside: bool = False


class Item(typing.NamedTuple):
    """An image of a part.

    Attributes:
        fid: its name.
        pid: str, or None.
        read: function of nothing that returns the content of its file. It raises
            FileNotFoundError if there is none, and OSErrors that may pass.
    """

    fid: str
    pid: str | None
    read: typing.Callable


def open_file_system(place):
    """Return (pyarrow.fs.FileSystem, path) of a path or an address.

    Raises:
        InputError: there is no such file system.
    """
    import_pyarrow()
    from pyarrow import fs

    if '://' not in place:
        return fs.LocalFileSystem(), os.path.abspath(place)
    try:
        return fs.FileSystem.from_uri(place)
    except (ValueError, OSError) as error:
        raise common.InputError(
            f'{place} is on no file system that PyArrow reads ({error})'
        ) from error


def choose_kind(places):
    """Return the kind of inputs, by how their names end.

    Raises:
        InputError: they are of several kinds.
    """
    kinds = {
        KIND_OF_SUFFIX.get(posixpath.splitext(place)[1].lower(), 'folder')
        for place in places
    }
    if len(kinds) > 1:
        raise common.InputError(
            f'--input has {" and ".join(sorted(kinds))}; give one kind at a time, or '
            'say with --kind what they are'
        )
    return kinds.pop()


def list_parts(
    kind, places, image_root, has_header, rows_per_part, allows_outside=False
):
    """Return the list of Part of some inputs, in their order.

    Args:
        kind: one of KINDS.
        places: list of str, paths or addresses.
        image_root: directory that the FIDs of CSVs are relative to.
        has_header: whether the first line of a CSV names its columns.
        rows_per_part: images of a part, at most; a tar, and a row group of Parquet,
            may have more.
        allows_outside: whether FIDs may leave their directory.

    Raises:
        FileNotFoundError, InputError: an input is missing, wrong or empty.
    """
    listers = {
        'csv': lambda place: list_csv(place, image_root, has_header, allows_outside),
        'folder': list_folder,
        'parquet': lambda place: list_parquet(place, rows_per_part),
        'webdataset': lambda place: [Part('tar', place)],
    }
    parts = []
    for place in places:
        filesystem, path = open_file_system(place)
        with reaching(place):
            info = filesystem.get_file_info(path)
            if info.type.name == 'NotFound':
                raise common.MissingFileError(f'{place} does not exist; check --input')
            if kind == 'folder' and info.is_file:
                raise common.InputError(
                    f'{place} is a file; expected a folder, or the end .csv, .parquet '
                    'or .tar (not compressed)'
                )
            for part in listers[kind](place):
                parts += split(
                    part._replace(allows_outside=allows_outside), rows_per_part
                )
    refuse_odd_names(parts)
    return parts


def refuse_odd_names(parts):
    """Raise InputError if a name is no UTF-8: Parquet's texts are."""
    odd = [
        fid
        for part in parts
        for fid in part.fids or ()
        if not fid.isascii() and fid != fid.encode(errors='replace').decode()
    ]
    if odd:
        raise common.InputError(
            f'{len(odd)} names of images are not UTF-8 (first: {odd[0]!r}); rename them'
        )


def split(part, rows_per_part):
    """Return a Part of many files as several."""
    if part.fids is None:
        return [part]
    return [
        part._replace(
            fids=part.fids[first : first + rows_per_part],
            pids=part.pids and part.pids[first : first + rows_per_part],
        )
        for first in range(0, len(part.fids), rows_per_part)
    ]


def list_csv(place, image_root, has_header, allows_outside):
    """Return the Part of a CSV, in its order."""
    if '://' in place:
        raise common.InputError(
            f'{place}: a CSV has to be on this machine; its images need not be '
            '(--image_root)'
        )
    dataset = datasets.read(place, has_header, image_root)
    if '://' not in image_root:
        datasets.check_inside(place, dataset.fids, image_root, allows_outside)
    return [Part('files', image_root, dataset.fids.tolist(), dataset.pids.tolist())]


def list_folder(place):
    """Return the Part of the images below a directory, in the order of their names.

    What is hidden is left alone, and so are folders that are links.
    """
    from pyarrow import fs

    filesystem, path = open_file_system(place)
    if filesystem.type_name == 'local':
        names = [
            os.path.relpath(os.path.join(directory, name), path)
            for directory, _, found in os.walk(path)
            for name in found
        ]
    else:
        selector = fs.FileSelector(path, recursive=True)
        names = [
            posixpath.relpath(info.path, path)
            for info in filesystem.get_file_info(selector)
            if info.is_file
        ]
    found = sorted(
        name
        for name in names
        if images.is_image_name(posixpath.basename(name))
        and not any(folder.startswith('.') for folder in name.split('/'))
    )
    if not found:
        raise common.InputError(
            f'{place} has no images; expected files {", ".join(images.SUFFIXES)} in it '
            'or below it'
        )
    return [Part('files', place, found)]


def list_parquet(place, rows_per_part):
    """Return the Parts of a Parquet file: row groups, as many as fit."""
    pyarrow = import_pyarrow()
    filesystem, path = open_file_system(place)
    with filesystem.open_input_file(path) as source:
        try:
            metadata = pyarrow.parquet.ParquetFile(source).metadata
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise common.InputError(f'{place} is no Parquet file ({error})') from error
        choose_columns(metadata.schema.to_arrow_schema().names, place)
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if not sum(sizes):  # Spark writes such files.
        return []
    parts, first, count = [], 0, 0
    for i, size in enumerate(sizes):
        if count and count + size > rows_per_part:
            parts.append(Part('parquet', place, first=first, last=i))
            first, count = i, 0
        count += size
    return [*parts, Part('parquet', place, first=first, last=len(sizes))]


def choose_columns(names, place):
    """Return (column of the content or None, column of the path or None).

    Raises:
        InputError: there is neither.
    """
    content = next((name for name in CONTENT_COLUMNS if name in names), None)
    path = next((name for name in PATH_COLUMNS if name in names), None)
    if content is None and path is None:
        raise common.InputError(
            f'{place} has no images; expected a column '
            f'{", ".join(CONTENT_COLUMNS)} (content) or {", ".join(PATH_COLUMNS)}, '
            f'found {", ".join(names)}'
        )
    return content, path


# --- reading a part ---------------------------------------------------------------


def read(part):
    """Yield the Items of a Part, in order.

    Raises:
        InputError: what has them is damaged.
    """
    readers = {'files': read_files, 'parquet': read_parquet, 'tar': read_tar}
    with reaching(part.where):
        yield from readers[part.kind](part)


def read_files(part):
    """Yield the Items of a Part of files."""
    filesystem, root = open_file_system(part.where)
    pids = part.pids or [None] * len(part.fids)
    for fid, pid in zip(part.fids, pids, strict=True):
        yield Item(fid, pid, file_reader(filesystem, posixpath.join(root, fid)))


def file_reader(filesystem, path):
    """Return a function of nothing that returns what a file holds."""

    def read():
        # Reading a pipe might never end.
        if not filesystem.get_file_info(path).is_file:
            raise FileNotFoundError('the file does not exist')
        with filesystem.open_input_stream(path) as source:
            return source.read()

    return read


def read_parquet(part):
    """Yield the Items of row groups; paths are relative to the file's directory."""
    pyarrow = import_pyarrow()
    filesystem, path = open_file_system(part.where)
    with filesystem.open_input_file(path) as source:
        file = pyarrow.parquet.ParquetFile(source)
        names = file.schema_arrow.names
        content, place = choose_columns(names, part.where)
        wanted = [name for name in (content, place, 'pid', 'fid') if name in names]
        number = sum(file.metadata.row_group(i).num_rows for i in range(part.first))
        for group in range(part.first, part.last):
            rows = file.read_row_group(group, list(dict.fromkeys(wanted))).to_pylist()
            for row in rows:
                name = row.get('fid') or row.get(place) or f'{part.where}#{number}'
                pid = row.get('pid')
                reader = content_reader(row.get(content))
                if content is None and row[place] is not None:
                    check_inside(part, row[place])
                    inside = posixpath.join(posixpath.dirname(path), row[place])
                    reader = file_reader(filesystem, inside)
                yield Item(str(name), None if pid is None else str(pid), reader)
                number += 1


def check_inside(part, path):
    """Raise InputError if a path in a Parquet file leaves the file's directory."""
    is_outside = posixpath.isabs(path) or '..' in path.split('/')
    if is_outside and not part.allows_outside:
        raise common.InputError(
            f'{part.where} names {path}, outside its own directory; add '
            '--allow_outside_image_root if that is meant'
        )


def content_reader(content):
    """Return a function of nothing that returns a content that is there, or not."""
    if isinstance(content, dict):  # As Hugging Face stores images.
        content = content.get('bytes')

    def read():
        if not isinstance(content, bytes):
            raise FileNotFoundError('the row has no content')
        return content

    return read


def read_tar(part):
    """Yield the Items of a WebDataset's tar; what belongs to one image has one name."""
    filesystem, path = open_file_system(part.where)
    with (
        filesystem.open_input_stream(path) as source,
        tarfile.open(fileobj=source, mode='r|', tarinfo=Header) as archive,
    ):
        image, stem, pids = None, None, {}
        for member in archive:
            if not member.isfile():
                continue
            if member.issparse():  # Its holes may be larger than any memory.
                raise common.InputError(
                    f'{part.where} has {member.name} as a sparse file; pack it as it is'
                )
            name, suffix = posixpath.splitext(member.name)
            if name != stem:
                if image is not None:
                    yield Item(image[0], choose_pid(pids), image[1])
                image, stem, pids = None, name, {}
            content = archive.extractfile(member).read()
            if images.is_image_name(posixpath.basename(member.name)):
                if image is not None:
                    raise common.InputError(
                        f'{part.where} has two images of one name, {image[0]} and '
                        f'{member.name}; rename one'
                    )
                image = member.name, content_reader(content)
            elif suffix in PID_SUFFIXES:
                pids[suffix] = content.decode(errors='replace').strip()
        if image is not None:
            yield Item(image[0], choose_pid(pids), image[1])
        check_end(archive.fileobj)


class Header(tarfile.TarInfo):
    """The header of a tar's member; tarfile takes a damaged one for the tar's end."""

    @classmethod
    def fromtarfile(cls, archive):
        """Return the next header; see tarfile."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # It is the end.
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def check_end(source):
    """Raise ReadError if what follows the end of a tar is anything but zeros.

    Args:
        source: what is read from.
    """
    while rest := source.read(2**16):
        if any(rest):
            raise tarfile.ReadError('more follows its end')


def choose_pid(pids):
    """Return the PID of {suffix: text}, by the order of PID_SUFFIXES, or None."""
    return next((pids[suffix] for suffix in PID_SUFFIXES if suffix in pids), None)
