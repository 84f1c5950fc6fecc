"""What embed.py embeds besides CSVs: a folder, a list, one image."""

import sys

import h5py
import numpy as np
import pytest

import common
import embed
import tiny_run
from embedding import sources


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return a directory with a run `root`, its `train.csv`, and 0_0.png to 3_2.png."""
    directory = tmp_path_factory.mktemp('run')
    with tiny_run.trained(directory, '--train_iterations', '1'):
        yield directory


def embed_source(run, source, *flags):
    """Embed a source; return (names, embeddings, whether there are PIDs)."""
    embed.main(
        [
            *('--experiment_root', str(run / 'root'), '--dataset', str(source)),
            *('--filename', 'embs.h5', '--quiet', *flags),
        ]
    )
    with h5py.File(run / 'root' / 'embs.h5') as file:
        return file['fid'].asstr()[:].tolist(), file['emb'][:], 'pid' in file


@pytest.fixture(scope='module')
def expected(run):
    """Return {FID: embedding} of the run's images, by way of the CSV."""
    fids, embs, has_pids = embed_source(run, run / 'train.csv')
    assert has_pids
    return dict(zip(fids, embs, strict=True))


def check(found, expected, names):
    """Compare names, which end in those of the CSV, and their embeddings."""
    fids, embs, has_pids = found
    assert fids == names
    assert not has_pids  # Nobody has told who they are.
    for fid, emb in zip(fids, embs, strict=True):
        truth = expected[fid.rpartition('/')[2]]
        np.testing.assert_allclose(emb, truth, atol=1e-5 * np.abs(truth).max())


def copy_image(run, name, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((run / name).read_bytes())


def test_folder_is_embedded_with_all_below_it(run, expected, tmp_path):
    for name in ('b/1_0.png', 'a.d/2_1.png', '0_0.png'):
        copy_image(run, name.rpartition('/')[2], tmp_path / 'photos' / name)
    (tmp_path / 'photos' / 'notes.txt').write_text('none')
    copy_image(run, '0_1.png', tmp_path / 'photos' / '.hidden' / '0_1.png')
    copy_image(run, '0_1.png', tmp_path / 'photos' / '._0_1.png')
    (tmp_path / 'photos' / 'loop').symlink_to(tmp_path / 'photos')
    found = embed_source(run, tmp_path / 'photos')
    check(found, expected, ['0_0.png', 'a.d/2_1.png', 'b/1_0.png'])


@pytest.mark.parametrize('has_root', [True, False])
@pytest.mark.parametrize('is_stdin', [True, False])
def test_list_names_files(run, expected, tmp_path, monkeypatch, has_root, is_stdin):
    # Relative to the image root, or else to the current directory.
    monkeypatch.chdir(tmp_path if has_root else run)
    text = b'1_2.png\r\n\n0_1.png'
    (tmp_path / 'names.txt').write_bytes(text)
    flags = ('--image_root', str(run)) if has_root else ()
    if is_stdin:
        with open(tmp_path / 'names.txt') as file:
            monkeypatch.setattr(sys, 'stdin', file)
            found = embed_source(run, '-', *flags)
    else:
        found = embed_source(run, tmp_path / 'names.txt', *flags)
    check(found, expected, ['1_2.png', '0_1.png'])


def test_one_image_is_embedded(run, expected, monkeypatch):
    found = embed_source(run, run / '2_0.png')
    check(found, expected, [str(run / '2_0.png')])
    monkeypatch.chdir(run)
    check(embed_source(run, '2_0.png'), expected, ['2_0.png'])


@pytest.mark.parametrize(
    'name, expected',
    [
        ('-', 'stdin'),
        ('photos/', 'photos'),
        ('some/where/photos', 'photos'),
        ('data/query.csv', 'query'),
        ('names.txt', 'names'),
        ('a.JPG', 'a'),
        ('.', 'here'),
    ],
)
def test_file_is_called_after_the_source(tmp_path, monkeypatch, name, expected):
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    assert sources.default_name(name) == expected


def test_source_without_images_is_refused(tmp_path, monkeypatch):
    with pytest.raises(common.InputError, match=f'{tmp_path} has no images; .*.jpg'):
        sources.read(str(tmp_path), False, None)
    (tmp_path / 'names.txt').write_text('\n \n')
    with pytest.raises(common.InputError, match='names.txt names no images; expected'):
        sources.read(str(tmp_path / 'names.txt'), False, None)
    with pytest.raises(FileNotFoundError, match='none.txt'):
        sources.read(str(tmp_path / 'none.txt'), False, None)
    (tmp_path / 'a.png').write_bytes(b'')
    with pytest.raises(common.InputError, match='is a folder, .* leave it out'):
        sources.read(str(tmp_path), False, '/elsewhere')


def test_missing_images_of_a_list_are_named(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'names.txt').write_text('a.png\nb.png\n')
    with pytest.raises(FileNotFoundError, match=r'2 of 2 images in .*names.txt are mi'):
        embed_source(run, 'names.txt')
    with pytest.raises(FileNotFoundError, match=r'none.jpg'):
        embed_source(run, 'none.jpg')


def test_list_that_leaves_the_image_root_is_refused(run, tmp_path):
    (tmp_path / 'names.txt').write_text(f'{run}/0_0.png\n')
    flags = (tmp_path / 'names.txt', '--image_root', str(tmp_path))
    with pytest.raises(common.InputError, match='outside the image root'):
        embed_source(run, *flags)
    embed_source(run, *flags, '--allow_outside_image_root')


def test_other_files_of_a_folder_are_counted(run, tmp_path, capsys):
    copy_image(run, '0_0.png', tmp_path / 'a.png')
    for name in ('b.TIFF', 'c', '.hidden'):
        (tmp_path / name).touch()
    common.setup_logging()
    assert sources.list_images(str(tmp_path)) == ['a.png']
    told = capsys.readouterr().err
    assert f'2 other files in {tmp_path} are left alone (first: b.TIFF); images' in told


def test_missing_first_name_of_a_list_is_no_heading(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy_image(run, '0_0.png', tmp_path / 'b.png')
    (tmp_path / 'names.txt').write_text('a.png\nb.png\n')
    with pytest.raises(FileNotFoundError, match='1 of 2 images in .*names.txt are m'):
        embed_source(run, 'names.txt')
