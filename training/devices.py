"""One training step on several devices: what --distribute means.

A batch is split evenly over the replicas, each of which embeds its part. Embeddings are
gathered, so that hard pairs come from the whole batch, and gradients are summed. See
docs/distribution.md.

Train.py sees no strategy, but an object with the methods of `OneReplica`.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import typing

import common

# Imported at first use: the choices are those of a flag.
tf = common.lazy_import('tensorflow')

DISTRIBUTE_CHOICES = ('none', 'mirrored', 'multi_worker')

EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)

# A worker is gone when it cannot be reached this often in a row, this many seconds
# apart, each time within as many. TensorFlow mostly notices first; what it does not
# notice, such as a machine without power, it would wait for forever.
PROBES, SECS_BETWEEN_PROBES = 3, 5
# How long TensorFlow's own error may take to end the process in an orderly manner, and
# a worker that failed to leave its port after that error.
GRACE_SECS = 15


class WorkerError(common.InputError, ConnectionError):
    """Another worker is gone, or was never reached."""


class Cluster(typing.NamedTuple):
    """The workers of TF_CONFIG.

    Attributes:
        addresses: list of str, HOST:PORT of every worker, the chief's first.
        index: of this process among them.
    """

    addresses: list
    index: int

    @property
    def is_chief(self):
        """Whether this process writes logs and checkpoints."""
        return self.index == 0


def read_cluster(config):
    """Return the Cluster that a TF_CONFIG describes.

    Args:
        config: the environment variable's text, or None.

    Raises:
        ValueError: it describes none, or has other tasks than workers and one chief.
    """
    if not config:
        raise common.InputError(
            '--distribute multi_worker needs the environment variable TF_CONFIG, which '
            f'tells the workers of each other; for the first of two: {EXAMPLE}'
        )
    try:
        parsed = json.loads(config)
        jobs, task = parsed['cluster'], parsed['task']
        own = task['type'], int(task['index'])
        tasks = [
            ((job, index), address)
            for job in ('chief', 'worker')
            for index, address in enumerate(jobs.get(job, []))
        ]
        for _, address in tasks:
            split_address(address)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise common.InputError(
            f'TF_CONFIG is {config!r} ({type(error).__name__}: {error}); expected '
            f'something like {EXAMPLE}'
        ) from error
    names = [name for name, _ in tasks]
    if own not in names or set(jobs) - {'chief', 'worker'}:
        raise common.InputError(
            f'TF_CONFIG has the jobs {", ".join(jobs)} and makes this process '
            f'{own[0]} {own[1]}; expected workers, at most one chief, and one of them '
            f'as the task, such as {EXAMPLE}'
        )
    return Cluster([address for _, address in tasks], names.index(own))


def split_address(address):
    """Return (host, port) of 'HOST:PORT'; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(':')
    return host.strip('[]'), int(port)


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
        OneReplica, or a subclass of it.

    Raises:
        ValueError: `distribute` is unknown, or there is no sound TF_CONFIG.
        OSError: this worker's port is in use, or another worker is not reached.
    """
    if distribute == 'none':
        return OneReplica()
    if distribute not in DISTRIBUTE_CHOICES:
        raise common.InputError(
            f'--distribute {distribute} is unknown; expected one of '
            f'{", ".join(DISTRIBUTE_CHOICES)}'
        )
    # Python's share of TensorFlow's chatter; errors arrive as exceptions.
    tf.get_logger().setLevel('ERROR')
    if distribute == 'mirrored':
        return MirroredReplicas()
    return Workers(read_cluster(os.environ.get('TF_CONFIG')))


class OneReplica:
    """A training step on one device; also the interface to several.

    Attributes:
        num_replicas: R, devices that take part.
        is_chief: whether this process writes logs and checkpoints.
    """

    num_replicas = 1
    is_chief = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Let go of the other processes."""

    def scope(self):
        """Return the context in which variables are made, one copy a device."""
        return contextlib.nullcontext()

    def check_batch_size(self, batch_size):
        """Raise ValueError unless a batch can be split evenly over the replicas."""
        if batch_size % self.num_replicas:
            raise common.InputError(
                f'a batch of {batch_size} images (--batch_p times --batch_k) cannot be '
                f'split evenly over {self.num_replicas} devices; choose a multiple of '
                f'{self.num_replicas}'
            )

    def part(self, batch_size):
        """Return which images of a batch this process reads, a slice."""
        return slice(0, batch_size)

    def split(self, images):
        """Give every device of this process its share of the images that it read.

        Args:
            images: [part of B, ...], see `part`.

        Returns:
            What `run` takes.
        """
        return images

    def run(self, function, images, *shared):
        """Call a function on every device; from within a tf.function.

        Args:
            function: of a device's images and `shared`; within it, `gather` and
                `average` can be called. Its result is a dict of tensors.
            images: of `split`.
            shared: the same on all devices.

        Returns:
            dict of tensors, the result of this process' first device.
        """
        return function(images, *shared)

    def gather(self, values):
        """Return the values [B / R, ...] of all devices, [B, ...], differentiable."""
        return values

    def average(self, variables):
        """Replace each device's copy of variables by the mean over the devices."""
        del variables  # The only copy.

    def any(self, is_true):
        """Say whether something is true on at least one of the processes.

        Like `exchange`, all of them have to call it, and wait for each other.
        """
        return is_true

    def exchange(self, value):
        """Return what each process passed here, a list, that of the chief first.

        Args:
            value: anything that JSON can express.
        """
        return [value]

    def check_same(self, make_values, what_to_do):
        """Raise ValueError if processes disagree.

        Args:
            make_values: function that returns a dict of things to compare,
                name -> anything that JSON can express.
            what_to_do: end of the message.
        """


