"""The processes of a comparison: sides that measure in turn, and what they use.

A side is a process that stays, so that its peak memory is its own and nothing is
compiled twice, and that sleeps while the others measure. Only the standard library is
needed here: sides may live in different environments.
"""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import typing

# Where `python -m bench.NAME` finds this package, and the commands are.
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Side:
    """A process that runs `serve`, seen from the one that compares.

    Args:
        module: of this package; it is run as a program.
        python: its interpreter. Default: that of this process.
        **flags: of the program, see to_words.
    """

    def __init__(self, module, python=sys.executable, **flags):
        self.command = [str(python), '-m', f'bench.{module}', *to_words(flags)]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def measure(self, **task):
        """Return what the side's function returns for a task: a dict.

        Raises:
            SystemExit: the side has died.
        """
        try:
            self.process.stdin.write(json.dumps(task) + '\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            answer = ''
        else:
            answer = self.process.stdout.readline()
        if not answer:
            status = self.process.wait()
            raise SystemExit(f'{" ".join(self.command)} ended with status {status}')
        return json.loads(answer)

    def close(self):
        """End the process."""
        # What it was never told is in the buffer of a side that has died.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve(measure):
    """Answer the tasks on stdin, a line each, until there are no more.

    Args:
        measure: function of a task's values that returns a dict. `peak_mb`, the
            process' peak memory so far, is added to it.
    """
    # Whatever a library prints is no answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        answer = measure(**json.loads(line)) | {'peak_mb': peak_memory()}
        print(json.dumps(answer), file=answers, flush=True)


@contextlib.contextmanager
def closing(sides):
    """Return a context at whose end sides, {name: Side}, are closed."""
    try:
        yield sides
    finally:
        for side in sides.values():
            side.close()


def alternate(sides, num_runs, tasks):
    """Let sides measure in turn.

    Args:
        sides: {name: Side}.
        num_runs: measurements on each side.
        tasks: {name: dict}, what is given to each Side.measure.

    Returns:
        {name: list [num_runs] of dicts}. What comes before, a warm-up on every side, is
        not in it.
    """
    for name, side in sides.items():
        side.measure(**tasks[name])
    results = {name: [] for name in sides}
    for _ in range(num_runs):
        for name, side in sides.items():
            results[name].append(side.measure(**tasks[name]))
    return results


def to_words(flags):
    """Return the words of a command line, list of str.

    Args:
        flags: {name: value}; True is a flag without a value, None no flag.
    """
    words = []
    for name, value in flags.items():
        if value is not None:
            words += [f'--{name}'] if value is True else [f'--{name}', str(value)]
    return words


def script(name, *arguments, **flags):
    """Return the words that start a command of ours, list of str.

    Args:
        name: of a file in the root.
        *arguments: that have no flags.
        **flags: see to_words.
    """
    words = [sys.executable, ROOT / name, *arguments, *to_words(flags)]
    return [str(word) for word in words]


def module(name, *arguments):
    """Return the words that start a package of ours, list of str; see `script`."""
    return [sys.executable, '-m', name, *map(str, arguments)]


class Usage(typing.NamedTuple):
    """What a command used from start to end.

    Attributes:
        secs: wall time.
        cpu_secs: processor time.
        peak_mb: peak of its resident memory.
        output: what it wrote to stdout.
    """

    secs: float
    cpu_secs: float
    peak_mb: float
    output: str


def run(command, env=None):
    """Run a command; return its Usage.

    Args:
        command: list of str.
        env: dict of its environment. Default: that of this process.

    Raises:
        SystemExit: it failed.
    """
    measured = subprocess.run(
        [sys.executable, '-m', 'bench._usage', *command],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=env,
        check=False,
    )
    if measured.returncode:
        raise SystemExit(f'{" ".join(command)} failed')
    return Usage(**json.loads(measured.stdout))


def peak_memory(process='self'):
    """Return the peak of a process' resident memory in MB.

    Not ru_maxrss, which starts with the peak of the process that started it.

    Args:
        process: its number, or 'self'.
    """
    return read_status(process, 'VmHWM')


def resident_memory(process):
    """Return the resident memory of a process in MB, by its number."""
    return read_status(process, 'VmRSS')


def read_status(process, field):
    """Return a field of a process' status in MB; None if the process has ended."""
    status = pathlib.Path(f'/proc/{process}/status').read_text(encoding='utf-8')
    found = re.search(rf'{field}:\s*(\d+)', status)
    return int(found[1]) / 1000 if found else None
