#!/usr/bin/env python3
"""Hand a trained network to other runtimes, and prove that it embeds there as here.

    python export.py --experiment_root ~/exp/market --format saved_model onnx litert

Writes a file or directory of each format, with a JSON file beside it, to the directory
`export` in the experiment root. Each is then loaded by its own runtime in a process of
its own and embeds real images; a table compares the embeddings, the sizes and the
speed. What differs too much is not kept, and the exit code is 1.
"""

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import tempfile
import time
import typing

import numpy as np

import common
import datasets
import deployment
import embedder
import excluders
import run_args
from deployment import _parity, _run, _sidecar
from evaluation import ranking
from excluders import EXCLUDER_CHOICES

# Imported at first use, so that --help and a mistyped flag answer at once.
batches = common.lazy_import('batches')
checkpoints = common.lazy_import('checkpoints')
_exported = common.lazy_import('deployment._exported')


def build_parser():
    """Return the parser of export.py's flags."""
    parser = common.new_parser(__doc__)
    required = parser.add_argument_group('required')
    embedder.add_experiment_root(required)
    required.add_argument(
        '--format',
        required=True,
        nargs='+',
        choices=deployment.FORMAT_CHOICES,
        help='What to write; docs/deployment.md says what each is for.',
    )
    embedder.add_checkpoint(parser)
    parser.add_argument(
        '--input',
        choices=('pixels', 'encoded'),
        default='pixels',
        help='What the network takes: images of its own size, or the content of image '
        'files, which are decoded and resized within (saved_model only).',
    )
    parser.add_argument(
        '--filename',
        type=common.path,
        help='Name without the end, which each format adds; relative to the experiment '
        'root. Default: export/ and the name of the checkpoint.',
    )
    add_check_flags(parser)
    add_card_flags(parser)
    common.add_quiet(parser)
    return parser


def add_check_flags(parser):
    """Add the flags of what the exported networks are compared on, to a parser."""
    check = parser.add_argument_group('check')
    check.add_argument(
        '--check_images',
        type=common.path,
        metavar='CSV',
        help='Images that both embed, and that int8 is calibrated on. Default: the '
        "run's validation set, or else its training set.",
    )
    check.add_argument(
        '--num_check_images',
        type=common.positive_int,
        default=256,
        help='How many of them, spread evenly over the CSV.',
    )
    check.add_argument(
        '--image_root',
        type=common.path,
        help="Directory that all FIDs are relative to. Default: the training run's.",
    )
    check.add_argument(
        '--query_dataset',
        type=common.path,
        help='With --gallery_dataset and --excluder: compare the mAP, too, which takes '
        'as long as embedding both sets twice for each format.',
    )
    check.add_argument(
        '--gallery_dataset',
        type=common.path,
        help='See --query_dataset.',
    )
    check.add_argument(
        '--excluder',
        choices=EXCLUDER_CHOICES,
        help='Which gallery images a query ignores; see evaluate.py.',
    )
    datasets.add_outside_flag(check)
    datasets.add_header_flag(check)
    common.add_loading_threads(check)


def add_card_flags(parser):
    """Add the flags of the model card of hub_folder, to a parser."""
    card = parser.add_argument_group('model card of hub_folder')
    card.add_argument(
        '--licence',
        '--license',
        help="Licence of the weights, by Hugging Face's names, such as cc-by-nc-4.0.",
    )
    card.add_argument(
        '--scores',
        type=common.readable_file,
        help='JSON file that evaluate.py has written: the scores on the card.',
    )


