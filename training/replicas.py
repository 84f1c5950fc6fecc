"""The devices of this process that share a training step, as TensorFlow has them."""

import common

tf = common.lazy_import('tensorflow')


class Replicas:
    """Devices under a tf.distribute.Strategy; by default, one.

    Args:
        strategy: with a copy of each variable on each device; None: TensorFlow's own
            for one device.
        num_local: devices of this process.

    Attributes:
        num_replicas: R, devices that take part.
        is_chief: whether this process writes logs and checkpoints.
        first_local: number of this process' first device among the R.
    """

    is_chief = True
    first_local = 0

    def __init__(self, strategy=None, num_local=1):
        self.strategy = strategy or tf.distribute.get_strategy()
        self.num_replicas = self.strategy.num_replicas_in_sync
        self.num_local = num_local

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Let go of the other processes."""

    def scope(self):
        """Return the context in which variables are made, one copy a device."""
        return self.strategy.scope()

    def check_batch_size(self, batch_size):
        """Raise InputError unless a batch can be split evenly over the replicas."""
        if batch_size % self.num_replicas:
            raise common.InputError(
                f'a batch of {batch_size} images (--batch_p times --batch_k) cannot be '
                f'split evenly over {self.num_replicas} devices; choose a multiple of '
                f'{self.num_replicas}'
            )

    def part(self, batch_size):
        """Return which images of a batch this process reads, a slice."""
        share = batch_size // self.num_replicas
        return slice(
            self.first_local * share, (self.first_local + self.num_local) * share
        )

    def split(self, images):
        """Give every device of this process its share of the images that it read.

        Args:
            images: [part of B, ...], see `part`.

        Returns:
            What `run` takes.
        """
        share = len(images) // self.num_local

        def share_of(context):
            first = (context.replica_id_in_sync_group - self.first_local) * share
            return images[first : first + share]

        return self.strategy.experimental_distribute_values_from_function(share_of)

    def run(self, function, images, *shared):
        """Call a function on every device; from within a tf.function.

        Args:
            function: of a device's images and `shared`; within it, `gather` and
                `average` can be called. Its result is a tuple of tensors.
            images: of `split`.
            shared: the same on all devices.

        Returns:
            tuple of tensors, the result of this process' first device.
        """
        results = self.strategy.run(function, (images, *shared))
        return tuple(map(self.first_result, results))

    def first_result(self, values):
        """Return the value of this process' first device."""
        return self.strategy.experimental_local_results(values)[0]

    def gather(self, values):
        """Return the values [B / R, ...] of all devices, [B, ...], differentiable."""
        if self.num_replicas == 1:
            return values
        # A bare argument of the function that runs has no device to be gathered to.
        values = tf.identity(values)
        gathered = tf.distribute.get_replica_context().all_gather(values, axis=0)
        return tf.ensure_shape(gathered, [None, *values.shape[1:]])

    def average(self, variables):
        """Replace each device's copy of variables by the mean over the devices."""
        if self.num_replicas == 1 or not variables:
            return
        # See `gather` for the identity.
        means = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in variables]
        )
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)

    def any(self, is_true):
        """Say whether something is true on at least one of the processes.

        Like `exchange`, all of them have to call it, and wait for each other.
        """
        return is_true

    def end_together(self, failure):
        """Raise on all processes why one of them cannot go on, if one cannot.

        Args:
            failure: an exception of this one, or None.
        """
        if failure is not None:
            raise failure

    def exchange(self, value):
        """Return what each process passed here, a list, that of the chief first.

        Args:
            value: anything that JSON can express.
        """
        return [value]

    def check_same(self, make_values, what_to_do):
        """Raise InputError if processes disagree.

        Args:
            make_values: function that returns a dict of things to compare,
                name -> anything that JSON can express; called only if there are
                other processes.
            what_to_do: end of the message.
        """
