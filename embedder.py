"""Images of a data set to embeddings, batch by batch: what embeds and validates."""

import tensorflow as tf
import tqdm

import batches
import images


def make_embed_batch(network, variants, net_size, size):
    """Return the function that embeds a batch; the net is compiled at its first call.

    Args:
        network: of model.build_model. Its weights may change between calls.
        variants: names of images.augmentation_plan, A of them.
        net_size: (height, width) of a crop, pixels.
        size: (height, width) of the images, pixels.

    Returns:
        function of images float32 [B, height, width, 3] in 0..255, any B, that returns
        float32 [A, B, D].
    """

    # Of one image: what the variants of a plan have in common, [height, width, 3].
    shape = images.augment(tf.zeros((1, *size, 3)), variants[0], *net_size).shape[1:]

    @tf.function(input_signature=[tf.TensorSpec((None, *shape))])
    def embed_variant(batch):
        return network(batch, training=False)['emb']

    def embed_batch(batch):
        # One after another, by one graph: in a graph of all, the first layers of all
        # variants would be computed at once, and each needs memory; and it would hold
        # the weights of a folded net once for each.
        embs = [
            embed_variant(images.augment(batch, variant, *net_size))
            for variant in variants
        ]
        return tf.stack(embs)  # [A, B, D]

    return embed_batch


def embed(embed_batch, dataset):
    """Yield the embeddings of a data set, batch by batch.

    Args:
        embed_batch: of make_embed_batch.
        dataset: iterable of images [B, H, W, 3], see read_batches.

    Yields:
        (rows, embeddings): range of the batch's positions in the data set, and
        float32 [A, B, D].
    """
    done = 0
    for batch in dataset:
        yield range(done, done + len(batch)), embed_batch(batch).numpy()
        done += len(batch)


def read_batches(dataset, paths, batch_size, quiet):
    """Yield the batches of a data set, under a progress bar.

    Args:
        dataset: of batches.image_batches.
        paths: its files, list [N] of str.
        batch_size: of its batches.
        quiet: whether there is no bar.

    Raises:
        ValueError: an image cannot be read; it is named.
    """
    iterator = iter(dataset)
    # disable=None: a bar on a terminal, nothing in a file or a pipe.
    hidden = True if quiet else None
    with tqdm.tqdm(total=len(paths), unit=' images', disable=hidden) as bar:
        for first in range(0, len(paths), batch_size):
            upcoming = paths[first : first + batch_size]
            yield batches.next_batch(iterator, upcoming.copy)
            bar.update(len(upcoming))
