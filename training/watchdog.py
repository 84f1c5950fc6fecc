"""Notices that another worker is gone, or hangs, where TensorFlow would not say so."""

import os
import socket
import sys
import threading
import time

import common

# A worker is gone when it does not answer this often in a row, this many seconds
# apart, each time within as many. TensorFlow mostly notices first; what it does not
# notice, such as a machine without power, it would wait for forever.
PROBES, SECS_BETWEEN_PROBES = 3, 5
# What a client of gRPC, as TensorFlow's workers are, says first (RFC 9113, section 3.4,
# with empty settings). The server's threads answer it, busy or not. Of a process that
# is stopped, the system would go on to accept connections.
GREETING = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
# How long TensorFlow's own error may take to end the process in an orderly manner, and
# a worker that failed to leave its port after that error.
GRACE_SECS = 15


class Watchdog:
    """Ends this process when another worker is gone and TensorFlow does not notice.

    It greets the others from time to time; who hangs does not greet back.

    Args:
        cluster: a workers.Cluster.
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
        """Return the indices of the other workers that do not answer right now."""
        return [
            worker
            for worker, address in enumerate(self.cluster.addresses)
            if worker != self.cluster.index and not answers(address)
        ]

    def find_first_gone(self):
        """Return the index of the first worker silent after an error, or None."""
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
            f'{self.name(worker)} {self.fate(worker)}. Start all workers again and '
            'continue with --resume from the last checkpoint'
        )

    def fate(self, worker):
        """Return what there is to say of a worker that does not answer."""
        if is_accepted(self.cluster.addresses[worker]):
            return 'does not answer: it is stopped, or hangs; end it'
        return 'is gone; its own output may say why'

    def name(self, worker):
        """Return what to call a worker in messages."""
        return f'worker {worker} ({self.cluster.addresses[worker]})'


def split_address(address):
    """Return (host, port) of 'HOST:PORT'; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(':')
    return host.strip('[]'), int(port)


def answers(address):
    """Say whether a worker at HOST:PORT answers a greeting."""
    try:
        with connect(address) as connection:
            connection.sendall(GREETING)
            return connection.recv(1) != b''
    except OSError:
        return False


def is_accepted(address):
    """Say whether something listens at HOST:PORT, though it may not answer."""
    try:
        with connect(address):
            return True
    except OSError:
        return False


def connect(address):
    """Return a connection to HOST:PORT; it waits as long as a probe may."""
    return socket.create_connection(split_address(address), SECS_BETWEEN_PROBES)


def leave(message):
    """End the process at once, with one line on stderr, and in the log.

    The main thread may hang in TensorFlow, where no exception reaches it.
    """
    command = os.path.basename(sys.argv[0])
    print(f'{command}: error: {message}', file=sys.stderr, flush=True)
    common.log_last_words(message)
    os._exit(1)
