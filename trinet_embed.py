#!/usr/bin/env python3
"""Embed images with the paper's network and its published Theano weights.

    python trinet_embed.py files.txt trinet-market1501.npz > embeddings.csv

Reads the names of image files, one a line, and prints for each a line
`filename,v1,...,v128`: the mean of the embeddings of ten crops, in the order of the
list, while later images are still being computed. With --output it writes an HDF5 file
like that of embed.py instead. Neither Theano nor Lasagne is needed.
"""

import contextlib
import os
import pathlib
import sys

import numpy as np

import aggregators
import common
import datasets
import embedding_files
import images
from nets import _trinet

# Imported at first use, so that --help and a mistyped flag answer at once.
tf = common.lazy_import('tensorflow')
cv2 = common.lazy_import('cv2')
tqdm = common.lazy_import('tqdm')
batches = common.lazy_import('batches')


def build_parser():
    """Return the parser of trinet_embed.py's flags."""
    parser = common.new_parser(__doc__)

    required = parser.add_argument_group('required')
    required.add_argument(
        'image_list',
        type=common.path,
        help='Text file that names an image a line; blank lines are skipped.',
    )
    required.add_argument(
        'weights',
        type=common.readable_file,
        help='The published weights: trinet-market1501.npz or trinet-mars.npz.',
    )

    data = parser.add_argument_group('data and model')
    data.add_argument(
        '--image_root',
        type=common.readable_directory,
        help='Directory that the names are relative to. Default: the current one.',
    )
    datasets.add_outside_flag(data)
    data.add_argument(
        '--skip_unreadable',
        action='store_true',
        help='Report an image that cannot be read on stderr and leave it out, instead '
        'of stopping there.',
    )
    data.add_argument(
        '--no_augment',
        action='store_true',
        help='Embed the centre crop alone: ten times faster, less accurate.',
    )
    common.add_loading_threads(data)
    data.add_argument(
        '--batch_size',
        default=8,
        type=common.positive_int,
        help='Images, of ten crops each, per pass through the net. Lines appear when '
        'a batch is complete; more is hardly faster and needs more memory.',
    )

    output = parser.add_argument_group('output')
    output.add_argument(
        '--output',
        '--filename',  # As the other commands call it.
        type=common.path,
        metavar='FILE.h5',
        help='Write emb, emb_aug, fid and augmentation_types to this HDF5 file, as '
        'embed.py does, and nothing to stdout.',
    )
    common.add_quiet(output)
    return parser


def read_image(filename):
    """Read and resize one image file, exactly as OpenCV does it.

    Args:
        filename: of anything that OpenCV decodes; grey becomes BGR, alpha is dropped.

    Returns:
        uint8 [288, 144, 3], BGR.

    Raises:
        OSError, ValueError: the file cannot be read, or is no image.
    """
    if pathlib.Path(filename).is_fifo():  # Reading it might never end.
        raise common.InputError(f'{filename} is a pipe, expected an image file')
    encoded = np.frombuffer(pathlib.Path(filename).read_bytes(), np.uint8)
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error:  # The file is empty, or its image is too large for OpenCV.
        image = None
    if image is None:
        raise common.InputError(f'{filename} is not an image that OpenCV can read')
    height, width = _trinet.IMAGE_SIZE
    return cv2.resize(image, (width, height))


def make_batches(futures, batch_size, skip):
    """Yield (rows, images): positions in the list, and uint8 [B, 288, 144, 3].

    Args:
        futures: of batches.read_ahead and read_image.
        batch_size: B, at most.
        skip: function that is called with the error of an unreadable image, or None.

    Raises:
        OSError, ValueError: without `skip`, that error, after all images before.
    """
    rows, batch = [], []
    for row, future in enumerate(futures):
        error = future.exception()
        if error is None:
            rows.append(row)
            batch.append(future.result())
        elif isinstance(error, (OSError, ValueError)) and skip is not None:
            skip(error)
        else:
            if rows:
                yield rows, np.stack(batch)
            raise error
        if len(rows) == batch_size:
            yield rows, np.stack(batch)
            rows, batch = [], []
    if rows:
        yield rows, np.stack(batch)


