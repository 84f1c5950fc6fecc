"""Images to embeddings by a trained network: whatever embeds, does it here.

embedder = Embedder.load('exp')
embs = embedder.embed(['a.jpg', 'b.jpg'])  # float32 [2, D]
embedder.distances(embs[0], embs[1])
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

import aggregators
import common
import deployment
import images
import run_args
from deployment import _sidecar
from evaluation import ranking
from heads import HEAD_CHOICES
from nets import NET_CHOICES
from precision import PRECISION_CHOICES

# Imported at first use: what a training run was can be read without TensorFlow.
tf = common.lazy_import('tensorflow')
tqdm = common.lazy_import('tqdm')
batches = common.lazy_import('batches')
checkpoints = common.lazy_import('checkpoints')
layers = common.lazy_import('layers')
model = common.lazy_import('model')

# Images per pass through the net, and images read at the same time.
BATCH_SIZE, LOADING_THREADS = 256, 8

# What evaluate.py --thresholds can write into an experiment root, and which of its
# thresholds is the one that is taken.
THRESHOLDS_FILE, THRESHOLD_RULE = 'thresholds.json', 'equal error rate'

# What fields of TrainedNet can be; all others are whole numbers of at least 1.
CHOICES: dict[str, Sequence[object]] = {
    'model_name': NET_CHOICES,
    'head_name': HEAD_CHOICES,
    'last_stride': (1, 2),
    'precision': PRECISION_CHOICES,
}


def add_experiment_root(group: argparse._ActionsContainer) -> None:
    """Add --experiment_root of the commands that use a trained network."""
    group.add_argument(
        '--experiment_root',
        required=True,
        type=common.readable_directory,
        help='Directory of the training run: args.json and checkpoints.',
    )


def add_checkpoint(group: argparse._ActionsContainer) -> None:
    """Add --checkpoint of the commands that use a trained network."""
    group.add_argument(
        '--checkpoint',
        help='Name of a checkpoint in the experiment root, such as checkpoint-25000, '
        'or `best` of a run with --val_set. Default: the newest.',
    )


def add_view_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of test-time augmentation to a parser."""
    augmentation = parser.add_argument_group('test-time augmentation')
    augmentation.add_argument(
        '--flip_augment',
        action='store_true',
        help='Embed every image and its mirror image.',
    )
    augmentation.add_argument(
        '--crop_augment',
        choices=images.CROP_CHOICES,
        help='Resize images to the pre-crop size of the training and embed their '
        'centre; the whole (the net averages over it); or centre and four corners. '
        'Without it images are resized to the net input.',
    )
    augmentation.add_argument(
        '--aggregator',
        choices=tuple(aggregators.AGGREGATOR_CHOICES),
        help='How the variants of an image become one embedding: their mean, or '
        'their mean scaled to length 1. Required where an image has several variants.',
    )


class TrainedNet(typing.NamedTuple):
    """What embedding has to know of a training run, named as its flags.

    Attributes:
        model_name, head_name: modules of nets/ and heads/.
        embedding_dim: D.
        net_input_height, net_input_width: what the net sees, pixels.
        pre_crop_height, pre_crop_width: an image before it is cropped, pixels.
        last_stride: of a ResNet's last block that has one.
        precision: number format of activations and products.
    """

    model_name: str
    head_name: str
    embedding_dim: int
    net_input_height: int
    net_input_width: int
    pre_crop_height: int
    pre_crop_width: int
    # The only values that older runs, and the original's, know: args.json has none.
    last_stride: int = 2
    precision: str = 'float32'

    @property
    def net_size(self) -> tuple[int, int]:
        """(height, width) that the net sees, pixels."""
        return self.net_input_height, self.net_input_width

    @property
    def pre_crop_size(self) -> tuple[int, int]:
        """(height, width) of an image before it is cropped, pixels."""
        return self.pre_crop_height, self.pre_crop_width

    def image_size(self, crop: str | None) -> tuple[int, int]:
        """Return (height, width) that images are resized to, pixels.

        Args:
            crop: one of images.CROP_CHOICES, or None.

        Raises:
            InputError: the crops are larger than the image.
        """
        return choose_image_size(crop, self.net_size, self.pre_crop_size)


