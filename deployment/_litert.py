"""LiteRT (TensorFlow Lite), for phones and small computers."""

import os
import tempfile
import threading

import numpy as np

from deployment import saved_model

SUFFIX = '.tflite'
NEEDS = ('ai-edge-litert',)


def convert(exported, target, configure=None):
    """Write a file of LiteRT's own operations only.

    Args:
        exported: _exported.Exported.
        target: file name.
        configure: function of a tf.lite.TFLiteConverter that says how to quantize.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as directory:
        saved_model.write(exported, directory, None)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        if configure is not None:
            configure(converter)
        content = converter.convert()
    with open(target, 'wb') as file:
        file.write(content)


def load(target):
    """Return a function of images to embeddings; see deployment."""
    from ai_edge_litert import interpreter

    runtime = interpreter.Interpreter(target, num_threads=os.cpu_count())
    (place,) = runtime.get_input_details()
    (result,) = runtime.get_output_details()
    lock = threading.Lock()  # An interpreter has one set of tensors.

    def embed(images):
        with lock:
            if tuple(runtime.get_input_details()[0]['shape']) != images.shape:
                runtime.resize_tensor_input(place['index'], images.shape)
                runtime.allocate_tensors()
            runtime.set_tensor(place['index'], images)
            runtime.invoke()
            return np.array(runtime.get_tensor(result['index']))

    runtime.allocate_tensors()
    return embed