def parse_args(argv):
    """Return the checked flags."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.input == 'encoded' and args.format != ['saved_model']:
        parser.error(
            '--input encoded is for --format saved_model alone: other runtimes do not '
            'decode images'
        )
    if 'hub_folder' in args.format and args.licence is None:
        parser.error(
            '--format hub_folder needs a --licence for the model card, such as '
            'cc-by-nc-4.0; what the images permit decides it'
        )
    ranked = (args.query_dataset, args.gallery_dataset, args.excluder)
    if any(ranked) and not all(ranked):
        parser.error(
            '--query_dataset, --gallery_dataset and --excluder belong together: give '
            'all three, or none'
        )
    return args


def load_formats(names):
    """Return {name: module of deployment}, in order.

    Raises:
        InputError: what one needs is not installed.
    """
    modules = {name: importlib.import_module(f'deployment.{name}') for name in names}
    for name, module in modules.items():
        for needed in module.NEEDS:
            try:
                importlib.metadata.version(needed)
            except importlib.metadata.PackageNotFoundError as error:
                raise common.InputError(
                    f'--format {name} needs {needed}; install it: pip install -r '
                    'requirements-export.txt'
                ) from error
    return modules


def choose_check_images(csv_file, stored, root):
    """Return the name of the CSV whose images are compared.

    Args:
        csv_file: of the flags, or None.
        stored: {flag: value} of args.json.
        root: of the run, for the message.

    Raises:
        InputError: nobody names one that is there.
    """
    if csv_file is not None:
        return csv_file
    names = [stored.get(name) for name in ('val_set', 'train_set')]
    flat = [one[0] if isinstance(one, list) and one else one for one in names]
    for name in flat:
        if isinstance(name, str) and os.path.isfile(name):
            return name
    raise common.InputError(
        f'the data sets that {root}/args.json names are not here; give --check_images '
        'the CSV of some images'
    )


def read_paths(csv_file, image_root, has_header, allows_outside, count=None):
    """Return (datasets.Dataset, paths) of a CSV, or of some of its rows.

    Args:
        csv_file: its name.
        image_root: directory that its FIDs are relative to.
        has_header, allows_outside: see datasets.
        count: rows to take, spread evenly; None: all.
    """
    dataset = datasets.read(csv_file, has_header, image_root)
    if count is not None:
        count = min(count, len(dataset.fids))
        rows = np.linspace(0, len(dataset.fids) - 1, count).astype(int)
        dataset = dataset.select(rows)
    datasets.check_inside(csv_file, dataset.fids, image_root, allows_outside)
    datasets.check_images_exist(csv_file, dataset.fids, image_root)
    return dataset, datasets.join_paths(image_root, dataset.fids)


class Check:
    """Real images, as the checkpoint's network sees them; a context manager.

    Args:
        ours: embedder.Embedder.
        paths: [N] of str, the images.
        kind: 'pixels' or 'encoded'.
        loading_threads: images read at the same time.

    Attributes:
        pixels: float32 [N, H, W, 3].
        filename: of a file of the images for _parity.Child.
    """

    def __init__(self, ours, paths, kind, loading_threads):
        self.ours = ours
        self.paths = paths
        self.kind = kind
        self.loading_threads = loading_threads

    def __enter__(self):
        self.pixels = self.read(self.paths)
        self.directory = tempfile.TemporaryDirectory()
        try:
            self.filename = self.store('images', self.paths, self.pixels)
        except BaseException:
            self.directory.cleanup()
            raise
        return self

    def __exit__(self, *_):
        self.directory.cleanup()

    def read(self, paths):
        """Return images as the network sees them, float32 [n, H, W, 3]."""
        read = batches.image_batches(
            paths, self.ours.net_size, _parity.BATCH_SIZE, self.loading_threads
        )
        return np.concatenate([batch.numpy() for _, batch in read])

    def store(self, name, paths, pixels):
        """Return the name of a file of images for _parity.Child."""
        if self.kind == 'encoded':
            filename = os.path.join(self.directory.name, f'{name}.json')
            common.write_json(filename, [os.path.abspath(path) for path in paths])
            return filename
        filename = os.path.join(self.directory.name, f'{name}.npy')
        np.save(filename, pixels)
        return filename

    def embed(self):
        """Return (embeddings float32 [N, D], secs) of the checkpoint's network."""
        started = time.perf_counter()
        if self.kind == 'encoded':
            embs = self.ours.embed(self.paths, batch_size=_parity.BATCH_SIZE)
        else:
            embs = self.embed_pixels(self.pixels)
        return embs, time.perf_counter() - started

    def embed_pixels(self, pixels):
        """Return the embeddings of images, float32 [n, D]."""
        size = _parity.BATCH_SIZE
        return np.concatenate(
            [
                self.ours.embed_batch(pixels[first : first + size])[0]
                for first in range(0, len(pixels), size)
            ]
        )

    def embed_twice(self, child, paths):
        """Return (ours, the child's) embeddings of any number of images, [N, D] each.

        Args:
            child: _parity.Child.
            paths: [N] of str.
        """
        pairs = []
        for first in range(0, len(paths), MOST_AT_ONCE):
            some = paths[first : first + MOST_AT_ONCE]
            pixels = self.read(some)
            embs, _ = child.embed(self.store('ranked', some, pixels))
            pairs.append((self.embed_pixels(pixels), embs))
        return [np.concatenate(side) for side in zip(*pairs, strict=True)]


