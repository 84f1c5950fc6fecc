"""The mathematics of one training iteration."""

import typing

import tensorflow as tf

import loss
import model


class Outcome(typing.NamedTuple):
    """What an iteration computed from its whole batch, float32 tensors.

    Attributes:
        losses: [B], of each anchor.
        embs: [B, D], what the loss saw.
        lengths: [B], Euclidean, of `emb_raw`: of the embeddings before a head
            normalises them.
        dists: [B, B].
        top1: scalar, share of images whose nearest one has their PID.
        precision_at_k: scalar, share of the k nearest that have the image's PID.
        loss_scale: scalar, the factor of the loss in the next iteration; None where
            the optimizer does not scale it.
    """

    losses: tf.Tensor
    embs: tf.Tensor
    lengths: tf.Tensor
    dists: tf.Tensor
    top1: tf.Tensor
    precision_at_k: tf.Tensor
    loss_scale: tf.Tensor | None


def make_train_step(network, optimizer, loss_name, metric, margin, k, seed, replicas):
    """Return the function of one iteration, which updates the weights.

    It maps (images float32 [B, H, W, 3] as split by `replicas`, pids [B], learning
    rate, step int64) to an Outcome.

    Args:
        network: of model.build_model.
        optimizer: of optimizers.build, for its trainable variables.
        loss_name, metric, margin: see loss.batch_losses and loss.cdist.
        k: neighbours that precision_at_k looks at.
        seed: int64; what a loss draws at random depends on it and the step.
        replicas: of devices.connect.
    """
    # The moving averages of batch norm, to which each replica adds its own images.
    averages = [v for v in network.non_trainable_variables if v.dtype == 'float32']

    def update(images, pids, step):
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            embs = replicas.gather(model.training_embs(outputs))  # [B, D]
            lengths = replicas.gather(tf.norm(outputs['emb_raw'], axis=1))  # [B]
            dists = loss.cdist(embs, embs, metric)  # [B, B]
            losses = loss.batch_losses(
                loss_name, dists, pids, margin, tf.stack([seed, step])
            )  # [B]
            # The optimizer adds up the gradients of the replicas.
            mean_loss = optimizer.scale_loss(
                tf.reduce_mean(losses) / replicas.num_replicas
            )
        gradients = tape.gradient(mean_loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        replicas.average(averages)
        return losses, embs, lengths, dists

    @tf.function(autograph=False)
    def train_step(images, pids, learning_rate, step):
        optimizer.learning_rate.assign(learning_rate)
        iterations = tf.identity(optimizer.iterations)
        losses, embs, lengths, dists = replicas.run(update, images, pids, step)
        # Where scaled gradients overflow there is no update, but an iteration it is.
        optimizer.iterations.assign(iterations + 1)
        top1, precision_at_k = loss.batch_scores(dists, pids, k)
        scale = getattr(optimizer, 'dynamic_scale', None)
        scale = None if scale is None else tf.identity(scale)
        return Outcome(losses, embs, lengths, dists, top1, precision_at_k, scale)

    return train_step
