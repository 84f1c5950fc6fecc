"""trinet_embed.py: lists in, lines or HDF5 out; the net itself is in test_trinet.py."""

import os
import pathlib
import re
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest
import tensorflow as tf

import embedding_files
import evaluate
import trinet_embed
import trinet_recipe
from nets import _trinet

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'trinet.md'


def mean_colour_net(crops):
    """Stand in for the net: the mean blue, green and red of a crop, over and over."""
    colours = tf.reduce_mean(tf.cast(crops, tf.float32), axis=[1, 2])  # [A * B, 3]
    return tf.tile(colours, [1, 43])[:, : _trinet.EMBEDDING_DIM]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Return the working directory: with `weights.npz`, whose net averages colours."""
    monkeypatch.setattr(_trinet, 'read_weights', lambda filename: None)
    monkeypatch.setattr(_trinet, 'build_net', lambda weights: mean_colour_net)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'weights.npz').write_bytes(b'')
    return tmp_path


def write_image(filename, colour):
    """Write a PNG image of one colour, BGR or one number of grey."""
    pixels = np.full((40, 20, 3), colour, np.uint8)
    pathlib.Path(filename).write_bytes(cv2.imencode('.png', pixels)[1].tobytes())


def write_greys(directory, greys):
    """Write images grey0.png, grey1.png, ... and list.txt; return their names."""
    names = [f'grey{i}.png' for i in range(len(greys))]
    for name, grey in zip(names, greys, strict=True):
        write_image(directory / name, grey)
    (directory / 'list.txt').write_text(''.join(f'{name}\n' for name in names))
    return names


def embed(*flags):
    """Run the command on list.txt."""
    trinet_embed.main(['list.txt', 'weights.npz', *flags])


def parse_lines(text):
    """Return (names, embeddings [N, D]) of what the command printed."""
    rows = [line.split(',') for line in text.splitlines()]
    return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)


# --- stdout ----------------------------------------------------------------------


def test_command_prints_what_the_original_printed(tmp_path):
    weights = tmp_path / 'weights.npz'
    np.savez(weights, *trinet_recipe.make_arrays())
    process = subprocess.run(
        [str(ROOT / 'trinet_embed.py'), 'image_list.txt', str(weights)],
        cwd=trinet_recipe.GOLDEN,
        env=os.environ | {'PATH': f'{pathlib.Path(sys.executable).parent}:/usr/bin'},
        capture_output=True,
        text=True,
    )
    # stderr is no terminal, hence no progress; the file is not a published one.
    assert (process.returncode, process.stderr) == (0, '')
    names, embs = parse_lines(process.stdout)
    for precision in ('float32', 'float64'):
        expected = (
            trinet_recipe.GOLDEN / f'expected_stdout_{precision}.txt'
        ).read_text()
        expected_names, expected_embs = parse_lines(expected)
        assert names == expected_names
        np.testing.assert_allclose(embs, expected_embs, atol=1e-4, rtol=0)


@pytest.mark.parametrize('flags', [(), ('--batch_size', '1'), ('--batch_size', '3')])
def test_lines_come_in_the_order_of_the_list(capsys, directory, flags):
    greys = [10, 200, 30, 90, 70, 250, 0]
    names = write_greys(directory, greys)
    embed(*flags)
    printed, embs = parse_lines(capsys.readouterr().out)
    assert printed == names
    np.testing.assert_array_equal(embs, np.repeat(greys, 128).reshape(7, 128))


def test_blank_lines_and_windows_line_ends_are_no_names(capsys, directory):
    write_greys(directory, [1, 2])
    (directory / 'list.txt').write_bytes(b'\n./grey1.png\r\n\r\n  \n\ngrey0.png')
    embed()
    names, embs = parse_lines(capsys.readouterr().out)
    assert names == ['./grey1.png', 'grey0.png']  # As in the list, not normalised.
    assert embs[:, 0].tolist() == [2, 1]


def test_names_that_are_not_utf8_keep_their_bytes(capfdbinary, directory):
    write_image(os.fsdecode(b'caf\xe9, night.png'), 7)
    (directory / 'list.txt').write_bytes(b'caf\xe9, night.png\n')
    embed('--output', 'embs.h5')
    embed()
    assert capfdbinary.readouterr().out.startswith(b'caf\xe9, night.png,7.0,7.0')
    with h5py.File('embs.h5') as file:
        assert file['fid'][0] == b'caf\xe9, night.png'


def test_names_are_relative_to_the_image_root(capsys, directory):
    (directory / 'images').mkdir()
    write_greys(directory / 'images', [5])
    (directory / 'list.txt').write_text('grey0.png\n')
    embed('--image_root', 'images')
    assert capsys.readouterr().out.startswith('grey0.png,5.0,')


def test_empty_list_prints_nothing(capsys, directory):
    (directory / 'list.txt').write_text('\n \r\n')
    embed()
    assert capsys.readouterr() == ('', '')


def test_digits_give_every_float32_back():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 100_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    text = trinet_embed.format_line('a.jpg', values).decode()
    name, *digits = text.rstrip('\n').split(',')
    assert name == 'a.jpg'
    np.testing.assert_array_equal(np.array(digits, np.float32), values)
    assert trinet_embed.format_line('a', [0.1, -2]) == b'a,0.1,-2.0\n'


def test_one_crop_is_the_centre_of_the_image(capsys, directory):
    # A frame of 8 pixels, once resized, that only the corner crops see.
    pixels = np.full((288, 144, 3), 255, np.uint8)
    pixels[16:-16, 8:-8] = 50
    cv2.imwrite('framed.png', pixels)
    (directory / 'list.txt').write_text('framed.png\n')
    embed('--no_augment')
    embed()
    _, embs = parse_lines(capsys.readouterr().out)
    assert embs[0, 0] == 50
    assert embs[1, 0] > 60


# --- images ----------------------------------------------------------------------


def write_text(path):
    path.write_text('no image')


def write_nothing(path):
    path.write_bytes(b'')


def leave_out(path):
    del path


UNREADABLE = [
    (write_text, r'bad\.png is not an image that OpenCV can read'),
    (write_nothing, r'bad\.png is not an image that OpenCV can read'),
    (leave_out, r'bad\.png: No such file or directory'),
    (pathlib.Path.mkdir, r'bad\.png: Is a directory'),
]


def describe(error):
    """Return the line that common.run makes of an error."""
    return trinet_embed.common.describe_error(error)


@pytest.mark.parametrize('spoil, message', UNREADABLE)
def test_unreadable_image_stops_after_the_lines_before_it(
    capsys, directory, spoil, message
):
    write_greys(directory, [1, 2, 3])
    spoil(directory / 'bad.png')
    (directory / 'list.txt').write_text('grey0.png\ngrey1.png\nbad.png\ngrey2.png\n')
    with pytest.raises((OSError, ValueError)) as error:
        embed()
    assert re.search(message, describe(error.value))
    names, _ = parse_lines(capsys.readouterr().out)
    assert names == ['grey0.png', 'grey1.png']


@pytest.mark.parametrize('spoil, message', UNREADABLE)
def test_unreadable_image_is_left_out_on_request(capsys, directory, spoil, message):
    write_greys(directory, [1, 2, 3])
    spoil(directory / 'bad.png')
    (directory / 'list.txt').write_text('grey0.png\nbad.png\ngrey1.png\ngrey2.png\n')
    embed('--skip_unreadable', '--batch_size', '2')
    output = capsys.readouterr()
    names, embs = parse_lines(output.out)
    assert names == ['grey0.png', 'grey1.png', 'grey2.png']
    assert embs[:, 0].tolist() == [1, 2, 3]
    assert re.fullmatch(f'{message}; left out\n', output.err)


def test_grey_and_transparent_images_become_bgr(directory):
    cv2.imwrite('grey.png', np.full((9, 9), 77, np.uint8))
    cv2.imwrite('alpha.png', np.full((9, 9, 4), (10, 20, 30, 0), np.uint8))
    grey = trinet_embed.read_image('grey.png')
    assert grey.shape == (288, 144, 3)
    assert (grey == 77).all()
    assert (trinet_embed.read_image('alpha.png') == (10, 20, 30)).all()


# --- processes -------------------------------------------------------------------

# The command with the net of colours, in a process of its own.
PROCESS = """
import os
import sys
import time
sys.path[:0] = sys.argv.pop(1).split(':')
import common
common.start_tensorflow()
import test_trinet_embed, trinet_embed
from nets import _trinet
_trinet.read_weights = lambda filename: None
_trinet.build_net = lambda weights: test_trinet_embed.mean_colour_net
read_image = trinet_embed.read_image
def wait_and_read(filename):
    while filename == 'late.png' and not os.path.exists(filename):
        time.sleep(0.01)
    return read_image(filename)
