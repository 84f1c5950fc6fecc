"""Ways to spoil a file: seeded, each a function of (rng, content, other) to bytes.

`content` is the file, `other` another sound one of its kind. What a file checks itself
(sums of records, of the members of an archive) is set right again where a way says so:
else nothing behind that check would ever be reached.
"""

import copy
import io
import json
import os
import pathlib
import struct
import tempfile
import zipfile

import h5py
import numpy as np
import tensorflow as tf

# What stands for a size, where it stands for one: none, negative, the largest.
SIZES = (0, 1, -1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1)

# What JSON has in the place of what was expected.
VALUES = (
    *(None, True, False, 0, -1, 3, 0.5, 1e308, -1e308, 1e-320, 10**400, 2**63),
    *(float('nan'), float('inf'), '', 'x', '128', 'soft', '\0', '\ud800', 'é\n'),
    *([], {}, [[]], [None], ['x'], [1, 'x'], [[1, 2], [3]], {'a': 1}, [0.5] * 3),
)


def place(rng, content):
    """Return a range of a file, (first, last + 1): short ones are as likely as long."""
    length = int(len(content) ** rng.random()) if content else 0
    first = int(rng.integers(0, len(content) - length + 1))
    return first, first + length


def flip(rng, content, other):
    """Change 1 to 8 bits."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def flip_header(rng, content, other):
    """Change bits of the first thousand bytes, where most formats say what is what."""
    first = flip(rng, content[:1000], other)
    return first + content[1000:]


def truncate(rng, content, other):
    """Keep the beginning."""
    return content[: place(rng, content)[0]]


def extend(rng, content, other):
    """Add bytes to the end."""
    return content + rng.bytes(int(rng.integers(1, 100)))


def zero(rng, content, other):
    """Replace a range by zeros."""
    first, last = place(rng, content)
    return content[:first] + bytes(last - first) + content[last:]


def scramble(rng, content, other):
    """Replace a range by random bytes."""
    first, last = place(rng, content)
    return content[:first] + rng.bytes(last - first) + content[last:]


def remove(rng, content, other):
    """Leave a range out."""
    first, last = place(rng, content)
    return content[:first] + content[last:]


def duplicate(rng, content, other):
    """Have a range twice, at another place."""
    first, last = place(rng, content)
    at = int(rng.integers(0, len(content) + 1))
    return content[:at] + content[first:last] + content[at:]


def overwrite(rng, content, other):
    """Copy a range over another place."""
    first, last = place(rng, content)
    at = int(rng.integers(0, len(content) + 1))
    return (content[:at] + content[first:last] + content[at + last - first :])[
        : len(content)
    ]


def splice(rng, content, other):
    """Begin as one file and end as another."""
    return content[: place(rng, content)[0]] + other[place(rng, other)[0] :]


def set_size(rng, content, other):
    """Write a size that is likely to be trouble over four or eight bytes."""
    changed = bytearray(content)
    width = int(rng.choice([4, 8]))
    # The first bytes are where most formats say how much there is.
    most = min(len(content), int(rng.choice([100, 1000, len(content) + 1])))
    at = int(rng.integers(0, max(1, most - width)))
    value = int(SIZES[rng.integers(len(SIZES))]) % 2 ** (8 * width)
    changed[at : at + width] = value.to_bytes(width, 'little')
    return bytes(changed)


BYTES = (
    *(flip, flip_header, truncate, extend, zero, scramble, remove, duplicate),
    *(overwrite, splice, set_size),
)


# --- JSON --------------------------------------------------------------------------


def list_places(value, path=()):
    """Yield the path of everything within what JSON can express."""
    yield path
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from list_places(inner, (*path, key))


def change_value(rng, value):
    """Return what JSON can express with one to three of its parts replaced."""
    value = json.loads(json.dumps(value))
    for _ in range(int(rng.integers(1, 4))):
        paths = list(list_places(value))
        path = paths[rng.integers(len(paths))]
        new = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        if not path:
            if rng.random() < 0.2:  # Or little else would be seen.
                return new
            continue
        owner = value
        for key in path[:-1]:
            owner = owner[key]
        if rng.random() < 0.2:
            del owner[path[-1]]
        else:
            owner[path[-1]] = new
    return value


def change_json(rng, content, other):
    """Replace values of a JSON file, most by some of another type."""
    return json.dumps(change_value(rng, json.loads(content))).encode()


def repeat_key(rng, content, other):
    """Have a key twice in a JSON object."""
    items = list(json.loads(content).items())
    name, value = items[rng.integers(len(items))]
    again = f'{{{json.dumps(name)}: {json.dumps(change_value(rng, value))}, '
    return (again + content.decode().strip()[1:]).encode()


# --- formats that check themselves -------------------------------------------------


def change_record(rng, content, other):
    """Spoil records of an event file, whose sums are right again."""
    records = list(split_records(content))
    for _ in range(int(rng.integers(1, 3))):
        i = int(rng.integers(len(records)))
        spoil = BYTES[rng.integers(len(BYTES))]
        records[i] = spoil(rng, records[i], records[rng.integers(len(records))])
    handle, filename = tempfile.mkstemp()
    os.close(handle)
    with tf.io.TFRecordWriter(filename) as writer:
        for record in records:
            writer.write(record)
    sealed = pathlib.Path(filename).read_bytes()
    os.remove(filename)
    return sealed


def split_records(content):
    """Yield the records of a TFRecord file: length, sum, record, sum."""
    at = 0
    while at + 12 <= len(content):
        (length,) = struct.unpack_from('<Q', content, at)
        yield content[at + 12 : at + 12 + length]
        at += 16 + length


def change_member(rng, content, other):
    """Spoil members of a zip archive, whose sums are right again."""
    members = read_members(content)
    name = list(members)[rng.integers(len(members))]
    choice = rng.random()
    if choice < 0.1:
        del members[name]
    elif choice < 0.2:
        members[f'{name[:2]}{rng.integers(9)}'] = members.pop(name)
    else:
        ways = (*BYTES, change_shape, change_shape)
        spoil = ways[rng.integers(len(ways))]
        members[name] = spoil(rng, members[name], members[next(iter(members))])
    target = io.BytesIO()
    method = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED][rng.integers(2)]
    with zipfile.ZipFile(target, 'w', method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


def change_shape(rng, content, other):
    """Let the header of a NumPy array claim another shape."""
    source = io.BytesIO(content)
    np.lib.format.read_magic(source)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(source)
    numbers = [*shape, 1]
    numbers[rng.integers(len(numbers))] = SIZES[rng.integers(len(SIZES))]
    header = {
        'descr': np.lib.format.dtype_to_descr(dtype),
        'fortran_order': is_fortran,
        'shape': tuple(numbers[: len(shape)] if len(shape) else numbers),
    }
    target = io.BytesIO()
    np.lib.format.write_array_header_1_0(target, header)
    return target.getvalue() + source.read()


def change_header(rng, content, other):
    """Spoil the header of a tar's member, whose sum is right again."""
    changed = bytearray(content)
    places = list(find_headers(content))
    place = places[rng.integers(len(places))]
    header = bytearray(content[place : place + 512])
    # Name, mode, size, time, kind, name of a link, and what GNU has of holes.
    fields = [(0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100)]
    fields.append((386, 109))
    first, length = fields[rng.integers(len(fields))]
    texts = [rng.bytes(length), b'', b'7' * length, b'\x80' + b'\xff' * (length - 1)]
    texts += [b'-1', b'1000', bytes([rng.choice([*b'0123456KLSVgx'])])]
    text = texts[rng.integers(len(texts))][:length]
    header[first : first + length] = text.ljust(length, b'\0')
    header[148:156] = b' ' * 8
    header[148:156] = b'%06o\0 ' % sum(header)
    changed[place : place + 512] = header
    return bytes(changed)


