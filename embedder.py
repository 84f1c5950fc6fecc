"""Images to embeddings by a trained network: whatever embeds, does it here.

embedder, report = Embedder.restore(run, 'exp/checkpoint-25000')
for rows, embs in embedder.embed_files(paths, batch_size=256, loading_threads=8):
    ...    # embs: float32 [A, B, D]
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import common
import images
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

# As without test-time augmentation: images resized to the net input.
PLAIN = images.augmentation_plan(flips=False, crop=None)

# What fields of TrainedNet can be; all others are whole numbers of at least 1.
CHOICES: dict[str, Sequence[object]] = {
    'model_name': NET_CHOICES,
    'head_name': HEAD_CHOICES,
    'last_stride': (1, 2),
    'precision': PRECISION_CHOICES,
}


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
        if crop is None:
            return self.net_size
        (net_height, net_width), (height, width) = self.net_size, self.pre_crop_size
        if crop != 'avgpool' and (net_height > height or net_width > width):
            raise common.InputError(
                f'--crop_augment {crop} cannot cut {net_height}x{net_width} pixels out '
                f"of the training run's pre-crop size {height}x{width}; leave it out"
            )
        return self.pre_crop_size


def read_trained_net(experiment_root: str) -> TrainedNet:
    """Return the TrainedNet of a training run.

    Raises:
        FileNotFoundError: there is no args.json.
        InputError: it lacks one of the flags, or has something else for it.
    """
    stored = common.read_args(experiment_root)
    names = TrainedNet._fields
    missing = [
        name
        for name in names
        if name not in stored and name not in TrainedNet._field_defaults
    ]
    if missing:
        raise common.InputError(
            f'{experiment_root}/args.json lacks {", ".join(missing)}; expected the '
            'flags of a train.py run'
        )
    for name in names:
        if name in stored:
            check_stored(f'{experiment_root}/args.json', name, stored[name])
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


class Embedder:
    """Embeds images with a network.

    Args:
        network: of model.build_model. Its weights may change between calls.
        net_size: (height, width) of what the net sees, pixels.
        image_size: (height, width) that images are resized to, pixels; None: net_size.
        variants: names of images.augmentation_plan, A of them.
    """

    def __init__(
        self,
        network: Any,
        net_size: tuple[int, int],
        image_size: tuple[int, int] | None = None,
        variants: Sequence[str] = PLAIN,
    ) -> None:
        self.network = network
        self.net_size = net_size
        self.image_size = image_size or net_size
        self.variants = variants
        # Of one image: what the variants of a plan have in common, [height, width, 3].
        example = tf.zeros((1, *self.image_size, 3))
        shape = images.augment(example, variants[0], *net_size).shape[1:]
        # Compiled at its first call.
        self._embed_variant = tf.function(
            lambda batch: network(batch, training=False)['emb'],
            input_signature=[tf.TensorSpec((None, *shape))],
            autograph=False,
        )

    @classmethod
    def restore(
        cls,
        trained: TrainedNet,
        prefix: str,
        precision: str | None = None,
        image_size: tuple[int, int] | None = None,
        variants: Sequence[str] = PLAIN,
    ) -> tuple[Embedder, Any]:
        """Return (Embedder, checkpoints.Report) of a training run's checkpoint.

        The network has its batch norms folded: it embeds faster and cannot be trained.

        Args:
            trained: a TrainedNet.
            prefix: of the checkpoint.
            precision: number format of activations and products; None: the run's.
            image_size, variants: see Embedder.

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
        return cls(network, trained.net_size, image_size, variants), report

    def embed_batch(self, batch: Any) -> Any:
        """Return the embeddings of a batch, float32 [A, B, D].

        Args:
            batch: float32 [B, height, width, 3] of image_size, RGB in 0..255, any B.
        """
        # One after another, by one graph: in a graph of all, the first layers of all
        # variants would be computed at once, and each needs memory; and it would hold
        # the weights of a folded net once for each.
        embs = [
            self._embed_variant(images.augment(batch, variant, *self.net_size))
            for variant in self.variants
        ]
        return tf.stack(embs)

    def embed_files(
        self,
        paths: Sequence[str],
        batch_size: int,
        loading_threads: int,
        quiet: bool = False,
    ) -> Iterator[tuple[range, Any]]:
        """Yield the embeddings of image files, batch by batch, under a progress bar.

        Args:
            paths: list [N] of str.
            batch_size: images per pass through the net, at most.
            loading_threads: images read at the same time.
            quiet: whether there is no bar.

        Yields:
            (rows, embeddings): range of the batch's positions in `paths`, and
            float32 [A, B, D].

        Raises:
            InputError: an image cannot be read; it is named.
        """
        read = batches.image_batches(
            paths, self.image_size, batch_size, loading_threads
        )
        # disable=None: a bar on a terminal, nothing in a file or a pipe.
        hidden = True if quiet else None
        with tqdm.tqdm(total=len(paths), unit=' images', disable=hidden) as bar:
            for rows, batch in read:
                yield rows, self.embed_batch(batch).numpy()
                bar.update(len(rows))
