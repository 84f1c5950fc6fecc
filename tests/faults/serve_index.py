"""Search an index in forks of a process that has FAISS: serve_index.py SOCKET CPU ROOM.

On the socket, given by its number, comes the name of an index with what is to be stdin,
stdout and stderr; there, a fork does what `python -m searching._faiss INDEX` does, and
its exit code is answered. It may take CPU seconds, and ROOM bytes.
"""

import os
import resource
import socket
import sys
import traceback

import faiss

from searching import _faiss


def search(filename, streams, seconds, room):
    """Be the process of an index, and end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with open('/proc/self/statm', encoding='ascii') as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 1
    try:
        _faiss.main([filename])
        code = 0
    except SystemExit as end:
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def main(argv):
    number, seconds, room = map(int, argv)
    faiss.omp_set_num_threads(1)  # Threads do not outlive a fork.
    with socket.socket(fileno=number) as server:
        while True:
            filename, streams, _, _ = socket.recv_fds(server, 4096, 3)
            if not filename:
                return
            child = os.fork()
            if not child:
                search(filename.decode(), streams, seconds, room)
            for stream in streams:
                os.close(stream)
            status = os.waitpid(child, 0)[1]
            server.send(b'%d' % os.waitstatus_to_exitcode(status))


if __name__ == '__main__':
    main(sys.argv[1:])
