"""What do two workers exchange in a training step, and what should they?

    python -m bench.exchange

Trains twice on two processes of this machine, with few and with more iterations, and
reads from the system how many bytes went over its loopback device: the difference is
that of the iterations alone. Prints it beside the formula of docs/scale.md. Whatever
else uses the loopback device meanwhile is counted, too.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import common
from bench import _sides
from drawn_people.files import write_dataset

# The net, its images and its batch; `heads` give D.
DIM, HEIGHT, WIDTH = 128, 64, 32


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('--model_name', default='small_stripes')
    parser.add_argument('--head_name', default='fc1024')
    parser.add_argument('--batch_p', type=int, default=16)
    parser.add_argument('--batch_k', type=int, default=4)
    parser.add_argument('--few', type=int, default=5, help='Iterations.')
    parser.add_argument('--more', type=int, default=25, help='Iterations.')
    return parser


def read_loopback():
    """Return the bytes that the loopback device has received since the start."""
    lines = pathlib.Path('/proc/net/dev').read_text().splitlines()
    (line,) = (line for line in lines if line.strip().startswith('lo:'))
    return int(line.partition(':')[2].split()[0])


def train(args, directory, num_iterations):
    """Return the bytes that two workers exchange in a run."""
    servers = [socket.create_server(('127.0.0.1', 0)) for _ in range(2)]
    addresses = [f'127.0.0.1:{server.getsockname()[1]}' for server in servers]
    for server in servers:
        server.close()
    words = [
        *('--experiment_root', str(directory / f'run{num_iterations}')),
        *('--train_set', str(directory / 'people_train.csv')),
        *('--image_root', str(directory / 'people'), '--model_name', args.model_name),
        *('--head_name', args.head_name, '--embedding_dim', str(DIM)),
        *('--net_input_height', str(HEIGHT), '--net_input_width', str(WIDTH)),
        *('--batch_p', str(args.batch_p), '--batch_k', str(args.batch_k)),
        *('--train_iterations', str(num_iterations), '--checkpoint_frequency', '0'),
        *('--distribute', 'multi_worker', '--quiet', '--seed', '1'),
    ]
    before = read_loopback()
    workers = []
    for index in range(2):
        task = {'type': 'worker', 'index': index}
        cluster = json.dumps({'cluster': {'worker': addresses}, 'task': task})
        workers.append(
            subprocess.Popen(
                [sys.executable, str(_sides.ROOT / 'train.py'), *words],
                env={**os.environ, 'TF_CONFIG': cluster},
            )
        )
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit('a worker failed')
    return read_loopback() - before


def count_parameters(args):
    """Return (trained parameters, channels of batch norms) of the net."""
    common.start_tensorflow()
    import layers
    import model

    network = model.build_model(args.model_name, args.head_name, DIM)
    channels = sum(
        layer.gamma.shape[0]
        for layer in network._flatten_layers()
        if isinstance(layer, layers.BatchNorm)
    )
    return sum(w.shape.num_elements() for w in network.trainable_variables), channels


def main(argv=None):
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        write_dataset(directory / 'people')
        subprocess.run(
            [
                *(sys.executable, str(_sides.ROOT / 'make_csv.py'), 'market1501'),
                *(str(directory / 'people'), '--output_dir', name, '--quiet'),
                *('--prefix', 'people'),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        few, more = (train(args, directory, n) for n in (args.few, args.more))
    measured = (more - few) / (args.more - args.few)
    parameters, channels = count_parameters(args)
    # Of two workers, each sends half of the gradients and half of the sums.
    gradients = 2 * 4 * parameters
    print(
        f'{args.model_name}, {args.head_name}: {parameters} parameters, batch '
        f'{args.batch_p * args.batch_k}\nmeasured, both workers: {measured / 1e6:.3f} '
        f'MB a step\ngradients by formula:   {gradients / 1e6:.3f} MB a step\nbatch '
        f'norms have {channels} channels'
    )


if __name__ == '__main__':
    main()