trinet_embed.read_image = wait_and_read
sys.argv[0] = 'trinet_embed.py'
common.run(trinet_embed.main)
"""


def start_process(directory, *flags):
    """Start the command on list.txt in a process with pipes."""
    return subprocess.Popen(
        [
            *(sys.executable, '-c', PROCESS, f'{ROOT}:{ROOT / "tests"}'),
            *('list.txt', 'weights.npz', *flags),
        ],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_lines_stream_and_a_closed_pipe_ends_quietly(directory):
    # The second image is not there before the first line is out.
    write_greys(directory, [9, 8])
    (directory / 'list.txt').write_text('grey0.png\nlate.png\n')
    with start_process(directory, '--batch_size', '1') as process:
        assert process.stdout.readline().startswith(b'grey0.png,9.0,')
        process.stdout.close()
        os.rename('grey1.png', 'late.png')
        assert process.stderr.read() == b''
    assert process.returncode == 0


def test_unreadable_image_exits_with_1_and_its_name(directory):
    write_greys(directory, [9])
    (directory / 'list.txt').write_text('grey0.png\nnone.png\ngrey0.png\n')
    with start_process(directory) as process:
        out, err = process.communicate()
    assert out.count(b'\n') == 1
    assert err == b'trinet_embed.py: error: none.png: No such file or directory\n'
    assert process.returncode == 1


# --- weights ---------------------------------------------------------------------


def test_published_weights_are_named_on_stderr(capsys, directory, monkeypatch):
    write_greys(directory, [1])
    digest = 'd41d8cd98f00b204e9800998ecf8427e'  # Of no bytes at all.
    monkeypatch.setitem(_trinet.PUBLISHED, digest, 'Market-1501')
    embed()
    output = capsys.readouterr()
    assert output.err == 'weights.npz: the published weights for Market-1501\n'
    assert output.out.count('\n') == 1
    embed('--quiet')
    assert capsys.readouterr() == (output.out, '')


def test_quiet_draws_no_bar_on_a_terminal(capsys, directory, monkeypatch):
    write_greys(directory, [1])
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    embed()
    assert '1/1' in capsys.readouterr().err
    embed('--quiet')
    assert capsys.readouterr().err == ''


def test_wrong_weights_are_refused_before_anything_is_printed(capsys, tmp_path):
    weights = tmp_path / 'weights.npz'
    np.savez(weights, *trinet_recipe.make_arrays()[:6])
    (tmp_path / 'list.txt').write_text('none.png\n')
    with pytest.raises(ValueError, match='arr_6 is missing, expected res2a_branch1 W'):
        trinet_embed.main([str(tmp_path / 'list.txt'), str(weights)])
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    'flags, message',
    [
        (['list.txt', 'none.npz'], 'none.npz is not a file'),
        (['list.txt', 'weights.npz', '--batch_size', '0'], 'at least 1 expected'),
        (['list.txt', 'weights.npz', '--image_root', 'no'], 'no is not a directory'),
        (['list.txt'], 'the following arguments are required: weights'),
    ],
)
def test_wrong_flags_are_refused(capsys, directory, flags, message):
    with pytest.raises(SystemExit) as error:
        trinet_embed.main(flags)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_list_is_named(directory):
    with pytest.raises(OSError, match='none') as error:
        trinet_embed.main(['none.txt', 'weights.npz'])
    assert describe(error.value) == 'none.txt: No such file or directory'


# --- HDF5 ------------------------------------------------------------------------


@pytest.mark.parametrize('flag', ['--output', '--filename'])
def test_hdf5_file_has_the_layout_of_embed_py(capsys, directory, flag):
    names = write_greys(directory, [1, 2, 3])
    embed(flag, 'embs.h5', '--batch_size', '2')
    assert capsys.readouterr().out == ''
    with h5py.File('embs.h5') as file:
        assert file['emb'].shape == (3, 128)
        assert file['emb_aug'].shape == (10, 3, 128)
        assert file['emb'].dtype == file['emb_aug'].dtype == np.float32
        assert file['embs'] == file['emb']  # The same object under two names.
        np.testing.assert_array_equal(file['emb'][:, 0], [1, 2, 3])
        assert file['fid'].asstr()[:].tolist() == names
        types = [name.decode() for name in file['augmentation_types']]
        assert types == list(_trinet.AUGMENTATIONS)
        assert set(file.attrs) == {'args', 'checkpoint', 'versions'}


def test_augmentations_of_hdf5_files_are_what_their_names_say(directory):
    # Columns get brighter to the right, so that right crops are brighter than left.
    ramp = np.broadcast_to(np.arange(144, dtype=np.uint8)[:, None], (288, 144, 3))
    cv2.imwrite('ramp.png', ramp)
    (directory / 'list.txt').write_text('ramp.png\n')
    embed('--output', 'embs.h5')
    with h5py.File('embs.h5') as file:
        types = [name.decode() for name in file['augmentation_types']]
        colours = dict(zip(types, file['emb_aug'][:, 0, 0], strict=True))
    # A crop is 128 of 144 columns, so its mean is its first column plus 63.5.
    assert colours['original_top_left'] == 63.5
    assert colours['original_bottom_right'] == 16 + 63.5
    # The left of a mirror image is the right of the image.
    assert colours['original_flip_top_left'] == 16 + 63.5
    assert colours['original_flip_bottom_right'] == 63.5
    assert colours['original_center'] == colours['original_flip_center'] == 8 + 63.5


def test_hdf5_file_of_one_crop_has_no_augmentations(directory):
    write_greys(directory, [1, 2])
    embed('--output', 'embs.h5', '--no_augment')
    with h5py.File('embs.h5') as file:
        assert 'emb_aug' not in file
        assert file['augmentation_types'][:].tolist() == [b'original_center']
        np.testing.assert_array_equal(file['emb'][:, 0], [1, 2])


def test_hdf5_file_leaves_skipped_images_out(directory):
    write_greys(directory, [1, 2])
    (directory / 'list.txt').write_text('no.png\ngrey0.png\nno.png\ngrey1.png\n')
    embed('--output', 'embs.h5', '--skip_unreadable')
    with h5py.File('embs.h5') as file:
        assert file['fid'].asstr()[:].tolist() == ['grey0.png', 'grey1.png']
        np.testing.assert_array_equal(file['emb'][:, 0], [1, 2])
        np.testing.assert_array_equal(file['emb_aug'][9, :, 0], [1, 2])
        assert file['emb_aug'].shape == (10, 2, 128)
        assert file['embs'] == file['emb']


def test_hdf5_file_of_an_empty_list_has_no_rows(directory):
    (directory / 'list.txt').write_text('')
    embed('--output', 'embs.h5')
    with h5py.File('embs.h5') as file:
        assert file['emb'].shape == (0, 128)
        assert file['fid'].shape == (0,)


def test_unreadable_image_leaves_an_old_hdf5_file_as_it_was(directory):
    (directory / 'list.txt').write_text('no.png\n')
    (directory / 'embs.h5').write_text('old')
    with pytest.raises(FileNotFoundError):
        embed('--output', 'embs.h5')
    assert (directory / 'embs.h5').read_text() == 'old'
    assert not list(directory.glob('.*'))


def test_evaluation_reads_the_hdf5_file(capsys, directory):
    # Two persons of one colour each, two cameras.
    names = ['0001_c1s1_01.png', '0001_c2s1_01.png', '0002_c1s1_01.png']
    names.append('0002_c2s1_01.png')
    for name in names:
        write_image(name, (40, 50, 200) if name.startswith('0001') else (200, 50, 40))
    (directory / 'list.txt').write_text('\n'.join(names))
    (directory / 'set.csv').write_text(''.join(f'{n[:4]},{n}\n' for n in names))
    embed('--output', 'embs.h5')
    dataset = embedding_files.load('set.csv', 'embs.h5')
    assert dataset.fids.tolist() == names
    evaluate.main(
        [
            *('--excluder', 'market1501'),
            *('--query_dataset', 'set.csv', '--query_embeddings', 'embs.h5'),
            *('--gallery_dataset', 'set.csv', '--gallery_embeddings', 'embs.h5'),
        ]
    )
    assert re.search(r'mAP: 100\.0', capsys.readouterr().out)


# --- the documentation -----------------------------------------------------------


def python_blocks(page):
    """Return the Python blocks of a Markdown page."""
    return re.findall(r'^```python\n(.*?)^```$', page.read_text(), re.S | re.M)


def test_documented_clustering_finds_the_colours(capsys, directory):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    names = [f'{i}.png' for i in range(9)]
    for i, name in enumerate(names):
        write_image(name, np.add(colours[i % 3], 5 * (i // 3)).clip(max=255))
    (directory / 'list.txt').write_text('\n'.join(names))
    embed()
    (directory / 'embeddings.csv').write_text(capsys.readouterr().out)
    (block,) = python_blocks(PAGE)
    namespace = {}
    exec(compile(block, str(PAGE), 'exec'), namespace)
    clusters = namespace['clusters']
    assert len(set(clusters)) == 3
    for i in range(9):
        assert clusters[i] == clusters[i % 3]
    assert capsys.readouterr().out.count('.png') == 9


def test_page_names_the_published_files_and_their_md5_sums():
    text = PAGE.read_text()
    for digest, name in _trinet.PUBLISHED.items():
        assert re.search(rf'{name}.*{digest}', text)


def test_every_flag_is_explained_on_the_page():
    flags = trinet_embed.build_parser()._option_string_actions
    for flag in set(flags) - {'-h', '--help', '--version'}:
        assert f'`{flag}' in PAGE.read_text(), flag