class Replicas(OneReplica):
    """Several devices under a tf.distribute.Strategy.

    Args:
        strategy: tf.distribute.Strategy with a copy of each variable on each device.
    """

    def __init__(self, strategy):
        self.strategy = strategy
        self.num_replicas = strategy.num_replicas_in_sync
        # Devices of this process, the first of which has this number.
        self.num_local = len(strategy.extended.worker_devices)
        self.first_local = 0

    def scope(self):
        """Return the context in which variables are made, one copy a device."""
        return self.strategy.scope()

    def part(self, batch_size):
        """Return which images of a batch this process reads, a slice."""
        share = batch_size // self.num_replicas
        return slice(
            self.first_local * share, (self.first_local + self.num_local) * share
        )

    def split(self, images):
        """See OneReplica."""
        share = len(images) // self.num_local

        def share_of(context):
            first = (context.replica_id_in_sync_group - self.first_local) * share
            return images[first : first + share]

        return self.strategy.experimental_distribute_values_from_function(share_of)

    def run(self, function, images, *shared):
        """See OneReplica."""
        outcome = self.strategy.run(function, (images, *shared))
        first = self.first_result
        return {name: first(values) for name, values in outcome.items()}

    def first_result(self, values):
        """Return the value of this process' first device."""
        return self.strategy.experimental_local_results(values)[0]

    def gather(self, values):
        """See OneReplica."""
        # A bare argument of the function that runs has no device to be gathered to.
        values = tf.identity(values)
        gathered = tf.distribute.get_replica_context().all_gather(values, axis=0)
        return tf.ensure_shape(gathered, [None, *values.shape[1:]])

    def average(self, variables):
        """See OneReplica."""
        if not variables:
            return
        # See `gather` for the identity.
        means = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in variables]
        )
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)


class MirroredReplicas(Replicas):
    """All GPUs of this machine, or its logical CPU devices where there is none."""

    def __init__(self):
        # Explicitly: a TF_CONFIG in the environment would otherwise count.
        devices = tf.config.list_logical_devices(
            'GPU'
        ) or tf.config.list_logical_devices('CPU')
        super().__init__(tf.distribute.MirroredStrategy([d.name for d in devices]))


