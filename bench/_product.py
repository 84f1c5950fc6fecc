"""A side that measures the machine's matrix-product rate in TensorFlow or PyTorch."""

import argparse

from bench import _sides, _yardsticks

RATES = {
    'tensorflow': _yardsticks.tensorflow_product_rate,
    'torch': _yardsticks.torch_product_rate,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--library', choices=RATES, required=True)
    product_rate = RATES[parser.parse_args().library]
    _sides.serve(lambda precision: {'rate': product_rate(precision)})


if __name__ == '__main__':
    main()
