"""The network as TensorFlow exports it: weights folded, inputs and outputs named."""

import tensorflow as tf

import images
import layers

INPUT, OUTPUT = 'images', 'embeddings'


class Exported:
    """A network and the two ways to run it.

    Args:
        embedder: embedder.Embedder of a run, its batch norms folded.

    Attributes:
        embed: function of `images`, float32 [B, H, W, 3], to {'embeddings': [B, D]}.
        embed_encoded: likewise of `images`, string [B]: contents of image files.
    """

    def __init__(self, embedder):
        use_variables(embedder.network)
        height, width = embedder.net_size

        def embed(images):
            embs = embedder.network(images, training=False)['emb']
            return {OUTPUT: tf.identity(embs, name=OUTPUT)}

        def embed_encoded(images):
            return embed(tf.map_fn(read, images, fn_output_signature=tf.float32))

        def read(content):
            return images.resize(images.decode_content(content), height, width)

        pixels = tf.TensorSpec((None, height, width, 3), tf.float32, INPUT)
        contents = tf.TensorSpec((None,), tf.string, INPUT)
        self.embed = tf.function(embed, input_signature=[pixels], autograph=False)
        self.embed_encoded = tf.function(
            embed_encoded, input_signature=[contents], autograph=False
        )

    def freeze(self):
        """Return `embed` as a concrete function with all weights as constants."""
        from tensorflow.python.framework import convert_to_constants

        return convert_to_constants.convert_variables_to_constants_v2(
            self.embed.get_concrete_function()
        )


def use_variables(network):
    """Let a folded network use variables alone.

    Those a SavedModel holds. The tensors of folded layers would become constants of a
    graph, of which no file of TensorFlow's can hold more than 2 GB.
    """
    for layer in network._flatten_layers():
        if isinstance(layer, layers.Foldable) and layer.folded is not None:
            layer.folded = tuple(tf.Variable(t, trainable=False) for t in layer.folded)
