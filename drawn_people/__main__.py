"""Draw a small person re-identification data set, to learn on before Market-1501 is.

    python -m drawn_people ~/data/demo --seed 0 --contact_sheet ~/data/demo.png

Writes bounding_box_train, query and bounding_box_test with Market-1501's file names
(0002_c1s1_000451_03.jpg; 0000 is a distractor, -1 is junk) and demo_data.json with
the seed and the counts. Images are JPEG, 64 wide and 128 high. The same seed gives
the same bytes (with the same OpenCV); a set that is already complete stays as it is.
"""

import common
from drawn_people import contact_sheet, files


def build_parser():
    parser = common.new_parser(__doc__)
    parser.add_argument(
        'output_dir',
        type=common.path,
        help='Directory to create; must be empty or hold this very data set.',
    )
    parser.add_argument(
        '--seed',
        type=common.non_negative_int,
        default=0,
        help='Decides the people, their poses and the split; the cameras stay.',
    )
    parser.add_argument(
        '--contact_sheet',
        type=common.path,
        metavar='FILE.png',
        help='Also write an overview: a row per identity, cameras side by side.',
    )
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    is_new = files.write_dataset(args.output_dir, args.seed)
    counts = files.count_images(args.output_dir).items()
    print(
        f'{args.output_dir} {"now" if is_new else "already"} holds the demo data set '
        f'of seed {args.seed}: {", ".join(f"{n} {subset}" for subset, n in counts)}'
    )
    if args.contact_sheet:
        contact_sheet.write(args.contact_sheet, args.output_dir)
        print(f'wrote {args.contact_sheet}')
    return 0


if __name__ == '__main__':
    common.run(main)
