"""A side of bench.embed_speed: TensorFlow as embed.py runs it, batch norm folded."""

import aggregators
import common
import embedding_files
import images
from bench import _embed_task, _yardsticks

# Imported at first use, after start_tensorflow.
tf = common.lazy_import('tensorflow')
embedder = common.lazy_import('embedder')
layers = common.lazy_import('layers')
model = common.lazy_import('model')


def build(task):
    """Return a folded ResNet-50 with random weights."""
    network = model.build_model(
        'resnet_v1_50', 'fc1024', task.embedding_dim, task.precision
    )
    for variable in network.variables:
        # A mean of zero would leave biases of zero, which TensorFlow leaves out.
        if variable.path.endswith('moving_mean'):
            variable.assign(tf.random.normal(variable.shape, stddev=0.1))
    layers.fold(network)
    return make_embedder(network, task)


def plan_variants(task):
    """Return the names of the variants of a task's images, list [A]."""
    crop = 'five' if task.is_tenfold else None
    return images.augmentation_plan(task.is_tenfold, crop)


def make_embedder(network, task):
    """Return the Embedder of a task, as embed.py makes it."""
    return embedder.Embedder(network, task.embedding_dim, tuple(task.net_size))


def embed(ours, task):
    """Read and embed a task's files and write the HDF5 file."""
    view = embedder.View(tuple(task.image_size), plan_variants(task), None)
    embs = ours.embed_files(
        task.names, view, task.batch_size, task.loading_threads, quiet=True
    )
    embedding_files.write(
        task.filename,
        embs,
        task.names,
        plan_variants(task),
        task.embedding_dim,
        aggregators.mean if task.is_tenfold else None,
        attributes={},
    )


def main():
    common.start_tensorflow()
    _embed_task.serve(build, embed, _yardsticks.tensorflow_product_rate)


if __name__ == '__main__':
    main()