# Images of query and gallery that are in memory at the same time.
MOST_AT_ONCE = 2048


class Ranked(typing.NamedTuple):
    """Query and gallery, to score exported networks on.

    Attributes:
        query, gallery: (datasets.Dataset, paths) each.
        excluder: one of EXCLUDER_CHOICES.
        metric: one of ranking.METRIC_CHOICES.
    """

    query: tuple
    gallery: tuple
    excluder: str
    metric: str

    def score(self, query_embs, gallery_embs):
        """Return the mAP of embeddings, float32 [Q, D] and [G, D]."""
        (query, _), (gallery, _) = self.query, self.gallery
        ranks = ranking.rank(
            ranking.EmbeddingDistances(query_embs, gallery_embs, self.metric),
            query.pids,
            gallery.pids,
            excluders.make_mask(self.excluder, query, gallery),
        )
        return ranking.mean_step_average_precision(ranks)


def export(run, name, module, kind, target, check, ranked):
    """Write one format, check it, and give it its name; return its _parity.Parity.

    Args:
        run: _run.Run.
        name: of the format.
        module: of deployment.
        kind: 'pixels' or 'encoded'.
        target: name of the file or directory.
        check: Check.
        ranked: Ranked, or None.

    Raises:
        InputError: it cannot be made, its runtime does not load it, or its embeddings
            are others; nothing is kept.
    """
    with common.directory_beside(target) as made:
        partial = os.path.join(made, os.path.basename(target))
        write(run, name, module, kind, partial, check.pixels)
        with _parity.Child(name, partial, kind) as child:
            parity = _parity.measure(
                child,
                check.embed,
                check.filename,
                run.embedder.metric,
                _parity.count_bytes(partial),
            )
            refuse_difference(name, parity, module.TOLERANCE)
            if ranked is not None:
                sides = [
                    check.embed_twice(child, paths)
                    for _, paths in (ranked.query, ranked.gallery)
                ]
                ours, theirs = (ranked.score(*s) for s in zip(*sides, strict=True))
                parity = parity._replace(mean_ap=theirs, tensorflow_mean_ap=ours)
        told = _run.describe(run, name, kind, parity, _sidecar.hash_files(partial))
        with common.complete_file(f'{target}.json') as beside:
            common.dump_json(beside, told)
            common.sync(beside)
            sync_all(partial)
            # Nothing that follows needs room on the disk. What tells of an older file
            # must not stand beside the new one at any time.
            common.remove(os.path.realpath(f'{target}.json'))
            replace(partial, os.path.realpath(target))
    return parity


def write(run, name, module, kind, partial, calibration):
    """Write one format under a temporary name; see export."""
    if getattr(module, 'IS_DIRECTORY', False):
        os.mkdir(partial)
    is_of_run = getattr(module, 'OF_RUN', False)
    source = run if is_of_run else _exported.Exported(run.embedder)
    try:
        with common.silent_stderr(), contextlib.redirect_stdout(None):
            if kind == 'encoded':
                module.write_encoded(source, partial)
            else:
                module.write(source, partial, calibration)
    except (OSError, MemoryError, common.InputError):
        raise
    except Exception as error:  # Of a converter, which raises what it likes.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise common.InputError(
            f'the network cannot be written as {name} ({reason[0]}); leave that format '
            'out, or choose another --model_name for the next run'
        ) from error


