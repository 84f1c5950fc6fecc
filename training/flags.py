"""train.py's flags, declared; what they are in the end is said by parse_args."""

import argparse
import math
import os
import re
import secrets
import typing

import common
import datasets
import loss
from excluders import EXCLUDER_CHOICES
from heads import HEAD_CHOICES
from nets import NET_CHOICES
from precision import PRECISION_CHOICES
from training import checks, devices, experiment, optimizers, resuming

# What --resume takes from the command line.
FREE = (*resuming.FREE_ON_RESUME, 'cache', 'check_images', 'quiet')


class Flags(typing.NamedTuple):
    """What a command line, and of a resumed run its args.json, come to.

    Attributes:
        args: argparse.Namespace, of which --train_set and --image_root are lists.
        notes, warnings: lists of str, what to say of them.
        previous: {flag: value} of a resumed run's schedule as it was.
    """

    args: argparse.Namespace
    notes: list
    warnings: list
    previous: dict


def parse_args(doc, argv):
    """Return the checked flags of a new run, or those of the run to be resumed.

    Args:
        doc: description of the command.
        argv: list of str, or None for those of the process.

    Returns:
        Flags.
    """
    parser = build_parser(doc)
    args = parser.parse_args(argv)
    notes, warnings, previous = [], [], {}
    if args.checkpoint and not args.resume:
        parser.error(
            f'--checkpoint {args.checkpoint} is where --resume goes on; a new run may '
            'begin with the weights of an --initial_checkpoint'
        )
    if args.resume:
        filename = os.path.join(args.experiment_root, 'args.json')
        stored_parser = add_flags(resuming.StoredParser(filename))
        args, notes, warnings, previous = resuming.merge(
            parser, stored_parser, argv, args.experiment_root
        )
        if experiment.has_not_begun(args.experiment_root):
            args.resume = False
            notes.append(
                f'the run in {args.experiment_root} ended before its first checkpoint: '
                'it starts anew, with the flags of its args.json'
            )
    cluster = checks.read_cluster(parser, args.distribute)
    for name in resuming.SEVERAL:
        if getattr(args, name) is None:
            parser.error(f'--{name} is required')
    make_absolute(args)
    warnings += checks.check(parser, args, cluster is None or cluster.is_chief)
    if args.seed is None:
        args.seed = secrets.randbelow(2**31)
    return Flags(args, notes, warnings, previous)


def make_absolute(args):
    """Let paths not depend on the working directory: a run is resumed from others."""
    for name in resuming.SEVERAL:
        setattr(args, name, [os.path.abspath(path) for path in getattr(args, name)])
    for name in ('initial_checkpoint', 'val_set', 'val_query', 'val_image_root'):
        path = getattr(args, name)
        if path not in (None, 'imagenet'):
            setattr(args, name, os.path.abspath(path))


def build_parser(doc):
    """Return the parser of train.py's flags, its description being `doc`."""
    return add_flags(common.new_parser(doc))


def add_flags(parser):
    """Add train.py's flags to a parser, and return it."""
    add_required_flags(parser)
    add_model_flags(parser)
    add_data_flags(parser)
    add_optimisation_flags(parser)
    add_validation_flags(parser)
    add_distribution_flags(parser)
    add_start_flags(parser)
    add_bookkeeping_flags(parser)
    return parser


def add_required_flags(parser):
    """Add the flags that say where a run's data and results are to a parser."""
    required = parser.add_argument_group('required')
    required.add_argument(
        '--experiment_root',
        required=True,
        type=common.path,
        help='Directory of the run; new or empty, unless --resume is given.',
    )
    required.add_argument(
        '--train_set',
        nargs='+',
        type=common.path,
        metavar='CSV',
        help='CSV of the training images, a line `PID,FID` each; see make_csv.py. '
        'Several are trained on together, the same PID in two of them being two '
        'identities.',
    )
    required.add_argument(
        '--image_root',
        nargs='+',
        type=common.path,
        metavar='DIRECTORY',
        help='Directory that the FIDs are relative to. For several --train_set one for '
        'all, or one for each.',
    )


