"""The flags of what is ranked, and how, which evaluate.py and visualize.py share."""

import common
import excluders
from evaluation import ranking


def add_flags(parser):
    """Add the flags that say what is ranked, and how, to an argument parser."""
    required = parser.add_argument_group('required')
    required.add_argument(
        '--excluder',
        required=True,
        choices=excluders.EXCLUDER_CHOICES,
        help='Which gallery images a query ignores: those of its PID by its own '
        'camera under the naming rules of a data set, or (diagonal) itself.',
    )
    for side in ('query', 'gallery'):
        required.add_argument(
            f'--{side}_dataset',
            required=True,
            type=common.path,
            metavar='CSV',
            help=f'The {side} set: one PID,FID row an image.',
        )
        required.add_argument(
            f'--{side}_embeddings',
            required=True,
            type=common.path,
            metavar='HDF5',
            help=f'Its embeddings, as embed.py writes them: emb [N, D] in the order '
            f'of --{side}_dataset. NumPy files do too (.npy, .npz).',
        )
    ranked = parser.add_argument_group('ranking')
    ranked.add_argument(
        '--metric',
        choices=ranking.METRIC_CHOICES,
        default='euclidean',
        help='Distance by which the gallery is ranked.',
    )
    ranked.add_argument(
        '--batch_size',
        type=common.positive_int,
        default=256,
        help='Queries ranked at once, at most. More needs more memory; the result is '
        'the same.',
    )
