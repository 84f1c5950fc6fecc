"""A SavedModel, for TensorFlow Serving, C++, Java, Go and JavaScript.

The signature serving_default has the input `images` and the output `embeddings`.
"""

import common

# Imported at first use: what a format needs is looked at without TensorFlow.
tf = common.lazy_import('tensorflow')

SUFFIX = '_saved_model'
IS_DIRECTORY = True
NEEDS = ()

# The same kernels compute it; a batch of another size may be summed otherwise.
TOLERANCE = 1e-5


def write(exported, target, calibration):
    """Write a directory; see deployment."""
    del calibration
    save(exported, exported.embed, target)


def write_encoded(exported, target):
    """Write a directory whose input is the content of image files."""
    save(exported, exported.embed_encoded, target)


def save(exported, function, target):
    """Write a directory with one signature, and the weights that it uses."""
    holder = tf.Module()
    holder.weights = list(function.get_concrete_function().variables)
    tf.saved_model.save(holder, target, signatures=function)


def load(target):
    """Return a function of images to embeddings; see deployment."""
    loaded = tf.saved_model.load(target)
    embed = loaded.signatures['serving_default']
    return lambda images: embed(images=tf.constant(images))['embeddings'].numpy()


# What differs is the signature that was saved: it takes bytes.
load_encoded = load
