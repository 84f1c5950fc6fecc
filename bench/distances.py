"""What do the distances of a large batch take, in time and memory?

    python -m bench.distances --batch_size 1024 --embedding_dim 2048

Compares loss.cdist, which works in blocks, with the differences of all pairs at once:
Euclidean distances of random embeddings to each other and their gradient, in turn.
Prints the median seconds with their range and the peak memory of each, and the ratios.
The differences of all pairs take about 3 * B * B * D * 4 bytes: where they do not fit,
measure the blocks with --alone.
"""

import statistics

import common
from bench import _sides


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('--batch_size', type=int, default=1024, help='B.')
    parser.add_argument('--embedding_dim', type=int, default=128, help='D.')
    parser.add_argument('--runs', type=int, default=5, help='Measurements of each.')
    parser.add_argument('--alone', action='store_true', help='Measure blocks only.')
    return parser


def describe(name, results):
    """Return a line about the measurements of one form."""
    secs = [result['secs'] for result in results]
    return (
        f'{name}: {statistics.median(secs):.3f} s '
        f'({min(secs):.3f} to {max(secs):.3f}), peak {results[-1]["peak_mb"]:.0f} MB'
    )


def main():
    args = build_parser().parse_args()
    task = {'batch_size': args.batch_size, 'embedding_dim': args.embedding_dim}
    forms = ['blocks'] if args.alone else ['blocks', 'at_once']
    with _sides.closing(
        {form: _sides.Side('_cdist', form=form) for form in forms}
    ) as sides:
        results = _sides.alternate(sides, args.runs, dict.fromkeys(forms, task))
    for form in forms:
        print(describe(form, results[form]))
    if not args.alone:
        secs, peaks = (
            [statistics.median(r[what] for r in results[form]) for form in forms]
            for what in ('secs', 'peak_mb')
        )
        print(
            f'at once against blocks: {secs[1] / secs[0]:.2f} times the time, '
            f'{peaks[1] / peaks[0]:.2f} times the memory'
        )


if __name__ == '__main__':
    main()