def refuse_difference(name, parity, tolerance):
    """Raise InputError if embeddings differ by more than a format may."""
    # So that NaN fails.
    if not parity.difference <= tolerance:
        raise common.InputError(
            f'{name} embeds otherwise: the largest difference is '
            f'{parity.difference:.1e} of the rms of the embeddings, at most '
            f'{tolerance:.0e} was expected; it is not kept'
        )


def sync_all(path):
    """Wait until a file, or all in a directory, would survive a power loss."""
    for directory, _, names in os.walk(path):
        for name in names:
            common.sync(os.path.join(directory, name))
        common.sync(directory)
    if os.path.isfile(path):
        common.sync(path)


def replace(partial, target):
    """Give a file or directory its name; an older directory gets that of `partial`."""
    if os.path.isdir(partial) and os.path.isdir(target):
        exchange(partial, target)
    else:
        os.replace(partial, target)
    common.sync(os.path.dirname(target))


# Of Linux: paths are relative to the current directory; two names change places.
AT_FDCWD, RENAME_EXCHANGE = -100, 2


def exchange(one, other):
    """Let two directories change names, in one step if the file system can do that.

    If not (NFS), the second has a name that ends in .old meanwhile, and keeps it if
    the process is killed.
    """
    rename = getattr(ctypes.CDLL(None), 'renameat2', None)
    names = [AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other)]
    if rename is None or rename(*names, RENAME_EXCHANGE):
        between = tempfile.mkdtemp(
            '.old', f'{os.path.basename(other)}.', os.path.dirname(other)
        )
        os.rename(other, between)  # In the place of an empty one.
        os.rename(one, other)
        os.rename(between, one)


def open_run(root, checkpoint, stored, name, licence, scores):
    """Return the _run.Run of a checkpoint."""
    # Found once: a run that goes on may write another meanwhile.
    prefix = checkpoints.find(root, checkpoint)
    name_of_it = os.path.basename(prefix)
    ours = embedder.Embedder.load(root, name_of_it, precision='float32')
    weights = checkpoints.WeightsFile(prefix)
    has_step = checkpoints.STEP_NAME in weights.shapes
    return _run.Run(
        root,
        prefix,
        int(weights.read(checkpoints.STEP_NAME)) if has_step else 0,
        stored,
        ours,
        checkpoints.fingerprint(checkpoints.variables_by_name(ours.network)),
        name or os.path.basename(os.path.abspath(root)),
        licence,
        scores,
    )


def main(argv=None):
    args = parse_args(argv)
    stored = run_args.read(args.experiment_root)
    modules = load_formats(args.format)
    image_root = embedder.choose_image_root(args.image_root, args.experiment_root)
    more = (image_root, args.csv_header, args.allow_outside_image_root)
    csv_file = choose_check_images(args.check_images, stored, args.experiment_root)
    _, paths = read_paths(csv_file, *more, args.num_check_images)
    scores = None if args.scores is None else common.read_object(args.scores)
    ranked = None
    if args.excluder is not None:
        ranked = Ranked(
            read_paths(args.query_dataset, *more),
            read_paths(args.gallery_dataset, *more),
            args.excluder,
            embedder.choose_metric(stored, f'{args.experiment_root}/args.json'),
        )
    logger = common.setup_logging(quiet=args.quiet)
    common.start_tensorflow()
    run = open_run(
        *(args.experiment_root, args.checkpoint, stored, args.filename),
        *(args.licence, scores),
    )
    stem = args.filename or f'export/{os.path.basename(run.prefix)}'
    stem = os.path.join(args.experiment_root, stem)
    rows, failures = [], []
    with Check(run.embedder, paths, args.input, args.loading_threads) as check:
        for name, module in modules.items():
            target = stem + module.SUFFIX
            try:
                parity = export(run, name, module, args.input, target, check, ranked)
            except common.InputError as error:
                failures.append(error)
                logger.error(f'{common.command_name()}: error: {error}')
                continue
            rows.append(_parity.format_row(name, parity))
            logger.info(f'{target}, and {target}.json')
    if rows and not args.quiet:
        print(_parity.format_table(rows, ranked is not None))
    return 1 if failures else 0


if __name__ == '__main__':
    common.run(main)
