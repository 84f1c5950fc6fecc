"""The files that TensorBoard's embedding projector reads.

    python -m tensorboard.main --logdir DIRECTORY    # then: Projector

Format: tensorboard/plugins/projector, projector_config.proto and projector_plugin.py.
"""

import json
import os
import pathlib

import numpy as np

import common
from visuals import thumbnails

# Browsers draw a sheet of images up to this width and height (WebGL's limit on most).
SHEET_SIZE = 8192

# Sides of an image on the sheet: beyond the larger nobody zooms, below the smaller
# nobody recognises anything.
LARGEST_TILE, SMALLEST_TILE = 64, 16

CONFIG = """embeddings {{
  tensor_name: {name}
  tensor_path: "tensors.bytes"
  tensor_shape: {num_images}
  tensor_shape: {embedding_dim}
  metadata_path: "metadata.tsv"
  sprite {{
    image_path: "sprite.jpg"
    single_image_dim: {tile_size}
    single_image_dim: {tile_size}
  }}
}}
"""


def choose_tile_size(num_images):
    """Return the side of an image on the sheet, in pixels.

    Raises:
        ValueError: there are so many images that it would be too small.
    """
    tile_size = min(LARGEST_TILE, SHEET_SIZE // thumbnails.count_columns(num_images))
    if tile_size < SMALLEST_TILE:
        most = (SHEET_SIZE // SMALLEST_TILE) ** 2
        raise common.InputError(
            f'{num_images} images are too many for a projector, at most {most}; choose '
            'some with --num_images'
        )
    return tile_size


def format_metadata(columns):
    """Return the lines of metadata.tsv.

    Args:
        columns: {heading: sequence [N] of str}, two or more: TensorBoard takes a
            single column to have no heading.
    """
    rows = [columns.keys(), *zip(*columns.values(), strict=True)]
    # A tab would shift the columns and a line break the rows; TSV cannot escape them.
    return ''.join('\t'.join(' '.join(t.split()) for t in row) + '\n' for row in rows)


def write(directory, name, embs, columns, images):
    """Write the four files; the one that names the others comes last.

    Args:
        directory: where to; made if need be.
        name: what the projector calls the embeddings.
        embs: [N, D].
        columns: {heading: sequence [N] of str}, see format_metadata.
        images: iterable of N RGB images.
    """
    num_images, embedding_dim = embs.shape
    tile_size = choose_tile_size(num_images)
    sheet = thumbnails.tile(images, num_images, tile_size)
    config = CONFIG.format(
        name=json.dumps(name),
        num_images=num_images,
        embedding_dim=embedding_dim,
        tile_size=tile_size,
    )
    contents = {
        'sprite.jpg': thumbnails.encode_jpeg(sheet),
        'tensors.bytes': np.asarray(embs, '<f4').tobytes(),
        'metadata.tsv': format_metadata(columns).encode(),
        'projector_config.pbtxt': config.encode(),
    }
    for filename, content in contents.items():
        with common.complete_file(os.path.join(directory, filename)) as temporary:
            pathlib.Path(temporary).write_bytes(content)
