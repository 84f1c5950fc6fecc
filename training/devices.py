"""One training step on several devices: what --distribute means.

A batch is split evenly over the replicas, each of which embeds its part. Embeddings are
gathered, so that hard pairs come from the whole batch, and gradients are summed. See
docs/distribution.md.
"""

import os

import common
from training import workers
from training.replicas import Replicas

# Imported at first use: the choices are those of a flag.
tf = common.lazy_import('tensorflow')

DISTRIBUTE_CHOICES = ('none', 'mirrored', 'multi_worker')


def prepare(distribute):
    """Choose how much TensorFlow says; has to come before its import.

    When a worker is lost, its transport layers each complain in their own words. Ours
    is the one line that follows.
    """
    # common.py's own setting; whoever chose another one wants to see what it shows.
    if distribute == 'multi_worker' and os.environ['TF_CPP_MIN_LOG_LEVEL'] == '2':
        os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'


def connect(distribute):
    """Return what runs a training step on the devices; a context, left at the end.

    Args:
        distribute: one of DISTRIBUTE_CHOICES; 'multi_worker' reads TF_CONFIG.

    Returns:
        Replicas.

    Raises:
        InputError: `distribute` is unknown, or there is no sound TF_CONFIG.
        OSError: this worker's port is in use, or another worker is not reached.
    """
    if distribute == 'none':
        return Replicas()
    if distribute not in DISTRIBUTE_CHOICES:
        raise common.InputError(
            f'--distribute {distribute} is unknown; expected one of '
            f'{", ".join(DISTRIBUTE_CHOICES)}'
        )
    # Python's share of TensorFlow's chatter; errors arrive as exceptions.
    tf.get_logger().setLevel('ERROR')
    if distribute == 'multi_worker':
        return workers.Workers(workers.read_cluster(os.environ.get('TF_CONFIG')))
    # All GPUs, or the logical processors where there is none. Explicitly: a TF_CONFIG
    # in the environment would otherwise count.
    found = tf.config.list_logical_devices('GPU') or tf.config.list_logical_devices(
        'CPU'
    )
    strategy = tf.distribute.MirroredStrategy([device.name for device in found])
    return Replicas(strategy, len(found))
