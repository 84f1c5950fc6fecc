"""What commands import, imported: for a process that others are forked from.

TensorFlow starts no threads before its first operation, and is not asked for one here:
a fork has the thread that forks alone.
"""

import importlib
import os

os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'  # What it says of a missing GPU, each time.

# Ours come first: common.py sets how TensorFlow computes.
NAMES = (
    *('common', 'train', 'embed', 'evaluate', 'export', 'make_csv', 'search'),
    *('tensorflow', 'keras', 'h5py', 'cv2', 'tqdm', 'importlib.metadata'),
    *('checkpoints', 'embedder', 'images', 'layers', 'model', 'batches'),
    *('training.diagnosis', 'training.journal', 'training.loop', 'training.step'),
    *('training.optimizers', 'training.settings', 'training.validation'),
    *('training.image_cache', 'nets.mobilenet_v1_1_224', 'heads.direct'),
)

for name in NAMES:
    dir(importlib.import_module(name))  # A lazy module is imported when it is used.