def compile_net(net, variants):
    """Return a function: images uint8 [B, 288, 144, 3] to embeddings [A, B, 128].

    The crops are cut in the graph, so that an image travels there once.

    Args:
        net: of _trinet.build_net.
        variants: names of crops, A of _trinet.AUGMENTATIONS.
    """
    spec = tf.TensorSpec((None, *_trinet.IMAGE_SIZE, 3), tf.uint8)

    @tf.function(input_signature=[spec], autograph=False)
    def embed_batch(batch):
        crops = [images.augment(batch, name, *_trinet.CROP_SIZE) for name in variants]
        embs = net(tf.concat(crops, axis=0))  # [A * B, D]
        return tf.reshape(embs, (len(variants), -1, _trinet.EMBEDDING_DIM))

    return embed_batch


def embed(net, read, variants):
    """Yield (rows, embeddings float32 [A, B, 128]) of batches of images.

    Args:
        net: of _trinet.build_net.
        read: of make_batches.
        variants: names of crops, A of _trinet.AUGMENTATIONS.
    """
    embed_batch = compile_net(net, variants)
    for rows, batch in read:
        yield rows, embed_batch(batch).numpy()


def show_progress(embs, num_images):
    """Pass (rows, embeddings) on, under a progress bar if stderr is a terminal."""
    with tqdm.tqdm(total=num_images, unit=' images', disable=None) as bar:
        for rows, batch in embs:
            yield rows, batch
            bar.update(rows[-1] + 1 - bar.n)


def print_lines(embs, fids):
    """Print a line for every image, as soon as its batch is there.

    Args:
        embs: iterable of (rows, float32 [A, B, D]).
        fids: list of str, the names that `rows` are positions in.
    """
    for rows, batch in embs:
        for row, emb in zip(rows, aggregators.mean(batch), strict=True):
            sys.stdout.buffer.write(format_line(fids[row], emb))
        # On a terminal, a progress bar makes room for the lines.
        with tqdm.tqdm.external_write_mode():
            sys.stdout.buffer.flush()


def format_line(fid, emb):
    """Return `fid,v1,...,vD` and a line end, as bytes; D digits give float32 back."""
    # NumPy writes the shortest digits that a float32 can be told apart by.
    return os.fsencode(','.join([fid, *map(str, np.float32(emb))])) + b'\n'


def main(argv=None):
    args = build_parser().parse_args(argv)
    logger = common.setup_logging(quiet=args.quiet)
    fids = datasets.read_names(args.image_list)
    if args.image_root is not None:  # Without one, there is nothing to leave.
        datasets.check_inside(
            args.image_list, fids, args.image_root, args.allow_outside_image_root
        )
    weights = _trinet.read_weights(args.weights)
    published = _trinet.published_name(args.weights)
    if published is not None:
        logger.info(f'{args.weights}: the published weights for {published}')
    common.start_tensorflow()
    net = _trinet.build_net(weights)
    del weights  # 100 MB.
    variants = _trinet.AUGMENTATIONS[: 1 if args.no_augment else None]

    skip = None
    if args.skip_unreadable:

        def skip(error):
            logger.warning(f'{common.describe_error(error)}; left out')

    paths = [os.path.join(args.image_root or '', fid) for fid in fids]
    with contextlib.closing(
        batches.read_ahead(read_image, paths, args.loading_threads, 2 * args.batch_size)
    ) as futures:
        embs = embed(net, make_batches(futures, args.batch_size, skip), variants)
        if not args.quiet:
            embs = show_progress(embs, len(fids))
        if args.output is None:
            print_lines(embs, fids)
        else:
            embedding_files.write(
                args.output,
                embs,
                fids,
                variants,
                _trinet.EMBEDDING_DIM,
                None if args.no_augment else aggregators.mean,
                embedding_files.describe(vars(args), args.weights),
            )


if __name__ == '__main__':
    common.run(main)
