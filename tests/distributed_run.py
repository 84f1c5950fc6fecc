"""Trainings with the net of tiny_run.py on several devices of this machine.

    python tests/distributed_run.py NUM_DEVICES [--freeze] FLAGS [--then [--freeze] ...]

FLAGS are those of train.py; several trainings follow each other. With --freeze, batch
norm uses its averages as at inference and updates none.
"""

import functools
import itertools
import json
import socket
import sys

import pytest

import common
import train
from training import devices


def free_ports(number):
    """Return ports of this machine at which nobody listens."""
    servers = [socket.create_server(('', 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def describe_cluster(index, task='worker', **jobs):
    """Return a TF_CONFIG."""
    return json.dumps({'cluster': jobs, 'task': {'type': task, 'index': index}})


def freeze_batch_norm(monkeypatch):
    """Let batch norm depend on no image but the one it normalises."""
    import layers

    call = layers.BatchNorm.call
    monkeypatch.setattr(
        layers.BatchNorm, 'call', lambda self, x, training=False: call(self, x)
    )


def make_devices(number):
    """Split this machine's processors into logical devices."""
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices('CPU')
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * number
    )


def main():
    number, *words = sys.argv[1:]
    devices.prepare('multi_worker' if 'multi_worker' in words else 'mirrored')
    common.start_tensorflow()
    import tiny_run  # And with it TensorFlow, whose chatter is over now.

    make_devices(int(number))
    # TensorFlow mixes up the exchanges of two strategies in one process.
    devices.connect = functools.cache(devices.connect)
    for is_flag, argv in itertools.groupby(words, lambda word: word != '--then'):
        with pytest.MonkeyPatch.context() as monkeypatch:
            tiny_run.shrink_net(monkeypatch)
            argv = list(argv)
            if argv[0] == '--freeze':
                freeze_batch_norm(monkeypatch)
            if is_flag:
                train.main([word for word in argv if word != '--freeze'])


if __name__ == '__main__':
    common.run(main)