class Workers(Replicas):
    """All devices of several processes, which TF_CONFIG tells of each other.

    Args:
        cluster: a Cluster.

    Raises:
        OSError: this worker's port is in use, or another worker is not reached.
    """

    def __init__(self, cluster):
        check_port(cluster)
        self.watchdog = Watchdog(cluster)
        super().__init__(self.meet(cluster))
        self.cluster = cluster
        self.is_chief = cluster.is_chief
        self.first_local = cluster.index * self.num_local
        self.sum_flags = tf.function(self.sum_over_replicas)
        self.gather_codes = tf.function(self.gather_over_replicas)

    def meet(self, cluster):
        """Return the strategy, once all workers are there."""
        # TensorFlow waits for hours: silently, holding Python's lock, deaf to Ctrl+C.
        self.watchdog.say_who_is_missing()
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            raise WorkerError(
                f'worker {cluster.index} of {len(cluster.addresses)} cannot reach the '
                f'others ({common.tensorflow_reason(error)}); start them all, with the '
                'same addresses in TF_CONFIG'
            ) from error
        finally:
            signal.signal(signal.SIGINT, before)

    def __enter__(self):
        # A device's number decides which images it gets and where its embeddings end
        # up; both must follow the order of the addresses.
        with self.explaining_losses():
            order = self.exchange(self.cluster.index)
        assert order == list(range(len(self.cluster.addresses))), order
        self.watchdog.start()
        return self

    def __exit__(self, kind, error, traceback):
        """Leave together, or turn the loss of a worker into one line."""
        if error is None:
            # Who leaves early would be taken for dead by those who still write.
            with contextlib.suppress(tf.errors.OpError):
                self.any(False)
        self.watchdog.stop()
        with self.explaining_losses():
            if isinstance(error, tf.errors.OpError):
                raise error

    @contextlib.contextmanager
    def explaining_losses(self):
        """Turn TensorFlow's error into one that names the worker that is gone."""
        try:
            yield
        except tf.errors.OpError as error:
            is_local = isinstance(error, tf.errors.ResourceExhaustedError)
            gone = None if is_local else self.watchdog.find_first_gone()
            if gone is None:
                raise
            raise WorkerError(self.watchdog.describe(gone)) from error

    def sum_over_replicas(self, values):
        """Return the sum of a PerReplica of tensors."""
        return self.strategy.run(
            lambda value: tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.SUM, tf.identity(value)
            ),
            (values,),
        )

    def gather_over_replicas(self, values):
        """Return the concatenation of a PerReplica of tensors."""
        return self.strategy.run(self.gather, (values,))

    def any(self, is_true):
        """See OneReplica."""
        flags = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant(float(is_true))
        )
        return self.first_result(self.sum_flags(flags)).numpy() > 0

    def exchange(self, value):
        """See OneReplica."""
        # JSON is ASCII and one line, so that lines of text can be gathered as numbers.
        line = [*json.dumps(value).encode('ascii'), *b'\n']
        codes = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant(line, tf.int32)
        )
        gathered = self.first_result(self.gather_codes(codes)).numpy()
        lines = bytes(gathered.tolist()).decode('ascii').splitlines()
        return [json.loads(line) for line in lines[:: self.num_local]]

    def check_same(self, make_values, what_to_do):
        """See OneReplica."""
        values = make_values()
        for worker, others in enumerate(self.exchange(values)):
            for name in sorted(set(values) | set(others)):
                if values.get(name) != others.get(name):
                    raise common.InputError(
                        f'{name} is {values.get(name)} on worker {self.cluster.index} '
                        f'and {others.get(name)} on worker {worker}; {what_to_do}'
                    )


def check_port(cluster):
    """Raise OSError if something else listens on this worker's port."""
    _, port = split_address(cluster.addresses[cluster.index])
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(('', port))
        except OSError as error:
            raise common.FileError(
                f'worker {cluster.index} cannot listen on port {port} '
                f'({error.strerror}); choose another one in TF_CONFIG'
            ) from error


class Watchdog:
    """Ends this process when another worker is gone and TensorFlow does not notice.

    It probes ports, so a worker that hangs but listens counts as there.

    Args:
        cluster: a Cluster.
    """

    def __init__(self, cluster):
        self.cluster = cluster
        self.is_stopped = threading.Event()
        # A daemon: it must not keep a process alive that failed elsewhere.
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def start(self):
        """Begin to watch."""
        self.thread.start()

    def stop(self):
        """Watch no longer."""
        self.is_stopped.set()

    def watch(self):
        """Probe the others until stopped, or until one is gone; then leave."""
        while not self.is_stopped.wait(SECS_BETWEEN_PROBES):
            missing = self.find_missing()
            for _ in range(PROBES - 1):
                if missing and not self.is_stopped.wait(SECS_BETWEEN_PROBES):
                    missing = [
                        worker for worker in self.find_missing() if worker in missing
                    ]
            if missing and not self.is_stopped.wait(GRACE_SECS):
                leave(self.describe(missing[0]))

    def find_missing(self):
        """Return the indices of the other workers that are not reached right now."""
        return [
            worker
            for worker, address in enumerate(self.cluster.addresses)
            if worker != self.cluster.index and not is_reached(address)
        ]

    def find_first_gone(self):
        """Return the index of the first worker not reached after an error, or None."""
        deadline = time.monotonic() + GRACE_SECS
        while time.monotonic() < deadline:
            missing = self.find_missing()
            if missing:
                return missing[0]
            time.sleep(0.5)
        return None

    def say_who_is_missing(self):
        """Name on stderr the workers that do not listen yet."""
        missing = ', '.join(map(self.name, self.find_missing()))
        if missing:
            print(f'waiting for {missing}', file=sys.stderr, flush=True)

    def describe(self, worker):
        """Return the message that a worker is gone."""
        return (
            f'{self.name(worker)} is gone; its own output may say why. Start all '
            'workers again and continue with --resume from the last checkpoint'
        )

    def name(self, worker):
        """Return what to call a worker in messages."""
        return f'worker {worker} ({self.cluster.addresses[worker]})'


def is_reached(address):
    """Say whether something listens at HOST:PORT."""
    try:
        with socket.create_connection(split_address(address), SECS_BETWEEN_PROBES):
            return True
    except OSError:
        return False


def leave(message):
    """End the process at once, with one line on stderr.

    The main thread may hang in TensorFlow, where no exception reaches it.
    """
    command = os.path.basename(sys.argv[0])
    print(f'{command}: error: {message}', file=sys.stderr, flush=True)
    os._exit(1)
