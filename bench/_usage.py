"""Runs the command that its arguments are and prints its _sides.Usage as JSON.

A process of its own, because ru_maxrss starts with the peak of the process that starts
the command, and this one has next to nothing in memory.
"""

import json
import resource
import subprocess
import sys
import time


def main():
    started = time.perf_counter()
    finished = subprocess.run(sys.argv[1:], capture_output=True, text=True, check=False)
    secs = time.perf_counter() - started
    if finished.returncode:
        sys.stderr.write(finished.stderr)
        sys.exit(finished.returncode)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    usage = {
        'secs': secs,
        'cpu_secs': used.ru_utime + used.ru_stime,
        'peak_mb': used.ru_maxrss / 1000,
        'output': finished.stdout,
    }
    print(json.dumps(usage))


if __name__ == '__main__':
    main()
