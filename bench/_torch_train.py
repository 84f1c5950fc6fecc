"""A side of bench.train_speed: the same training step in PyTorch, channels last.

The batch lies in memory: reading, augmentation, metrics, logging are not counted here.
"""

import argparse
import time

import torch
from torch.nn import functional

from bench import _sides, _torch_resnet


def build_parser():
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batch_p', type=int, required=True)
    parser.add_argument('--batch_k', type=int, required=True)
    parser.add_argument('--height', type=int, required=True)
    parser.add_argument('--width', type=int, required=True)
    parser.add_argument('--precision', choices=('float32', 'bfloat16'), required=True)
    return parser


def batch_hard(embs, pids):
    """Return the soft batch-hard loss of embeddings [B, D], a scalar."""
    sq_dists = (embs[:, None] - embs[None]).square().sum(-1)  # [B, B]
    dists = (sq_dists + 1e-12).sqrt()
    is_same = pids[:, None] == pids[None]
    is_self = torch.eye(len(pids), dtype=torch.bool)
    farthest_positive = torch.where(is_same & ~is_self, dists, 0).amax(1)
    nearest_negative = torch.where(is_same, torch.inf, dists).amin(1)
    return functional.softplus(farthest_positive - nearest_negative).mean()


def main():
    args = build_parser().parse_args()
    batch_size = args.batch_p * args.batch_k
    net = _torch_resnet.ResNet50().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 3e-4, eps=1e-8)
    images = torch.rand(batch_size, 3, args.height, args.width) * 255
    images = images.to(memory_format=torch.channels_last)
    pids = torch.arange(args.batch_p).repeat_interleave(args.batch_k)

    def step():
        optimizer.zero_grad()
        is_mixed = args.precision == 'bfloat16'
        with torch.autocast('cpu', torch.bfloat16, enabled=is_mixed):
            embs = net(images)
        mean_loss = batch_hard(embs.float(), pids)
        mean_loss.backward()
        optimizer.step()
        return mean_loss.item()

    def measure(iterations):
        started = time.perf_counter()
        for _ in range(iterations):
            step()
        return {'secs_per_iter': (time.perf_counter() - started) / iterations}

    _sides.serve(measure)


if __name__ == '__main__':
    main()