def choose_image_size(
    crop: str | None, net_size: tuple[int, int], pre_crop_size: tuple[int, int]
) -> tuple[int, int]:
    """Return (height, width) that images are resized to; see TrainedNet.image_size."""
    if crop is None:
        return net_size
    (net_height, net_width), (height, width) = net_size, pre_crop_size
    if crop != 'avgpool' and (net_height > height or net_width > width):
        raise common.InputError(
            f'--crop_augment {crop} cannot cut {net_height}x{net_width} pixels out '
            f"of the training run's pre-crop size {height}x{width}; leave it out"
        )
    return pre_crop_size


def read_trained_net(experiment_root: str) -> TrainedNet:
    """Return the TrainedNet of a training run.

    Raises:
        FileNotFoundError: there is no args.json.
        InputError: it lacks one of the flags, or has something else for it.
    """
    filename = f'{experiment_root}/args.json'
    return choose_trained_net(run_args.read(experiment_root), filename)


def choose_trained_net(stored: dict[str, Any], filename: str) -> TrainedNet:
    """Return the TrainedNet of the flags of a run.

    Args:
        stored: {flag: value}.
        filename: where they are from, for messages.

    Raises:
        InputError: see read_trained_net.
    """
    names = TrainedNet._fields
    missing = [
        name
        for name in names
        if name not in stored and name not in TrainedNet._field_defaults
    ]
    if missing:
        raise common.InputError(
            f'{filename} lacks {", ".join(missing)}; expected the flags of a train.py '
            'run'
        )
    for name in names:
        if name in stored:
            check_stored(filename, name, stored[name])
    return TrainedNet(**{name: stored[name] for name in names if name in stored})


def check_stored(filename: str, name: str, value: Any) -> None:
    """Raise InputError unless a value is one that a field of TrainedNet can have.

    Args:
        filename: of args.json.
        name: of the field.
        value: what the file has.
    """
    if name in CHOICES:
        # To Python, true equals 1, and so does 1.0.
        choices = CHOICES[name]
        is_fine = value in choices and type(value) is type(choices[0])
        expected = f'one of {", ".join(map(str, choices))}'
    else:
        is_fine = type(value) is int and value >= 1
        expected = 'a whole number of at least 1'
    if not is_fine:
        raise common.InputError(
            f'{filename}: {name} is {json.dumps(value)}, expected {expected}; restore '
            'what train.py wrote'
        )


class View(typing.NamedTuple):
    """How an image is looked at, as the flags of test-time augmentation say.

    Attributes:
        image_size: (height, width) that images are resized to, pixels.
        variants: names of images.augmentation_plan, A of them.
        aggregator: function of aggregators.py, or None if A is 1.
    """

    image_size: tuple[int, int]
    variants: Sequence[str]
    aggregator: Callable[[np.ndarray], np.ndarray] | None


