#!/usr/bin/env python3
"""A side that measures the machine's matrix-product rate in TensorFlow or PyTorch."""

import pathlib
import sys

import _sides


def main():
    if sys.argv[1] == 'tensorflow':
        sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
        import common

        common.start_tensorflow()
    rate = {
        'tensorflow': _sides.tensorflow_product_rate,
        'torch': _sides.torch_product_rate,
    }[sys.argv[1]]
    _sides.serve(lambda precision: {'rate': rate(precision)})


if __name__ == '__main__':
    main()
