"""A side of distances: distances of a batch and their gradient, in one of two forms."""

import argparse
import time

import numpy as np
import tensorflow as tf

import loss
from bench import _sides


def all_at_once(a, b):
    """Return Euclidean distances from the differences of all pairs, [N, M, D]."""
    return tf.sqrt(tf.reduce_sum(tf.square(a[:, None] - b[None]), axis=-1) + 1e-12)


def in_blocks(a, b):
    """Return them as training does."""
    return loss.cdist(a, b, 'euclidean')


FORMS = {'blocks': in_blocks, 'at_once': all_at_once}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--form', choices=FORMS)
    form = FORMS[parser.parse_args().form]

    @tf.function
    def gradient(embs):
        with tf.GradientTape() as tape:
            tape.watch(embs)
            mean = tf.reduce_mean(form(embs, embs))
        return tape.gradient(mean, embs)

    def measure(batch_size, embedding_dim):
        shape = (batch_size, embedding_dim)
        embs = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
        started = time.perf_counter()
        total = float(tf.reduce_sum(tf.abs(gradient(embs))))  # Waits for it.
        return {'secs': time.perf_counter() - started, 'total': total}

    _sides.serve(measure)


if __name__ == '__main__':
    main()
