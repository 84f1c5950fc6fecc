"""Several processes that share each batch: who they are, and what they tell each other.

TensorFlow finds them in the environment variable TF_CONFIG.
"""

import contextlib
import json
import signal
import socket
import typing

import common
from training.replicas import Replicas
from training.watchdog import Watchdog, split_address

tf = common.lazy_import('tensorflow')

EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


class WorkerError(common.InputError, ConnectionError):
    """Another worker has failed, is gone, or was never reached."""


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
        InputError: it describes none, or has other tasks than workers and one chief.
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
        strategy = self.meet(cluster)
        super().__init__(strategy, len(strategy.extended.worker_devices))
        self.cluster = cluster
        self.is_chief = cluster.is_chief
        self.first_local = cluster.index * self.num_local
        self.ends_together = False  # After an error that all know of.
        self.sum_flags = tf.function(self.sum_over_replicas, autograph=False)
        self.gather_codes = tf.function(self.gather_over_replicas, autograph=False)

    def meet(self, cluster):
        """Return the strategy, once all workers are there."""
        # TensorFlow waits for hours: silently, holding Python's lock, deaf to Ctrl+C.
        # SIGTERM it catches itself, for its news of preemptions, and does nothing.
        self.watchdog.say_who_is_missing()
        before = {
            number: signal.signal(number, signal.SIG_DFL)
            for number in common.find_ending()
        }
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            raise WorkerError(
                f'worker {cluster.index} of {len(cluster.addresses)} cannot reach the '
                f'others ({common.tensorflow_reason(error)}); start them all, with the '
                'same addresses in TF_CONFIG'
            ) from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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
        if error is None or self.ends_together:
            # Who leaves early would be taken for dead by those who still write.
            with contextlib.suppress(tf.errors.OpError):
                self.any(False)
        self.watchdog.stop()
        with self.explaining_losses():
            if isinstance(error, tf.errors.OpError) and not self.ends_together:
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
        """See Replicas."""
        flags = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant(float(is_true))
        )
        return self.first_result(self.sum_flags(flags)).numpy() > 0

    def end_together(self, failure):
        """See Replicas."""
        reason = None
        if failure is not None:
            reason = common.describe_error(failure) or 'its own output says why'
        reasons = self.exchange(reason)
        self.ends_together = any(reasons)
        super().end_together(failure)
        for worker, reason in enumerate(reasons):
            if reason is not None:
                raise WorkerError(f'{self.watchdog.name(worker)} has failed: {reason}')

    def exchange(self, value):
        """See Replicas."""
        # JSON is ASCII and one line, so that lines of text can be gathered as numbers.
        line = [*json.dumps(value).encode('ascii'), *b'\n']
        codes = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant(line, tf.int32)
        )
        gathered = self.first_result(self.gather_codes(codes)).numpy()
        lines = bytes(gathered.tolist()).decode('ascii').splitlines()
        return [json.loads(line) for line in lines[:: self.num_local]]

    def check_same(self, make_values, what_to_do):
        """See Replicas."""
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
