"""Is a command slower than that of an earlier commit?

    git worktree add ~/before bf6ae49
    python -m bench.before ~/before --rounds 5

Draws images. In each round, each command of the earlier checkout and of this one is run
in turn, as whole processes: train.py trains a small net on batches of 18 x 4 images of
128x64 and writes a checkpoint every fifth of its iterations, embed.py embeds all images
with this net, evaluate.py scores them. A round before the first one is not counted.

Prints each command's median and range: wall time here, and how many times that before
it is, of each round; likewise of its processor time, which other work changes less.
"""

import os
import pathlib
import tempfile

import common
from bench import _sides
from bench._yardsticks import draw_jpegs, spread

COMMANDS = ('train', 'embed', 'evaluate')
IMAGES_PER_PID = 4


def build_parser():
    """Return the parser of the flags."""
    parser = common.new_parser(__doc__)
    parser.add_argument(
        'before', type=pathlib.Path, help='Directory of the earlier checkout.'
    )
    parser.add_argument(
        '--commands', nargs='+', choices=COMMANDS, default=COMMANDS, help='Compared.'
    )
    parser.add_argument('--rounds', type=int, default=5, help='That are counted.')
    parser.add_argument('--images', type=int, default=2000, help='That are embedded.')
    parser.add_argument('--iterations', type=int, default=100, help='Of train.py.')
    return parser


def make_data(directory, num_images):
    """Write images and a CSV of them, IMAGES_PER_PID a PID; return its name."""
    names = draw_jpegs(directory, num_images)
    lines = [
        f'{i // IMAGES_PER_PID},{pathlib.Path(name).name}\n'
        for i, name in enumerate(names)
    ]
    dataset = directory / 'drawn.csv'
    dataset.write_text(''.join(lines), encoding='utf-8')
    return dataset


def build_words(checkout, dataset, root, num_iterations):
    """Return {command: the words that start it} of a checkout.

    Args:
        checkout: pathlib.Path.
        dataset: see make_data.
        root: pathlib.Path of its experiment root.
        num_iterations: of train.py.
    """
    embs = root / 'drawn_embeddings.h5'
    flags = {
        'train': {
            'experiment_root': root,
            'train_set': dataset,
            'image_root': dataset.parent,
            'model_name': 'small_stripes',
            'head_name': 'direct',
            'net_input_height': 128,
            'net_input_width': 64,
            'batch_p': 18,
            'batch_k': IMAGES_PER_PID,
            'train_iterations': num_iterations,
            'checkpoint_frequency': max(1, num_iterations // 5),
        },
        'embed': {'experiment_root': root, 'dataset': dataset, 'filename': embs},
        'evaluate': {
            'query_dataset': dataset,
            'gallery_dataset': dataset,
            'query_embeddings': embs,
            'gallery_embeddings': embs,
            'excluder': 'diagonal',
        },
    }
    return {
        name: _sides.script(checkout / f'{name}.py', **flags[name]) for name in COMMANDS
    }


def run_round(words):
    """Return {command: {checkout: _sides.Usage}} of commands, in turn.

    Args:
        words: {checkout: {command: the words that start it}}.
    """
    # Both sides keep what they compile of their sources, as by default.
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONDONTWRITEBYTECODE'}
    names = next(iter(words.values()))
    return {
        name: {checkout: _sides.run(words[checkout][name], env) for checkout in words}
        for name in names
    }


def describe(name, before, here):
    """Return a line about a command's lists of _sides.Usage."""
    ratios = [
        [
            getattr(a, field) / getattr(b, field)
            for a, b in zip(here, before, strict=True)
        ]
        for field in ('secs', 'cpu_secs')
    ]
    return (
        f'{name}: {spread([usage.secs for usage in here])} s, '
        f'{spread(ratios[0], digits=2)} times that before; '
        f'processor time {spread(ratios[1], digits=2)} times'
    )


def main():
    args = build_parser().parse_args()
    before = args.before.resolve()
    if before == _sides.ROOT or not (before / 'train.py').is_file():
        raise SystemExit(f'{before} is no other checkout: git worktree add makes one')
    rounds = []
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        dataset = make_data(directory, args.images)
        roots = {before: directory / 'before', _sides.ROOT: directory / 'here'}
        first = {
            checkout: build_words(checkout, dataset, root, args.iterations)
            for checkout, root in roots.items()
        }
        run_round(first)
        for number in range(args.rounds):
            words = {}
            for checkout, root in roots.items():
                place = root / str(number)  # Where a run can start.
                new = build_words(checkout, dataset, place, args.iterations)
                every = first[checkout] | {'train': new['train']}
                words[checkout] = {name: every[name] for name in args.commands}
            rounds.append(run_round(words))
            # Who comes first has the colder machine.
            roots = dict(reversed(roots.items()))
    for name in args.commands:
        sides = [[one[name][tree] for one in rounds] for tree in (before, _sides.ROOT)]
        print(describe(name, *sides))


if __name__ == '__main__':
    main()