def add_model_flags(parser):
    """Add the flags of net and head to a parser."""
    network = parser.add_argument_group('model')
    network.add_argument(
        '--model_name',
        default='resnet_v1_50',
        choices=NET_CHOICES,
        help='The net, a module of nets/.',
    )
    network.add_argument(
        '--head_name',
        default='fc1024',
        choices=HEAD_CHOICES,
        help='What turns its features into embeddings, a module of heads/.',
    )
    network.add_argument(
        '--last_stride',
        default=2,
        type=int,
        choices=(1, 2),
        help='ResNets only: stride of the last block that has one, the third in the '
        'layout of TF-Slim. 1 keeps twice the height and width for the fourth: finer '
        'features, 1.7 times the work of a ResNet-50, the same weights.',
    )
    network.add_argument(
        '--embedding_dim',
        default=128,
        type=common.positive_int,
        help='Length of an embedding.',
    )
    network.add_argument(
        '--initial_checkpoint',
        type=common.path,
        help='Where the net (not the head) starts from: a TF-Slim checkpoint, old or '
        'new format, or one of ours; or the word `imagenet` for the weights of the '
        'same net in Keras, renamed (the ResNets stride elsewhere there: a start for '
        'training, not the same function). Without it the net starts random.',
    )
    network.add_argument(
        '--precision',
        default='float32',
        choices=PRECISION_CHOICES,
        help='Number format of activations and products; weights, batch-norm '
        'statistics, distances, loss and optimizer are float32 in any case. bfloat16 '
        'is faster where the processor has it (AVX-512, GPU), slower elsewhere; so is '
        'float16 (AVX512-FP16, GPU), which has more digits but a small range, so that '
        'the loss is scaled as far as its gradients allow.',
    )


def add_data_flags(parser):
    """Add the flags of batches and augmentation to a parser."""
    data = parser.add_argument_group('data')
    data.add_argument(
        '--batch_p',
        default=32,
        type=common.positive_int,
        help='P, identities per batch.',
    )
    data.add_argument(
        '--batch_k',
        default=4,
        type=common.positive_int,
        help='K, images per identity in a batch.',
    )
    for name, height, width, meaning in (
        ('net_input', 256, 128, 'what the net sees'),
        ('pre_crop', 288, 144, 'an image before --crop_augment cuts into it'),
    ):
        for side, default in (('height', height), ('width', width)):
            data.add_argument(
                f'--{name}_{side}',
                default=default,
                type=common.positive_int,
                help=f'{side.capitalize()} of {meaning}, pixels.',
            )
    data.add_argument(
        '--flip_augment',
        action='store_true',
        help='Mirror every other image, at random.',
    )
    data.add_argument(
        '--crop_augment',
        action='store_true',
        help='Resize images to the pre-crop size and cut the net input out at random.',
    )
    add_augmentation_flags(data)
    datasets.add_outside_flag(data)
    datasets.add_header_flag(data)
    data.add_argument(
        '--overfit_one_batch',
        action='store_true',
        help='Train on the batch of the first iteration again and again, and say at '
        'the end whether it was learned by heart: the first thing to try where '
        'training fails. A few hundred --train_iterations are enough.',
    )
    common.add_loading_threads(data)
    data.add_argument(
        '--cache',
        action='store_true',
        help='Read and decode every image once, before the first iteration, and keep '
        'it in memory: 3 bytes a pixel. Batches stay the same, bit for bit. For slow '
        'disks and processors; --resume does not remember it.',
    )
    data.add_argument(
        '--seed',
        type=common.seed,
        help='Of batches, augmentation and initial weights: the same seed, the same '
        'run. Drawn and stored in args.json when absent.',
    )


def add_augmentation_flags(data):
    """Add the flags of augmentation that the original does not have to a group."""
    data.add_argument(
        '--pad_crop',
        default=0,
        type=common.non_negative_int,
        metavar='PIXELS',
        help='Pad images of the net input size with this much black on every side and '
        'cut the net input out at random; instead of --crop_augment. 0: do not.',
    )
    data.add_argument(
        '--color_jitter',
        default=0.0,
        type=share,
        metavar='STRENGTH',
        help='Multiply brightness, contrast and saturation by random factors between '
        '1 - STRENGTH and 1 + STRENGTH, before anything else. 0: do not.',
    )
    data.add_argument(
        '--random_erasing',
        default=0.0,
        type=share,
        metavar='PROBABILITY',
        help='Share of the images in which a random rectangle, 2 to 40 %% of the area, '
        'is filled with noise, after everything else. 0: none.',
    )