class Embedder:
    """Embeds images with a network; several threads may do so at the same time.

    Args:
        network: function of images float32 [B, H, W, 3], RGB in 0..255, and `training`
            to {'emb': [B, D]}, such as model.build_model returns. Its weights may
            change between calls.
        embedding_dim: D.
        net_size: (height, width) of what the net sees, pixels.
        pre_crop_size: (height, width) of an image before it is cropped, pixels; None:
            net_size.
        metric: one of ranking.METRIC_CHOICES, which the network was trained for.
        threshold: largest distance of two images of one identity, or None: not known.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        embedding_dim: int,
        net_size: tuple[int, int],
        pre_crop_size: tuple[int, int] | None = None,
        metric: str = 'euclidean',
        threshold: float | None = None,
    ) -> None:
        self.network = network
        self.embedding_dim = embedding_dim
        self.net_size = net_size
        self.pre_crop_size = pre_crop_size or net_size
        self.metric = metric
        self.threshold = threshold
        self._no_threshold = (
            'no threshold tells same from different; give Embedder.load a number, or '
            f'let evaluate.py --thresholds write {THRESHOLDS_FILE} into the experiment '
            'root'
        )
        # By the shape of an image, compiled at their first calls.
        self._compiled: dict[tuple, Callable] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        experiment_root: str | os.PathLike[str],
        checkpoint: str | None = None,
        precision: str | None = None,
        threshold: float | str | os.PathLike[str] | None = None,
    ) -> Embedder:
        """Return the Embedder of a training run, or of what export.py has written.

        Args:
            experiment_root: directory of the run, with args.json and checkpoints; or an
                exported file or directory, beside which its JSON file is, with which
                the next two arguments have no meaning.
            checkpoint: name of one, such as checkpoint-25000 or best; None: the newest.
            precision: number format of activations and products; None: the run's.
            threshold: a distance, or the JSON file of evaluate.py --thresholds, whose
                threshold of the equal error rate is taken; None: that of
                THRESHOLDS_FILE in the experiment root, if it is there.

        Raises:
            FileNotFoundError, InputError: a file is missing or wrong; it is named.
        """
        root = os.path.expanduser(experiment_root)
        is_export = any(
            map(os.path.isfile, (f'{root}.json', root, f'{root}/saved_model.pb'))
        )
        if is_export and not os.path.isfile(f'{root}/args.json'):
            return cls.from_export(root, threshold)
        if not os.path.isdir(root):
            raise common.MissingFileError(
                f'{root} does not exist; expected the directory of a training run, or '
                'what export.py has written'
            )
        stored = run_args.read(root)
        trained = choose_trained_net(stored, f'{root}/args.json')
        metric = choose_metric(stored, f'{root}/args.json')
        limit = find_threshold(root, metric, threshold)
        common.start_tensorflow()
        prefix = checkpoints.find(root, checkpoint)
        embedder, _ = cls.restore(trained, prefix, precision)
        embedder.metric, embedder.threshold = metric, limit
        if threshold is None and limit is not None:
            embedder.forget_stale_threshold(os.path.join(root, THRESHOLDS_FILE))
        return embedder

    def forget_stale_threshold(self, filename: str) -> None:
        """Have no threshold if a JSON file says that it is of other weights."""
        told = common.read_object(filename).get('embeddings')
        if not isinstance(told, dict):
            return  # Of an older version, or of somebody else.
        weights = told.get('weights')
        ours = checkpoints.fingerprint(checkpoints.variables_by_name(self.network))
        if weights not in (None, ours):
            self.threshold = None
            self._no_threshold = (
                f'{filename} is of other weights ({told.get("checkpoint")}): evaluate '
                'again, or give Embedder.load a number'
            )

    @classmethod
    def from_export(
        cls,
        target: str,
        threshold: float | str | os.PathLike[str] | None = None,
    ) -> Embedder:
        """Return the Embedder of what export.py has written; see load.

        Images are read as ever; the network runs in the runtime of its format.
        """
        sidecar = _sidecar.read(target)
        if sidecar.kind != 'pixels':
            raise common.InputError(
                f'{target} takes {sidecar.kind} images; an Embedder needs a file that '
                'export.py has written with --input pixels'
            )
        _sidecar.check(target, sidecar)
        common.start_tensorflow()
        run = deployment.load(sidecar.format).load(target)

        def network(images: Any, training: bool) -> dict[str, Any]:
            embs = tf.numpy_function(run, [images], tf.float32, stateful=False)
            return {'emb': tf.ensure_shape(embs, (None, sidecar.embedding_dim))}

        limit = sidecar.threshold
        if threshold is not None:
            limit = find_threshold('', sidecar.metric, threshold)
        return cls(
            *(network, sidecar.embedding_dim, sidecar.net_size),
            *(sidecar.pre_crop_size, sidecar.metric, limit),
        )

    @classmethod
    def from_checkpoint(
        cls, prefix: str | os.PathLike[str], trained: TrainedNet | None = None
    ) -> Embedder:
        """Return the Embedder of a checkpoint alone, ours or one of TensorFlow 1.

        Args:
            prefix: path of a checkpoint in one file, or what is common to the names of
                several, such as exp/checkpoint-25000.
            trained: what the network is; None: what the checkpoint says, which ours do.

        Raises:
            FileNotFoundError, InputError: it is missing, wrong, or does not say.
        """
        common.start_tensorflow()
        prefix, metric = os.path.expanduser(prefix), None
        if trained is None:
            stored = checkpoints.read_args(prefix)
            if stored is None:
                raise common.InputError(
                    f'{prefix} does not say what its network is; give `trained`, an '
                    'embedder.TrainedNet'
                )
            trained = choose_trained_net(stored, prefix)
            metric = choose_metric(stored, prefix)
        embedder, _ = cls.restore(trained, prefix)
        embedder.metric = metric or embedder.metric
        return embedder

    @classmethod
    def restore(
        cls, trained: TrainedNet, prefix: str, precision: str | None = None
    ) -> tuple[Embedder, Any]:
        """Return (Embedder, checkpoints.Report) of a checkpoint, whatever wrote it.

        The network has its batch norms folded: it embeds faster and cannot be trained.

        Args:
            trained: a TrainedNet.
            prefix: of the checkpoint: ours, the original's or TF-Slim's.
            precision: number format of activations and products; None: the run's.

        Raises:
            FileNotFoundError, InputError: see checkpoints.load_weights.
        """
        network = model.build_model(
            trained.model_name,
            trained.head_name,
            trained.embedding_dim,
            precision or trained.precision,
            trained.last_stride,
        )
        report = checkpoints.load_weights(network, prefix)
        layers.fold(network)
        embedder = cls(
            network, trained.embedding_dim, trained.net_size, trained.pre_crop_size
        )
        return embedder, report

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) that images are resized to for the net, pixels."""
        return self.net_size

    # --- images to embeddings -----------------------------------------------------

    def embed(
        self,
        images: Any,
        flip: bool = False,
        crop: str | None = None,
        aggregator: str | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        loading_threads: int = LOADING_THREADS,
        progress: bool = False,
    ) -> np.ndarray:
        """Return the embeddings of images, float32 [N, D], as embed.py computes them.

        Args:
            images: an image, a batch uint8 [N, H, W, 3], or an iterable of images of
                any sizes, of which few are held at a time. An image is a path, the
                bytes of an image file, or a uint8 array [H, W, 3] in RGB.
            flip: embed every image and its mirror image.
            crop: one of CROP_CHOICES of the module images, or None.
            aggregator: one of AGGREGATOR_CHOICES, needed where an image has several
                variants.
            batch_size: images per pass through the net, at most.
            loading_threads: images read at the same time.
            progress: whether there is a progress bar on stderr, if it is a terminal.

        Raises:
            InputError: an image cannot be read, an argument does not fit, or an
                embedding is not finite.
        """
        view = self.view(flip, crop, aggregator)
        several = [images] if is_one(images) else images
        read = read_images(several, view.image_size, batch_size, loading_threads)
        total = len(several) if hasattr(several, '__len__') else None
        embs = [np.empty((0, self.embedding_dim), np.float32)]
        for rows, batch in self.embed_read(read, view, total, not progress):
            embs.append(aggregators.join(batch, view.aggregator))
            refuse_infinite(embs[-1], rows[0])
        return np.concatenate(embs)

    def view(
        self,
        flip: bool = False,
        crop: str | None = None,
        aggregator: str | None = None,
    ) -> View:
        """Return the View that `embed` takes with these arguments.

        Raises:
            InputError: they do not fit together, or not to the network.
        """
        if crop is not None and crop not in images.CROP_CHOICES:
            raise common.InputError(
                f'crop {crop!r} is unknown; expected one of '
                f'{", ".join(images.CROP_CHOICES)}, or None'
            )
        variants = images.augmentation_plan(flip, crop)
        if (len(variants) > 1) != (aggregator in aggregators.AGGREGATOR_CHOICES):
            raise common.InputError(
                f'aggregator is {aggregator!r} and an image has {len(variants)} '
                'variant(s); expected None for one, and for several one of '
                f'{", ".join(aggregators.AGGREGATOR_CHOICES)}'
            )
        image_size = choose_image_size(crop, self.net_size, self.pre_crop_size)
        join = (
            None if aggregator is None else aggregators.AGGREGATOR_CHOICES[aggregator]
        )
        return View(image_size, variants, join)

    def embed_files(
        self,
        paths: Sequence[str],
        view: View | None = None,
        batch_size: int = BATCH_SIZE,
        loading_threads: int = LOADING_THREADS,
        quiet: bool = False,
        skip: Callable[[int, str], None] | None = None,
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Yield the embeddings of image files, batch by batch, under a progress bar.

        Args:
            paths: list [N] of str.
            view: how images are looked at; None: resized to what the net sees.
            batch_size: images per pass through the net, at most.
            loading_threads: images read at the same time.
            quiet: whether there is no bar.
            skip: see batches.image_batches.

        Yields:
            (rows, embeddings): the batch's positions in `paths`, and float32 [A, B, D].

        Raises:
            InputError: an image cannot be read; it is named.
        """
        view = view or self.view()
        read = batches.image_batches(
            paths, view.image_size, batch_size, loading_threads, skip
        )
        return self.embed_read(read, view, len(paths), quiet)

    def embed_read(
        self,
        read: Iterable[tuple[Sequence[int], Any]],
        view: View,
        total: int | None,
        quiet: bool,
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Yield what embed_files does, of images that are read by others.

        Args:
            read: iterable of (rows, images), see batches.image_batches.
            view: how images are looked at.
            total: how many there are, for the bar; None: not known.
            quiet: whether there is no bar.
        """
        # disable=None: a bar on a terminal, nothing in a file or a pipe.
        hidden = True if quiet else None
        with tqdm.tqdm(total=total, unit=' images', disable=hidden) as bar:
            for rows, batch in read:
                yield rows, self.embed_batch(batch, view)
                bar.update(len(rows))

    def embed_batch(self, batch: Any, view: View | None = None) -> np.ndarray:
        """Return the embeddings of a batch, float32 [A, B, D].

        Args:
            batch: float32 [B, height, width, 3] of the view's image_size, RGB in
                0..255, any B.
            view: how images are looked at; None: as they are.
        """
        # One after another, by one graph: in a graph of all, the first layers of all
        # variants would be computed at once, and each needs memory; and it would hold
        # the weights of a folded net once for each.
        batch = tf.convert_to_tensor(batch, tf.float32)
        variants = (view or self.view()).variants
        embs = [
            self.embed_variant(images.augment(batch, variant, *self.net_size))
            for variant in variants
        ]
        return np.stack([one.numpy() for one in embs])

    def embed_variant(self, batch: Any) -> Any:
        """Return the embeddings of what the net sees, float32 [B, H, W, 3], [B, D]."""
        shape = tuple(batch.shape[1:])
        with self._lock:
            if shape not in self._compiled:
                self._compiled[shape] = tf.function(
                    lambda images: self.network(images, training=False)['emb'],
                    input_signature=[tf.TensorSpec((None, *shape))],
                    autograph=False,
                )
        return self._compiled[shape](batch)

    # --- what embeddings tell -----------------------------------------------------

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the distances of embeddings, in the metric of the training.

        Args:
            a, b: [Na, D] and [Nb, D], or [D]: one of them.

        Returns:
            float32 [Na, Nb], without the axis of what is one: [Nb], [Na], or a number.

        Raises:
            InputError: they have other dimensions, or no distance.
        """
        arrays = [np.asarray(one) for one in (a, b)]
        for array in arrays:
            if array.ndim not in (1, 2) or array.shape[-1] != self.embedding_dim:
                raise common.InputError(
                    f'embeddings of shape {list(array.shape)}; expected [N, D] or [D] '
                    f'with {self.embedding_dim} dimensions, D'
                )
        rows, columns = map(np.atleast_2d, arrays)
        dists = ranking.compute_distances(rows, columns, self.metric)
        return dists.reshape([n for x in arrays for n in x.shape[:-1]])[()]

    def is_same(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Say which embeddings are of one identity: those no further than `threshold`.

        Args:
            a, b: see distances.

        Returns:
            bool, shaped as the distances.

        Raises:
            InputError: there is no threshold.
        """
        if self.threshold is None:
            raise common.InputError(self._no_threshold)
        return self.distances(a, b) <= self.threshold


def is_one(images: Any) -> bool:
    """Say whether what Embedder.embed gets is one image, and no batch or iterable."""
    is_file = batches.is_path(images) or batches.is_content(images)
    return is_file or getattr(images, 'ndim', None) in (2, 3)


def read_images(
    images: Iterable[Any], size: tuple[int, int], batch_size: int, loading_threads: int
) -> Iterator[tuple[Sequence[int], Any]]:
    """Yield batches of images as batches.image_batches does.

    Args:
        images: iterable; see Embedder.embed.
        size: (height, width), pixels.
        batch_size, loading_threads: see Embedder.embed.
    """
    if not isinstance(images, Iterable):
        raise common.InputError(
            f'{type(images).__name__} given; expected a path, the bytes of an image '
            "file, uint8 [H, W, 3] in RGB, or several (of Pillow's images: "
            "np.asarray(image.convert('RGB')))"
        )
    # Of one image, the pipeline would take longer to set up than to run.
    is_list = isinstance(images, Sequence) and len(images) > 1
    if is_list and all(map(batches.is_path, images)):
        paths = [os.fspath(path) for path in images]
        # Reading a pipe might never end.
        batches.refuse_unreadable([p for p in paths if not os.path.isfile(p)])
        return batches.image_batches(paths, size, batch_size, loading_threads)
    return batches.mixed_batches(images, size, batch_size, loading_threads)


def refuse_infinite(embs: np.ndarray, first: int) -> None:
    """Raise InputError if an embedding [B, D] of images from `first` is not finite."""
    bad = np.flatnonzero(~np.isfinite(embs).all(axis=1))
    if len(bad):
        raise common.InputError(
            f'the embedding of image {first + bad[0]} is not finite; the network has '
            'diverged in training: choose an earlier checkpoint'
        )


def choose_metric(stored: dict[str, Any], filename: str) -> str:
    """Return the metric that a run was trained with.

    Args:
        stored, filename: see choose_trained_net.

    Raises:
        InputError: it is none of ranking.METRIC_CHOICES.
    """
    metric = stored.get('metric', ranking.METRIC_CHOICES[0])
    if metric not in ranking.METRIC_CHOICES:
        raise common.InputError(
            f'{filename}: metric is {json.dumps(metric)}, expected one of '
            f'{", ".join(ranking.METRIC_CHOICES)}; restore what train.py wrote'
        )
    return metric


def choose_image_root(image_root: str | None, experiment_root: str) -> str:
    """Return the directory that FIDs are relative to.

    Args:
        image_root: of the command's flags, or None for the training run's.
        experiment_root: of the training run.

    Raises:
        InputError: the training run has none, or several.
    """
    image_root = image_root or run_args.read(experiment_root).get('image_root')
    if image_root is None:
        raise common.InputError(
            f'{experiment_root}/args.json has no image_root; give --image_root'
        )
    if not are_texts(image_root):
        raise common.InputError(
            f'{experiment_root}/args.json: image_root is {json.dumps(image_root)}, '
            'expected a directory; give --image_root'
        )
    if isinstance(image_root, list):
        raise common.InputError(
            f'{experiment_root}/args.json has several image_root '
            f'({", ".join(image_root)}); say with --image_root which one the data set '
            'belongs to'
        )
    return image_root


def are_texts(value: object) -> bool:
    """Say whether a value of args.json is a text, or a list of them."""
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) for item in items)


