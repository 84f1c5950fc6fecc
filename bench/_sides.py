"""What comparisons of two programs share: sides that measure in turn, and yardsticks.

A side is a process that stays, so that its peak memory is its own and nothing is
compiled twice, and that sleeps while the others measure. Only the standard library is
needed here: sides may live in different environments.
"""

import json
import pathlib
import re
import statistics
import subprocess
import sys
import time

# Rows and columns of the matrices whose product is the yardstick, and products timed.
MATRIX_SIZE, NUM_PRODUCTS = 2048, 20


class Side:
    """A process that runs `serve`, seen from the one that compares.

    Args:
        command: list of str that starts it.
        env: dict of its environment. Default: that of this process.
    """

    def __init__(self, command, env=None):
        self.command = [str(word) for word in command]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
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
        self.process.stdin.close()
        self.process.wait()


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


def alternate(sides, num_runs, tasks):
    """Let sides measure in turn.

    Args:
        sides: {name: Side}.
        num_runs: measurements of each task on each side.
        tasks: {name: dict}, what is given to Side.measure.

    Returns:
        {(task name, side name): list [num_runs] of dicts}. What comes before, a
        warm-up on every side, is not in it.
    """
    results = {}
    for task_name, task in tasks.items():
        for side in sides.values():
            side.measure(**task)
        for _ in range(num_runs):
            for side_name, side in sides.items():
                answers = results.setdefault((task_name, side_name), [])
                answers.append(side.measure(**task))
    return results


def peak_memory(process='self'):
    """Return the peak of a process' resident memory in MB.

    Not ru_maxrss, which starts with the peak of the process that started it.

    Args:
        process: its number, or 'self'.
    """
    status = pathlib.Path(f'/proc/{process}/status').read_text(encoding='utf-8')
    return int(re.search(r'VmHWM:\s*(\d+)', status)[1]) / 1000


def draw_people(directory):
    """Draw the demo data set to DIRECTORY/data, and its CSV files beside that."""
    root = pathlib.Path(__file__).resolve().parent.parent
    for script, *flags in (
        ['demo_data.py', f'{directory}/data'],
        ['make_csv.py', 'market1501', f'{directory}/data', '--output_dir', directory],
    ):
        command = [sys.executable, root / script, *flags]
        subprocess.run(command, check=True, capture_output=True)


def count_operations(net_size, embedding_dim=128):
    """Return the floating point operations of ResNet-50 with fc1024 for one image.

    Args:
        net_size: (height, width), pixels.
        embedding_dim: D.
    """
    total = 0
    height, width = net_size[0] // 2, net_size[1] // 2
    total += 7 * 7 * 3 * 64 * height * width
    places = height // 2 * (width // 2)
    channels = 64
    for depth, units, stride in ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1)):
        for unit in range(1, units + 1):
            after = places // stride**2 if unit == units else places
            if unit == 1:
                total += channels * 4 * depth * places
            total += channels * depth * places
            total += (9 * depth * depth + 4 * depth * depth) * after
            places, channels = after, 4 * depth
    total += channels * 1024 + 1024 * embedding_dim
    return 2 * total


def product_rate(multiply):
    """Return the floating point operations per second of a matrix product.

    Args:
        multiply: function without arguments that multiplies two matrices of
            MATRIX_SIZE rows and columns and returns when it is done.
    """
    multiply()
    start = time.perf_counter()
    for _ in range(NUM_PRODUCTS):
        multiply()
    return NUM_PRODUCTS * 2 * MATRIX_SIZE**3 / (time.perf_counter() - start)


def tensorflow_product_rate(precision):
    """Return product_rate of TensorFlow.

    Args:
        precision: 'float32' or 'bfloat16'.
    """
    import tensorflow as tf

    matrix = tf.random.normal((MATRIX_SIZE, MATRIX_SIZE))
    matrix = tf.cast(matrix, precision)
    return product_rate(lambda: (matrix @ matrix)[0, 0].numpy())


def torch_product_rate(precision):
    """Return product_rate of PyTorch.

    Args:
        precision: 'float32' or 'bfloat16'.
    """
    import torch

    matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE).to(getattr(torch, precision))
    return product_rate(lambda: matrix @ matrix)


def spread(values, scale=1.0, digits=2):
    """Return 'median (smallest to largest)' of some numbers."""
    values = [value * scale for value in values]
    return (
        f'{statistics.median(values):.{digits}f} '
        f'({min(values):.{digits}f} to {max(values):.{digits}f})'
    )