def add_optimisation_flags(parser):
    """Add the flags of loss and optimizer to a parser."""
    optimisation = parser.add_argument_group('optimisation')
    optimisation.add_argument(
        '--loss',
        default='batch_hard',
        choices=tuple(loss.LOSS_CHOICES),
        metavar='LOSS',
        help='What is optimised, a function of loss.py: batch_hard (the hardest pairs '
        'of each anchor), batch_all (all triplets), batch_all_nonzero (those not yet '
        'solved), batch_sample (pairs drawn by distance), lifted, lifted_general; see '
        'docs/losses.md.',
    )
    optimisation.add_argument(
        '--margin',
        default='soft',
        type=margin,
        help='A number in the unit of the metric: hinge loss; `soft`: softplus; '
        '`none`: the bare difference of distances. The loss `lifted` takes a number '
        'only.',
    )
    optimisation.add_argument(
        '--metric',
        default='euclidean',
        choices=loss.METRIC_CHOICES,
        help='Distance between embeddings; cosine is one minus the cosine of their '
        'angle, 0 to 2.',
    )
    add_optimizer_flags(optimisation)


def add_optimizer_flags(optimisation):
    """Add the flags of how the weights move to a group."""
    optimisation.add_argument(
        '--optimizer',
        default='adam',
        choices=tuple(optimizers.OPTIMIZER_CHOICES),
        help="Keras' optimizer of this name; sgd has a momentum of 0.9. Each wants a "
        '--learning_rate of its own.',
    )
    optimisation.add_argument(
        '--learning_rate',
        default=3e-4,
        type=common.positive_float,
        help='Learning rate from the end of the warm-up until the decay begins. The '
        'default is for Adam.',
    )
    optimisation.add_argument(
        '--weight_decay',
        default=0.0,
        type=common.non_negative_float,
        help='Before each update, all weights of convolutions and dense layers shrink '
        'by this times the learning rate, as a share. Biases and batch norm are left '
        'alone. 0: no decay.',
    )
    optimisation.add_argument(
        '--warmup_iterations',
        default=0,
        type=common.non_negative_int,
        help='Iterations over which the learning rate rises linearly at the beginning; '
        '0: none.',
    )
    optimisation.add_argument(
        '--train_iterations',
        default=25000,
        type=common.positive_int,
        help='Iterations of the whole run. --resume may raise it.',
    )
    optimisation.add_argument(
        '--decay_start_iteration',
        default=15000,
        type=int,
        help='Iteration at which the exponential decay of the learning rate begins, '
        'down to a thousandth at the end; -1 keeps the rate constant. --resume may '
        'move it if it raises --train_iterations.',
    )
    optimisation.add_argument(
        '--adam_beta1_at_decay',
        default=optimizers.BETA1,
        type=beta1,
        metavar='BETA1',
        help="Adam's beta_1 from --decay_start_iteration on. It is 0.9 before, and in "
        "the original code throughout; the paper's text says 0.5.",
    )


def add_validation_flags(parser):
    """Add the flags of validation while training to a parser."""
    validation = parser.add_argument_group('validation')
    validation.add_argument(
        '--val_set',
        metavar='CSV',
        type=common.path,
        help='CSV of held-out images to score while training, the gallery; see '
        '`make_csv.py split`. Best weights by mAP are kept as the checkpoint `best`.',
    )
    validation.add_argument(
        '--val_query',
        metavar='CSV',
        type=common.path,
        help='CSV of the queries. Without it, every image of --val_set is a query that '
        'is to find the others.',
    )
    validation.add_argument(
        '--val_excluder',
        choices=EXCLUDER_CHOICES,
        help='Which gallery images a query ignores, as --excluder of evaluate.py.',
    )
    validation.add_argument(
        '--val_image_root',
        metavar='DIRECTORY',
        type=common.path,
        help='Directory that the FIDs of validation are relative to. Default: '
        '--image_root.',
    )
    validation.add_argument(
        '--val_every',
        default=1000,
        type=common.non_negative_int,
        help='Iterations between validations; 0: only at the end of the run, where '
        'there is one in any case. Each takes as long as embedding the images.',
    )


