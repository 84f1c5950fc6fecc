"""A side of bench.embed_speed: PyTorch, channels last, in inference mode.

cv2 reads in threads ahead of the network.
"""

import collections
import concurrent.futures
import itertools

import cv2
import numpy as np
import torch

from bench import _embed_task, _torch_resnet, _yardsticks

# Batches that are read ahead.
BATCHES_AHEAD = 2


def build(task):
    """Return the net with random weights."""
    net = _torch_resnet.ResNet50(task.embedding_dim).eval()
    dtype = getattr(torch, task.precision)
    return net.to(dtype, memory_format=torch.channels_last)


def read(name, size):
    """Return an image as uint8 RGB [height, width, 3] of a size (height, width)."""
    image = cv2.cvtColor(cv2.imread(name), cv2.COLOR_BGR2RGB)
    return cv2.resize(image, (size[1], size[0]))


def read_batches(names, size, batch_size, loading_threads):
    """Yield batches of images, uint8 [B, height, width, 3].

    Args:
        names: list of str, the files.
        size: (height, width), pixels.
        batch_size: B, at most.
        loading_threads: files read at the same time.
    """
    upcoming = collections.deque()
    num_ahead = BATCHES_AHEAD * batch_size
    with concurrent.futures.ThreadPoolExecutor(loading_threads) as pool:
        remaining = iter(names)
        for _ in range(0, len(names), batch_size):
            wanted = num_ahead + batch_size - len(upcoming)
            for name in itertools.islice(remaining, wanted):
                upcoming.append(pool.submit(read, name, size))
            num = min(batch_size, len(upcoming))
            yield np.stack([upcoming.popleft().result() for _ in range(num)])


def make_variants(pixels, net_size):
    """Yield the ten crops [B, C, height, width] of [B, C, H, W], as embed.py does."""
    height, width = net_size
    free_y, free_x = pixels.shape[2] - height, pixels.shape[3] - width
    corners = [(0, 0), (0, free_x), (free_y, 0), (free_y, free_x)]
    for side in (pixels, pixels.flip(3)):
        for y, x in [(free_y // 2, free_x // 2), *corners]:
            crop = side[:, :, y : y + height, x : x + width]
            yield crop.contiguous(memory_format=torch.channels_last)


def embed(net, task):
    """Read and embed a task's files and write the embeddings."""
    embs = []
    read_ahead = read_batches(
        task.names, task.image_size, task.batch_size, task.loading_threads
    )
    with torch.inference_mode():
        for batch in read_ahead:
            # [B, H, W, C] in memory, hence channels-last already.
            pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)  # [B, C, H, W]
            pixels = pixels.to(getattr(torch, task.precision))
            variants = [pixels]
            if task.is_tenfold:
                variants = make_variants(pixels, task.net_size)
            embs.append(np.stack([net(v).float().numpy() for v in variants]))
    embs = np.concatenate(embs, axis=1)  # [A, N, D]
    np.savez(task.filename, emb_aug=embs, emb=embs.mean(axis=0))


def main():
    cv2.setNumThreads(1)  # The loader has threads of its own.
    _embed_task.serve(build, embed, _yardsticks.torch_product_rate)


if __name__ == '__main__':
    main()
