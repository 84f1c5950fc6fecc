"""What train.py's flags mean, in groups that travel together."""

import typing

import batches
from training import optimizers


class Network(typing.NamedTuple):
    """The network and where its weights come from.

    Attributes:
        model_name, head_name, embedding_dim, precision, last_stride: see
            model.build_model.
        initial_checkpoint: file, 'imagenet', or None: random.
        sync_batch_norm: whether batch norm sees the batches of all devices.
    """

    model_name: str
    head_name: str
    embedding_dim: int
    precision: str
    last_stride: int
    initial_checkpoint: str | None
    sync_batch_norm: bool


class Batches(typing.NamedTuple):
    """How images become batches.

    Attributes:
        batch_p, batch_k: P and K.
        augmentation: a batches.Augmentation.
        loading_threads: images read at the same time.
        is_cached: whether decoded images are kept in memory.
        is_one: whether there is but one batch, again and again.
    """

    batch_p: int
    batch_k: int
    augmentation: batches.Augmentation
    loading_threads: int
    is_cached: bool
    is_one: bool

    @property
    def size(self):
        """Images in a batch, B."""
        return self.batch_p * self.batch_k

    @property
    def num_neighbours(self):
        """k of the k nearest that are looked at: the K - 1 of a PID, or 1."""
        return max(1, self.batch_k - 1)


class Objective(typing.NamedTuple):
    """What is optimised; see loss.py."""

    loss: str
    metric: str
    margin: float | str


class Optimizer(typing.NamedTuple):
    """How the weights move.

    Attributes:
        name: of optimizers.OPTIMIZER_CHOICES.
        learning_rate: an optimizers.LearningRate.
        weight_decay, beta1_at_decay: see optimizers.build.
    """

    name: str
    learning_rate: optimizers.LearningRate
    weight_decay: float
    beta1_at_decay: float


class Validation(typing.NamedTuple):
    """What is validated.

    Attributes:
        gallery_csv: of --val_set.
        query_csv: of --val_query, or None.
        excluder: a module of excluders/.
        image_root: directory that the FIDs of both are relative to.
        has_header: whether the first line of a CSV names its columns.
        allows_outside: whether images may lie outside image_root.
    """

    gallery_csv: str
    query_csv: str | None
    excluder: str
    image_root: str
    has_header: bool
    allows_outside: bool


class Reporting(typing.NamedTuple):
    """What is told and kept of the iterations, beside the log and scalars.

    Attributes:
        histogram_frequency, image_frequency: iterations between them; 0: none.
        detailed_logs: whether arrays of every iteration are stored.
        quiet: whether the terminal gets warnings only.
        checkpoint_frequency: iterations between checkpoints; 0: only the last one.
        keep_checkpoints: how many of them are kept; 0: all.
    """

    histogram_frequency: int
    image_frequency: int
    detailed_logs: bool
    quiet: bool
    checkpoint_frequency: int
    keep_checkpoints: int


class Settings(typing.NamedTuple):
    """The flags of a run that are not for `main` alone.

    Attributes:
        network, batches, objective, optimizer, reporting: groups.
        validation: a Validation, or None.
    """

    network: Network
    batches: Batches
    objective: Objective
    optimizer: Optimizer
    validation: Validation | None
    reporting: Reporting


def group(args):
    """Return the Settings that flags.parse_args's flags mean."""
    validation = None
    if args.val_set is not None:
        validation = Validation(
            args.val_set,
            args.val_query,
            args.val_excluder,
            args.val_image_root or args.image_root[0],
            args.csv_header,
            args.allow_outside_image_root,
        )
    return Settings(
        Network(
            args.model_name,
            args.head_name,
            args.embedding_dim,
            args.precision,
            args.last_stride,
            args.initial_checkpoint,
            args.sync_batch_norm,
        ),
        Batches(
            args.batch_p,
            args.batch_k,
            batches.Augmentation(
                net_size=(args.net_input_height, args.net_input_width),
                pre_crop_size=(args.pre_crop_height, args.pre_crop_width),
                flips=args.flip_augment,
                crops=args.crop_augment,
                pad_crop=args.pad_crop,
                color_jitter=args.color_jitter,
                random_erasing=args.random_erasing,
            ),
            args.loading_threads,
            args.cache,
            args.overfit_one_batch,
        ),
        Objective(args.loss, args.metric, args.margin),
        Optimizer(
            args.optimizer,
            optimizers.LearningRate(
                args.learning_rate,
                args.decay_start_iteration,
                args.train_iterations,
                args.warmup_iterations,
            ),
            args.weight_decay,
            args.adam_beta1_at_decay,
        ),
        validation,
        Reporting(
            args.histogram_frequency,
            args.image_frequency,
            args.detailed_logs,
            args.quiet,
            args.checkpoint_frequency,
            args.keep_checkpoints,
        ),
    )