def add_distribution_flags(parser):
    """Add the flags of training on several devices to a parser."""
    group = parser.add_argument_group('several devices')
    group.add_argument(
        '--distribute',
        default='none',
        choices=devices.DISTRIBUTE_CHOICES,
        help='Devices that share each batch: the first one; `mirrored`: all GPUs of '
        'this machine; `multi_worker`: those of all processes that the environment '
        'variable TF_CONFIG names, see docs/distribution.md.',
    )
    group.add_argument(
        '--sync_batch_norm',
        action='store_true',
        help='Let batch norm see the whole batch, as on one device, instead of what '
        'a device has of it; slower.',
    )


def add_start_flags(parser):
    """Add the flags of what a call does to a parser."""
    start = parser.add_argument_group('start')
    start.add_argument(
        '--resume',
        action='store_true',
        help='Continue the run in the experiment root, with the flags of its '
        'args.json. Of the command line, only '
        f'{", ".join(f"--{name}" for name in FREE)} and a larger --train_iterations, '
        'with which --decay_start_iteration may move, count.',
    )
    start.add_argument(
        '--checkpoint',
        metavar='NAME',
        type=checkpoint_name,
        help='With --resume: go on from this checkpoint of the run, such as '
        'checkpoint-3000, instead of the newest one. Later ones are written anew.',
    )
    start.add_argument(
        '--dry_run',
        action='store_true',
        help='Check flags, data, network and weights, read the first batch, and leave '
        'without training or writing anything.',
    )
    start.add_argument(
        '--check_images',
        action='store_true',
        help='First decode every image once, those of validation too. If some cannot '
        'be read, all are listed and there is no run.',
    )


def add_bookkeeping_flags(parser):
    """Add the flags of what is written to a parser."""
    bookkeeping = parser.add_argument_group('bookkeeping')
    bookkeeping.add_argument(
        '--checkpoint_frequency',
        default=1000,
        type=common.non_negative_int,
        help='Iterations between checkpoints; 0: only the last one.',
    )
    bookkeeping.add_argument(
        '--keep_checkpoints',
        default=0,
        type=common.non_negative_int,
        metavar='N',
        help='Keep the N newest numbered checkpoints and delete older ones; 0: keep '
        'all, as the original does. The first, checkpoint-0, counts; `best` does not.',
    )
    bookkeeping.add_argument(
        '--histogram_frequency',
        default=50,
        type=common.non_negative_int,
        help="Iterations between TensorBoard's histograms, which also follow the first "
        'and the last one; 0: none. Scalars are written at every iteration.',
    )
    bookkeeping.add_argument(
        '--image_frequency',
        default=0,
        type=common.non_negative_int,
        help="Iterations between TensorBoard's pictures of the augmented batch and of "
        'its hardest pairs; 0: none. A picture of 72 images of 256x128 pixels takes '
        'some megabytes of disk.',
    )
    common.add_quiet(bookkeeping)
    bookkeeping.add_argument(
        '--detailed_logs',
        action='store_true',
        help='Store the embeddings, losses and FIDs of every iteration, as arrays.',
    )


def checkpoint_name(text):
    """argparse type: the name of a checkpoint that has all that a run needs."""
    if not re.fullmatch(r'checkpoint-\d+', text):
        raise argparse.ArgumentTypeError(
            f'{text!r} given, a name such as checkpoint-3000 expected'
        )
    return text


def margin(text):
    """argparse type: 'soft', 'none' or a number."""
    if text in ('soft', 'none'):
        return text
    value = common.number(text, float, "a number, 'soft' or 'none'")
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(
            f"{text} given, a finite number, 'soft' or 'none' expected"
        )
    return value


def beta1(text):
    """argparse type: a number from 0 to below 1."""
    value = common.number(text, float, 'a number')
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(
            f'{text} given, a number from 0 to below 1 expected'
        )
    return value


def share(text):
    """argparse type: a number from 0 to 1."""
    value = common.number(text, float, 'a number')
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} given, a number from 0 to 1 expected')
    return value