def find_headers(content):
    """Yield the places of the headers of a tar of short regular files."""
    place = 0
    while content[place : place + 1].strip(b'\0'):
        yield place
        size = int(content[place + 124 : place + 135], 8)
        place += 512 + -(-size // 512) * 512


def read_members(content):
    """Return {name: bytes} of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def change_attribute(rng, content, other):
    """Replace values in the JSON that an HDF5 file has as attributes."""
    target = io.BytesIO(content)
    with h5py.File(target, 'r+') as file:
        name = list(file.attrs)[rng.integers(len(file.attrs))]
        try:
            value = json.loads(file.attrs[name])
        except ValueError:
            value = file.attrs[name]
        changed = change_value(rng, value)
        text = json.dumps(changed) if rng.random() < 0.9 else 5
        file.attrs[name] = text
    return target.getvalue()


def change_dataset(rng, content, other):
    """Put another data set in the place of one of an HDF5 file."""
    target = io.BytesIO(content)
    with h5py.File(target, 'r+') as file:
        name = list(file)[rng.integers(len(file))]
        del file[name]
        shape = [(), (0,), (3,), (12, 8), (12, 0), (2, 2, 2)][rng.integers(6)]
        kind = ['f4', '>f8', 'i2', 'S5', 'c8', 'f2', 'O'][rng.integers(7)]
        choice = rng.random()
        if choice < 0.2:
            file.create_group(name)
        elif choice < 0.3:
            file[name] = h5py.Empty('f4')
        elif choice < 0.4:
            file[name] = h5py.SoftLink(['/embs', '/none', f'/{name}'][rng.integers(3)])
        elif choice < 0.6 and shape:
            huge = tuple(10 ** int(rng.integers(2, 9)) for _ in shape)
            file.create_dataset(name, huge, 'f4', chunks=True)
        elif kind == 'O':
            text = h5py.string_dtype()
            file.create_dataset(name, data=np.full(shape, 'x', object), dtype=text)
        else:
            file[name] = np.zeros(shape, kind)
    return target.getvalue()
