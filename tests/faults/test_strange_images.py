"""Images of every kind: each gives Pillow's pixels, or one line names it."""

import io
import logging
import multiprocessing
import os
import pathlib
import struct

import cv2
import doomed
import h5py
import numpy as np
import pytest
from PIL import Image

import bulk_embed
import common
import datasets
import embed
import export
import images
import make_csv
import run_args
import search
import tiny_run
import train
import trinet_embed
import visualize
from visuals import thumbnails

FAULTS = (
    'image of an unusual kind that can be read',
    'image that cannot be read',
    'JPEG damaged in its middle',
    'image that EXIF says is to be turned',
    'image of 20000 x 20000 pixels',
    'directory, pipe, loop of links or nothing in place of an image',
    'file name with newline, comma, quote, Unicode or 255 bytes',
    'FID that leads outside the image root',
)

HEIGHT, WIDTH = 23, 37  # Odd, so that rows of BMPs are padded.


@pytest.fixture(scope='module')
def pixels():
    """Return a smooth picture whose channels differ, uint8 [H, W, 3]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 11, columns * 6, 250 - rows * 5], 2).astype(np.uint8)


def save(image, suffix, **settings):
    """Return the bytes of a PIL image as a file of a format."""
    file = io.BytesIO()
    image.save(file, suffix, **settings)
    return file.getvalue()


def make_bmp(bits, body, packing=0, extra=b'', header=40):
    """Return the bytes of a BMP; `extra`, masks or a palette, comes before its body."""
    start = 14 + header + len(extra)
    head = struct.pack(
        '<IiiHHIIiiII', header, WIDTH, HEIGHT, 1, bits, packing, *[0] * 5
    )
    return (
        b'BM'
        + struct.pack('<IHHI', start + len(body), 0, 0, start)
        + (head + extra + body)
    )


PALETTE = bytes([10, 20, 30, 0, 200, 0, 0, 0, 0, 200, 0, 0, 0, 0, 250, 0])


def readable(pixels):
    """Return {kind: (bytes, pixels expected or None: Pillow's, tolerance)}."""
    image = Image.fromarray(pixels)
    other = Image.fromarray(255 - pixels)
    alpha = np.dstack([pixels, pixels[..., :1]])
    deep = pixels.astype(np.uint16) * 257
    padded = np.dstack([pixels[::-1, :, ::-1], pixels[..., 0]]).tobytes()
    masks = struct.pack('<III', 0xFF0000, 0xFF00, 0xFF)
    grey = pixels[..., :1].repeat(3, 2)

    def png(array):
        return cv2.imencode('.png', array)[1].tobytes()

    # Fast and exact transforms of JPEG differ by some levels, upsampling included; the
    # channels of the picture differ by a hundred.
    return {
        'BMP of a palette': (save(image.convert('P'), 'BMP'), None, 0),
        'BMP of a short palette': (
            make_bmp(8, (b'\0\1\2\3' * 10) * HEIGHT, extra=PALETTE),
            np.tile(
                np.frombuffer(PALETTE, np.uint8).reshape(4, 4)[:, 2::-1][
                    np.arange(WIDTH) % 4
                ],
                (HEIGHT, 1, 1),
            ),
            0,
        ),
        'grey BMP': (save(image.convert('L'), 'BMP'), None, 0),
        'BMP of 24 bits': (save(image, 'BMP'), None, 0),
        'BMP of 32 bits': (make_bmp(32, padded), pixels, 0),
        'BMP of 32 bits with masks': (make_bmp(32, padded, 3, masks), pixels, 0),
        'PNG of a palette': (save(image.convert('P'), 'PNG'), None, 0),
        'PNG of 1 bit': (save(image.convert('1'), 'PNG'), None, 0),
        'PNG of 16 bits': (png(deep[..., ::-1]), pixels, 0),
        # Pillow clips these; their upper bytes are the picture.
        'grey PNG of 16 bits': (png(deep[..., 0]), grey, 0),
        'PNG with alpha': (save(Image.fromarray(alpha), 'PNG'), pixels, 0),
        'grey PNG with alpha': (save(image.convert('LA'), 'PNG'), None, 0),
        'animated GIF': (
            save(image, 'GIF', save_all=True, append_images=[other]),
            None,
            0,
        ),
        'WebP': (save(image, 'WEBP', lossless=True), pixels, 0),
        'JPEG': (save(image, 'JPEG', quality=95), None, 16),
        'grey JPEG': (save(image.convert('L'), 'JPEG', quality=95), None, 16),
        'CMYK JPEG': (save(image.convert('CMYK'), 'JPEG', quality=95), None, 16),
        'progressive JPEG': (save(image, 'JPEG', progressive=True), None, 16),
        'image of 1x1': (save(image.crop((3, 3, 4, 4)), 'PNG'), pixels[3:4, 3:4], 0),
    }


def refused(pixels):
    """Return {kind: (bytes, what the reason says)}."""
    image = Image.fromarray(pixels)
    alpha = Image.fromarray(np.dstack([pixels, pixels[..., :1]]))
    jpeg, png = save(image, 'JPEG'), save(image, 'PNG')
    swapped = struct.pack('<III', 0xFF, 0xFF00, 0xFF0000)
    old = struct.pack('<IHHHH', 12, WIDTH, HEIGHT, 1, 24)
    # Its pixels look as if the header of 40 bytes went on: no packing, 24 bits.
    body = (b'\x01\0\x18\0' + b'\0' * 108) * HEIGHT
    bmp = {
        'BMP of 1 bit': (save(image.convert('1'), 'BMP'), 'of 1 bits'),
        'BMP of 4 bits': (make_bmp(4, bytes(20 * HEIGHT), extra=PALETTE), 'of 4 bits'),
        'BMP of 16 bits': (make_bmp(16, bytes(76 * HEIGHT)), 'of 16 bits'),
        # As long as it would be without compression.
        'compressed BMP': (
            make_bmp(8, bytes(40 * HEIGHT), 1, PALETTE),
            'compression 1',
        ),
        'BMP of masks': (
            make_bmp(32, bytes(148 * HEIGHT), 3, swapped),
            'compression 3',
        ),
        'BMP of OS/2': (
            b'BM' + struct.pack('<IHHI', 0, 0, 0, 26) + old + body,
            'a BMP of OS/2',
        ),
    }
    return bmp | {
        'index beyond the palette': (
            make_bmp(8, b'\xff' * 40 * HEIGHT, extra=PALETTE),
            'indices',
        ),
        'truncated BMP': (save(image, 'BMP')[:-50], 'size'),
        'header of a BMP': (save(image, 'BMP')[:20], 'Incomplete'),
        'truncated JPEG': (jpeg[:-100], 'JPEG'),
        'truncated PNG': (png[:-100], 'PNG'),
        'no bytes': (b'', 'the file is empty'),
        'TIFF': (save(image, 'TIFF'), 'format'),
        'text': (b'not an image at all\n', 'format'),
        'WebP with alpha': (save(alpha, 'WEBP'), 'channels'),
    }


def test_what_is_read_has_the_pixels_of_pillow(tmp_path, pixels, reliability):
    kinds = readable(pixels)
    for kind, (content, expected, tolerance) in kinds.items():
        # The content counts, not the suffix.
        (tmp_path / 'image.jpg').write_bytes(content)
        if expected is None:
            expected = np.array(Image.open(io.BytesIO(content)).convert('RGB'))
        image = images.decode(str(tmp_path / 'image.jpg')).numpy()
        assert image.shape == expected.shape, kind
        error = np.abs(image.astype(int) - expected).max()
        assert error <= tolerance, (kind, error)
    reliability.add(
        fault=FAULTS[0],
        times=len(kinds),
        how='drawn, saved as ' + ', '.join(kinds) + ', all with a wrong suffix',
        lost='nothing',
        seen='nothing; values equal those of Pillow (JPEG: but for rounding)',
    )


def test_what_is_not_read_is_named_with_the_reason(tmp_path, pixels, reliability):
    kinds = refused(pixels)
    for kind, (content, reason) in kinds.items():
        filename = tmp_path / 'image.png'
        filename.write_bytes(content)
        found = images.find_unreadable([str(filename)])
        assert found is not None, kind
        assert found[0] == str(filename)
        assert reason in found[1], (kind, found)
        assert '\n' not in found[1]
        assert ('convert it to PNG' in found[1]) == (
            'BMP' in kind and 'truncated' not in kind and 'header' not in kind
        ), (kind, found)
    reliability.add(
        fault=FAULTS[1],
        times=len(kinds),
        how=', '.join(kinds),
        lost='nothing: refused',
        seen='one line with the name and the reason',
    )


def check(filenames, caplog):
    """Return the lines that images.check_all logs."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        images.check_all(list(map(str, filenames)), logging.getLogger('test'), True)
    return [record.message for record in caplog.records]


def damage_jpeg():
    """Return the bytes of a JPEG, and those with a damage in their middle."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    whole = save(Image.fromarray(cv2.resize(noise, (120, 200))), 'JPEG', quality=90)
    return whole, whole[:2000] + bytes(300) + whole[2300:]


COMPLAINT = 'Corrupt JPEG data: premature end of data segment'
DAMAGED = f'it gives an image, but is damaged ({COMPLAINT})'


def test_a_jpeg_damaged_in_its_middle_is_found(tmp_path, caplog, capfd, reliability):
    good, bad = tmp_path / 'good.jpg', tmp_path / 'bad.jpg'
    for path, content in zip((good, bad), damage_jpeg(), strict=True):
        path.write_bytes(content)
    assert check([good], caplog) == []
    assert check([good, bad, good], caplog) == [f'{bad}: {DAMAGED}']
    assert capfd.readouterr().err == ''  # No line of libjpeg's without a name.
    reliability.add(
        fault=FAULTS[2],
        times=1,
        how='300 bytes of a drawn image set to 0; --check_images',
        lost='what the damage hides',
        seen='--check_images names it; in training, a bare line of libjpeg',
    )


def test_a_rotation_in_exif_is_ignored_and_counted(
    tmp_path, pixels, caplog, reliability
):
    plain, turned = tmp_path / 'plain.png', tmp_path / 'turned.png'
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 1
    plain.write_bytes(save(Image.fromarray(pixels), 'PNG', exif=exif))
    for way in range(2, 9):
        exif[images.EXIF_ORIENTATION] = way
        content = save(Image.fromarray(pixels), 'PNG', exif=exif)
        turned.write_bytes(content)
        np.testing.assert_array_equal(images.decode(str(turned)), pixels)
        (line,) = check([plain, turned], caplog)
        assert line.startswith('1 of 2 images say in EXIF that they are to be turned')
        assert f'(first: {turned})' in line
    # What docs/own_images.md says of the pictures: OpenCV turns them. 6 and 8 lie down.
    exif[images.EXIF_ORIENTATION] = 6
    lying = tmp_path / 'lying.jpg'
    lying.write_bytes(save(Image.fromarray(pixels), 'JPEG', exif=exif))
    assert images.decode(str(lying)).shape == (HEIGHT, WIDTH, 3)
    assert thumbnails.read_image(tmp_path, 'lying.jpg').shape == (WIDTH, HEIGHT, 3)
    reliability.add(
        fault=FAULTS[3],
        times=7,
        how='every value of the tag',
        lost='the rotation, as in the original',
        seen='nothing; --check_images counts such images and names the first',
    )


def measure_reading(filenames, sender):
    """Send (image [4, 2, 3], peak of this process's memory in bytes) of each file."""
    for filename in filenames:
        image = images.read_image(filename, 4, 2).numpy()
        lines = pathlib.Path('/proc/self/status').read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith('VmHWM'))
        sender.send((image, int(peak) * 1024))


def test_a_huge_image_takes_its_pixels_and_no_more(tmp_path, every_fault, reliability):
    side = 20000 if every_fault else 3000
    filename = tmp_path / 'huge.png'
    Image.new('1', (side, side), 1).save(filename)
    small = tmp_path / 'small.png'
    tiny_run.write_noise(small, 0)
    # In a process of its own: its peak is no other test's.
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = doomed.start_server().Process(
        target=measure_reading, args=([str(small), str(filename)], sender)
    )
    process.start()
    sender.close()
    (_, before), (image, after) = receiver.recv(), receiver.recv()
    process.join()
    np.testing.assert_array_equal(image, np.full((4, 2, 3), 255))
    # Three bytes a pixel; as much again for what surrounds them.
    pixels = 3 * side**2
    assert pixels < after - before < 2 * pixels + 2**26
    reliability.add(
        fault=FAULTS[4],
        times=1,
        how=f'a PNG of {side} x {side}',
        lost='nothing',
        seen='nothing; its memory is three bytes a pixel for each loading thread',
    )


def test_what_is_no_file_is_named_and_nothing_waits_for_it(tmp_path, reliability):
    (tmp_path / 'directory.jpg').mkdir()
    os.mkfifo(tmp_path / 'pipe.jpg')
    (tmp_path / 'loop.jpg').symlink_to('loop.jpg')
    names = ['directory.jpg', 'pipe.jpg', 'loop.jpg', 'nothing.jpg']
    for name in names:
        filename = str(tmp_path / name)
        reason = 'the file does not exist' if name == 'nothing.jpg' else 'it is no file'
        assert images.find_unreadable([filename]) == (filename, reason)
        with pytest.raises(common.InputError, match='1 of 1 images cannot be read'):
            images.check_all([filename], logging.getLogger('test'), True)
        with pytest.raises(common.MissingFileError) as raised:
            datasets.check_images_exist('x.csv', [name], str(tmp_path))
        assert filename in str(raised.value)
        with pytest.raises(common.MissingFileError, match='is missing'):
            thumbnails.read_image(tmp_path, name)
        with pytest.raises((OSError, common.InputError)) as raised:
            trinet_embed.read_image(filename)
        assert filename in common.describe_error(raised.value)
    reliability.add(
        fault=FAULTS[5],
        times=len(names),
        how=', '.join(names),
        lost='nothing: refused',
        seen='one line with the name; no command waits for a pipe',
    )


def test_odd_names_are_names(tmp_path, pixels, reliability):
    names = [
        'a\nb.png',
        'a,b.png',
        'a"b.png',
        'ä 人 😀.png',
        ' x .png',
        'x' * 251 + '.png',
    ]
    content = save(Image.fromarray(pixels), 'PNG')
    for name in names:
        (tmp_path / name).write_bytes(content)
    quoted = ('"' + name.replace('"', '""') + '"' for name in names)
    csv_file = tmp_path / 'odd.csv'
    csv_file.write_text(''.join(f'1,{name}\n' for name in quoted), encoding='utf-8')
    dataset = datasets.read(str(csv_file))
    assert list(dataset.fids) == names
    datasets.check_inside(csv_file, dataset.fids, str(tmp_path))
    datasets.check_images_exist(csv_file, dataset.fids, str(tmp_path))
    for filename in datasets.join_paths(str(tmp_path), dataset.fids):
        np.testing.assert_array_equal(images.decode(filename), pixels)
    reliability.add(
        fault=FAULTS[6],
        times=len(names),
        how='in a CSV, quoted',
        lost='nothing',
        seen='nothing: the image is read',
    )


# --- all of them, by the command -------------------------------------------------

ODD = (
    *('line\nbreak', 'return\rof a carriage', 'comma,', '"quotes"', "'", 'ä 人 😀'),
    *(' space ', 'tab\t', 'red \x1b[31m', 'bell\x07', 'next\x85line', 'line\u2028end'),
    *('title \x1b]0;x\x07', 'back\\slash', '{}', '%s'),
)


def write_strangers(directory, pixels):
    """Write an image of every kind, and strange.csv, which names them.

    Args:
        directory: pathlib.Path.
        pixels: uint8 [H, W, 3].

    Returns:
        {FID: None, or how the reason begins why it is none}.
    """
    png = save(Image.fromarray(pixels), 'PNG')
    contents = {f'{kind}.jpg': (one[0], None) for kind, one in readable(pixels).items()}
    for kind, one in refused(pixels).items():
        contents[f'{kind.replace("/", " ")}.png'] = (one[0], '')
    contents['damaged.jpg'] = (damage_jpeg()[1], None)
    contents['x' * 251 + '.png'] = (png, None)
    for name in ODD:
        contents |= {
            f'{name}.png': (png, None),
            f'{name}.bad.png': (b'', 'the file is'),
        }
    for name, (content, _) in contents.items():
        (directory / name).write_bytes(content)
    (directory / 'directory.jpg').mkdir()
    os.mkfifo(directory / 'pipe.jpg')
    (directory / 'loop.jpg').symlink_to('loop.jpg')
    reasons = {name: reason for name, (_, reason) in contents.items()}
    reasons |= dict.fromkeys(['directory.jpg', 'pipe.jpg', 'loop.jpg'], 'it is no file')
    reasons['nothing.jpg'] = 'the file does not exist'
    quoted = ('"' + name.replace('"', '""') + '"' for name in reasons)
    text = ''.join(f'1,{name}\n' for name in quoted)
    (directory / 'strange.csv').write_bytes(text.encode())
    return reasons


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Return the experiment root of a run of one iteration."""
    directory = tmp_path_factory.mktemp('run')
    with tiny_run.trained(directory, '--train_iterations', '1'):
        return directory / 'root'


@pytest.mark.parametrize('more', [(), ('--check_images',)], ids=['', 'check'])
def test_every_strange_image_is_embedded_or_named_in_one_line(
    root, tmp_path, pixels, more, reliability
):
    reasons = write_strangers(tmp_path, pixels)
    bad = {fid: reason for fid, reason in reasons.items() if reason is not None}
    outcome = doomed.run(
        'embed',
        [
            *('--experiment_root', str(root), '--image_root', str(tmp_path)),
            *('--dataset', str(tmp_path / 'strange.csv'), '--batch_size', '7'),
            *('--on_bad_image', 'skip', '--quiet', *more),
            *('--filename', str(tmp_path / 'embs.h5')),
        ],
    )
    assert outcome.code == 0, outcome.said
    with h5py.File(tmp_path / 'embs.h5') as file:
        names = [name.decode() for name in file['fid'][:]]
        is_finite = np.isfinite(file['emb'][:]).all(axis=1)
        skipped = [names[row] for row in file['skipped'][:]]
    assert names == list(reasons)
    assert [n for n, is_good in zip(names, is_finite, strict=True) if not is_good] == (
        skipped
    )
    assert skipped == list(bad)
    lines = outcome.said.rstrip('\n').split('\n')
    assert all(line.isprintable() for line in lines)
    for fid, reason in bad.items():
        start = show(f'{fid} is skipped: {reason}')
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    named = [line for line in lines if ' is skipped: ' in line]
    assert len(named) == len(bad)
    others = [line for line in lines if line not in named]
    # What libjpeg says by itself has no name. While another image is looked at, it is
    # not heard.
    assert [line for line in others if line != COMPLAINT] == [
        *([f'{tmp_path}/damaged.jpg: {DAMAGED}'] if more else []),
        f'{len(bad)} of {len(names)} images skipped (first: {next(iter(bad))}); their '
        'rows are NaN',
    ]
    counts = {FAULTS[1]: len(refused(pixels)), FAULTS[5]: 4, FAULTS[6]: len(ODD)}
    for fault, times in counts.items():
        reliability.add(
            fault=fault,
            times=times,
            how='all of these in one CSV, among images that can be read; embed.py '
            '--on_bad_image skip, with --check_images and without',
            lost='nothing: every other row is there',
            seen='one line for each that is skipped, with the name and the reason',
        )


def show(name):
    """Return a name as messages have it: backslashes for what is no character."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


# --- the image root --------------------------------------------------------------


@pytest.fixture
def places(tmp_path):
    """Return a directory with a root, a link to it, and images in and beside it."""
    for name in ('root/a', 'root/b', 'root2', 'beside'):
        (tmp_path / name).mkdir(parents=True)
    for name in ('root/a/in.png', 'root2/out.png', 'beside/out.png'):
        tiny_run.write_noise(tmp_path / name, 0)
    (tmp_path / 'link').symlink_to('root')
    (tmp_path / 'root/b/file_out.png').symlink_to('../../beside/out.png')
    (tmp_path / 'root/b/file_in.png').symlink_to('../a/in.png')
    (tmp_path / 'root/folder_out').symlink_to('../beside')
    (tmp_path / 'root/folder_in').symlink_to('a')
    return tmp_path


@pytest.mark.parametrize('root', ['root', 'link', 'root/'])
def test_fids_stay_in_the_image_root(places, root):
    image_root = os.path.join(places, root)
    inside = [
        *('a/in.png', 'a/../a/in.png', 'b/file_in.png', 'folder_in/in.png'),
        *(f'{places}/root/a/in.png', f'{places}/link/a/in.png', '../root/a/in.png'),
        'not/there.png',
    ]
    datasets.check_inside('x.csv', inside, image_root)
    outside = [
        *('../beside/out.png', 'a/../../beside/out.png', f'{places}/beside/out.png'),
        *('../root2/out.png', 'b/file_out.png', 'folder_out/out.png', '/etc/hostname'),
        *('a/../..', '..'),
    ]
    for fid in outside:
        with pytest.raises(common.InputError) as raised:
            datasets.check_inside('x.csv', [*inside, fid], image_root)
        assert str(raised.value) == (
            f'1 image(s) in x.csv are outside the image root {image_root} (first: '
            f'{fid}); if you trust that file, add --allow_outside_image_root'
        )
    datasets.check_inside('x.csv', outside, image_root, is_allowed=True)


def test_every_absolute_path_is_in_the_root_of_all(places):
    datasets.check_inside('x.csv', [f'{places}/beside/out.png'], '/')


@pytest.mark.parametrize('fid', ['a\0.png', 'a\0/b.png'])
def test_name_that_no_file_can_have_is_told(tmp_path, fid):
    with pytest.raises(common.InputError, match=r"^x.txt names 'a\\x00.*correct it$"):
        datasets.check_inside('x.txt', ['b.png', fid], str(tmp_path))
    message = r'^1 of 1 images in x.txt are missing'
    with pytest.raises(common.InputError, match=message):
        datasets.check_images_exist(
            'x.txt', np.array([fid], object), str(tmp_path), is_csv=False
        )


ALLOW = '--allow_outside_image_root'
REFUSAL = r'12 image\(s\) in .*train.* are outside .*add ' + ALLOW

# Both tests of commands give their part of this row.
OUTSIDE = {
    'fault': FAULTS[7],
    'how': '`..`, absolute, links; train.py, --resume, --val_set, embed.py, '
    'visualize.py and its projector, export.py, trinet_embed.py, bulk_embed.py, '
    'make_csv.py table and split, search.py --picture and --serve',
    'lost': 'nothing: refused',
    'seen': 'one line that names the first and the flag that allows it',
}


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """Return a directory of images with an inner one, that train.csv leads out of."""
    tiny_run.shrink_net(monkeypatch)
    tiny_run.write_dataset(tmp_path)
    (tmp_path / 'inner').mkdir()
    tiny_run.write_noise(tmp_path / 'inner' / 'in.png', 0)
    lines = (tmp_path / 'train.csv').read_text()
    (tmp_path / 'inside.csv').write_text(lines)
    (tmp_path / 'train.csv').write_text(lines.replace(',', ',../'))
    return tmp_path


def start_elsewhere(directory, root, *more):
    """Train one iteration on images that are not in the image root."""
    elsewhere = ('--image_root', str(directory / 'inner'))
    tiny_run.start(directory, root, *elsewhere, '--train_iterations', '1', *more)


def test_commands_refuse_fids_outside_unless_told_otherwise(strangers, reliability):
    root, csv_file = strangers / 'run', str(strangers / 'train.csv')
    with pytest.raises(common.InputError, match=REFUSAL):
        start_elsewhere(strangers, root)
    assert not root.exists()
    start_elsewhere(strangers, root, ALLOW)
    assert run_args.read(root)['allow_outside_image_root'] is True
    tiny_run.resume(root, '--train_iterations', '2')
    # A run of before this flag, or of the original.
    args = run_args.read(root)
    del args['allow_outside_image_root']
    common.write_json(root / 'args.json', args)
    with pytest.raises(common.InputError, match=REFUSAL):
        tiny_run.resume(root, '--train_iterations', '3')
    common.write_json(root / 'args.json', args | {ALLOW.removeprefix('--'): False})
    tiny_run.resume(root, '--train_iterations', '3', ALLOW)
    words = ['--experiment_root', str(root), '--dataset', csv_file, '--quiet']
    with pytest.raises(common.InputError, match=REFUSAL):
        embed.main(words)
    embed.main([*words, ALLOW])
    assert (root / 'train_embeddings.h5').exists()

    with pytest.raises(common.InputError, match=REFUSAL):
        train.main(
            [
                *tiny_run.flags(strangers, strangers / 'other'),
                *('--train_set', str(strangers / 'inside.csv'), '--val_set', csv_file),
                *('--val_excluder', 'diagonal'),
                *('--val_image_root', str(strangers / 'inner')),
            ]
        )
    reliability.add(times=5, **OUTSIDE)


class WouldOpenError(Exception):
    """Images would be opened now."""


def list_commands(directory, root):
    """Return the commands that show images or hand them on.

    Args:
        directory: of `strangers`.
        root: of a run on its images, with their embeddings.

    Returns:
        list of (main, flags, name of what opens images, or comes before that).
    """
    csv_file, embs = str(directory / 'train.csv'), str(root / 'train_embeddings.h5')
    elsewhere = ('--image_root', str(directory / 'inner'))
    run = ('--experiment_root', str(root))
    scores = [
        *('--query_dataset', csv_file, '--query_embeddings', embs, *elsewhere),
        *('--gallery_dataset', csv_file, '--gallery_embeddings', embs),
        *('--excluder', 'diagonal', '--filename', str(directory / 'x.html')),
    ]
    dots = ['--dataset', csv_file, '--embeddings', embs, *elsewhere]
    dots += ['--output_dir', str(directory / 'dots')]
    names = directory / 'train.txt'
    names.write_text(''.join(f'../{path.name}\n' for path in directory.glob('*.png')))
    weights = directory / 'weights.npz'
    weights.touch()
    sets = ['--query_dataset', csv_file, '--gallery_dataset', csv_file]
    sets += ['--excluder', 'diagonal']
    (directory / 'one.csv').write_text('0,in.png\n')
    exported = [*run, '--format', 'saved_model', '--check_images']
    found = [str(directory / '0_0.png'), '--gallery', embs, *run]
    bulk = [*run, '--input', csv_file, '--output', str(directory / 'parts')]
    table = directory / 'train_table.csv'
    table.write_text('pid,fid\n' + (directory / 'train.csv').read_text())
    made = [*elsewhere, '--check_images', '--output_dir', str(directory / 'made')]
    return [
        (
            make_csv.main,
            ['table', str(table), *made, '--pid_column', 'pid', '--fid_column', 'fid'],
            'make_csv.check_images',
        ),
        (
            make_csv.main,
            ['split', csv_file, *made, '--val_pids', '1', '--excluder', 'diagonal'],
            'make_csv.check_images',
        ),
        (visualize.main, scores, 'visualize.find_queries'),
        (visualize.main, ['projector', *dots], 'visualize.choose_rows'),
        (export.main, [*exported, csv_file], 'export.open_run'),
        (
            *(export.main, [*exported, str(directory / 'one.csv'), *sets]),
            'export.open_run',
        ),
        (
            *(trinet_embed.main, [str(names), str(weights), *elsewhere]),
            'trinet_embed._trinet.read_weights',
        ),
        (bulk_embed.main, bulk, 'bulk_embed.find_network'),
        (search.main, [*found, '--picture', str(directory / 'x.png')], 'search.draw'),
        (search.main, [*found[1:], '--serve', '0'], 'search.server.serve'),
    ]


def test_what_shows_images_or_hands_them_on_refuses_fids_outside(
    strangers, monkeypatch, capsys, reliability
):
    root = strangers / 'run'
    start_elsewhere(strangers, root, ALLOW)
    dataset = str(strangers / 'train.csv')
    embed.main(['--experiment_root', str(root), '--dataset', dataset, '--quiet', ALLOW])

    def stop(*_, **__):
        raise WouldOpenError

    commands = list_commands(strangers, root)
    for main, words, opens in commands:
        monkeypatch.setattr(opens, stop)
        with pytest.raises(common.InputError, match=REFUSAL):
            main(words)
        with pytest.raises(WouldOpenError):
            main([*words, ALLOW])
    # Their numbers and names may be looked at.
    _, found, _ = commands[-2]
    search.main([*found[: found.index('--picture')], '--json'])
    assert '"fid": "../0_0.png"' in capsys.readouterr().out.splitlines()[-1]
    reliability.add(times=len(commands), **OUTSIDE)