def find_threshold(
    experiment_root: str,
    metric: str,
    threshold: float | str | os.PathLike[str] | None = None,
) -> float | None:
    """Return the distance that tells one identity from others, or None.

    Args:
        experiment_root: where THRESHOLDS_FILE is looked for.
        metric: that distances are computed in.
        threshold: see Embedder.load.

    Raises:
        FileNotFoundError, InputError: the file is missing or wrong, or of another
            metric.
    """
    if threshold is None:
        filename = os.path.join(experiment_root, THRESHOLDS_FILE)
        if not os.path.exists(filename):
            return None
    elif not isinstance(threshold, (str, os.PathLike)):
        return float(threshold)
    elif common.to_number(threshold) is not None:
        return common.to_number(threshold)
    else:
        filename = os.path.expanduser(threshold)
    scores = common.read_object(filename)
    try:
        of_rule = {row['rule']: row['threshold'] for row in scores['thresholds']}
        found, limit = scores['args']['metric'], float(of_rule[THRESHOLD_RULE])
        if not np.isfinite(limit):
            raise ValueError(f'{limit} given')
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise common.InputError(
            f'{filename} has no thresholds; expected what evaluate.py --thresholds '
            'writes to its --filename'
        ) from error
    if found != metric:
        raise common.InputError(
            f'{filename} has thresholds of --metric {found}, but the network was '
            f'trained with {metric}; evaluate with --metric {metric}'
        )
    return limit
