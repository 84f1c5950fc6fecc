"""How fast does bulk_embed.py embed on this machine, beside embed.py?

    python -m bench.bulk_speed ~/exp/600 data/market1501_query.csv \\
        ~/Market-1501-v15.09.15

Embeds the first --few and the first --more images of the CSV by embed.py and by
bulk_embed.py with one and with two actors, in turn, --repeats times. Prints the seconds
of both (medians), and images/s of what is between them: the starts, of TensorFlow and
Ray, are in both.
"""

import pathlib
import statistics
import tempfile

import common
from bench import _sides

CONTENDERS = ('embed.py', '1 actor', '2 actors')


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument('experiment_root', type=common.readable_directory)
    parser.add_argument('dataset', type=common.readable_file, help='CSV.')
    parser.add_argument('image_root', type=common.readable_directory)
    parser.add_argument('--few', type=int, default=512, help='Images.')
    parser.add_argument('--more', type=int, default=3072, help='Images.')
    parser.add_argument('--rows_per_part', type=int, default=512)
    parser.add_argument('--repeats', type=int, default=3)
    return parser


def measure(contender, args, csv_file, directory):
    """Return the seconds that a contender takes for a CSV."""
    flags = {
        'experiment_root': args.experiment_root,
        'image_root': args.image_root,
        'quiet': True,
    }
    if contender == 'embed.py':
        command = _sides.script(
            'embed.py', **flags, dataset=csv_file, filename=directory / 'embs.h5'
        )
    else:
        command = _sides.script(
            'bulk_embed.py',
            **flags,
            input=csv_file,
            output=directory / 'parts',
            num_actors=contender.split()[0],
            rows_per_part=args.rows_per_part,
        )
    return _sides.run(command).secs


def main(argv=None):
    args = build_parser().parse_args(argv)
    lines = pathlib.Path(args.dataset).read_text().splitlines(keepends=True)
    secs = {(name, count): [] for name in CONTENDERS for count in (args.few, args.more)}
    for _ in range(args.repeats):
        for (name, count), those in secs.items():
            with tempfile.TemporaryDirectory() as place:
                csv_file = pathlib.Path(place, 'some.csv')
                csv_file.write_text(''.join(lines[:count]))
                those.append(measure(name, args, csv_file, pathlib.Path(place)))
    print(f'{"":9} {args.few:>6} {args.more:>7}  images/s of the others')
    for name in CONTENDERS:
        few, more = (secs[name, count] for count in (args.few, args.more))
        rates = sorted(
            (args.more - args.few) / (b - a) for a, b in zip(few, more, strict=True)
        )
        print(
            f'{name:9} {statistics.median(few):4.1f} s {statistics.median(more):5.1f} s'
            f'  {statistics.median(rates):.1f} ({rates[0]:.1f}-{rates[-1]:.1f})'
        )


if __name__ == '__main__':
    main()
