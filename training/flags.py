"""train.py's flags: declared, checked, and merged with those of a run to be resumed."""

import argparse
import os
import secrets
import zlib

import common
import loss
from excluders import EXCLUDER_CHOICES
from heads import HEAD_CHOICES
from nets import NET_CHOICES
from precision import PRECISION_CHOICES
from training import devices, optimizers

# What --resume takes from the command line: it does not change the mathematics.
FREE_ON_RESUME = (
    'image_root',
    'loading_threads',
    'checkpoint_frequency',
    'histogram_frequency',
    'image_frequency',
    'detailed_logs',
    'val_set',
    'val_query',
    'val_excluder',
    'val_image_root',
    'val_every',
    'distribute',
)

# Flags of one call, not of the experiment.
NOT_STORED = ('experiment_root', 'resume', 'dry_run', 'cache')


class OneOrSeveral(argparse.Action):
    """Store one value as it is, several as a list; given twice, the last time counts.

    So args.json has a list only where there are several.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def as_list(value):
    """Return what OneOrSeveral stored as a list in any case."""
    return value if isinstance(value, list) else [value]


def build_parser(doc):
    """Return the parser of train.py's flags, its description being `doc`."""
    parser = common.new_parser(doc)
    add_required_flags(parser)
    add_model_flags(parser)
    add_data_flags(parser)
    add_optimisation_flags(parser)
    add_validation_flags(parser)
    add_distribution_flags(parser)
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
        action=OneOrSeveral,
        type=common.path,
        metavar='CSV',
        help='CSV of the training images, a line `PID,FID` each; see make_csv.py. '
        'Several are trained on together, the same PID in two of them being two '
        'identities.',
    )
    required.add_argument(
        '--image_root',
        nargs='+',
        action=OneOrSeveral,
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
        type=common.non_negative_int,
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
    """Add the flags of loss and learning rate to a parser."""
    optimisation = parser.add_argument_group('optimisation')
    optimisation.add_argument(
        '--loss',
        default='batch_hard',
        choices=tuple(loss.LOSS_CHOICES),
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
        help='Iterations of the whole run. The one value that --resume may raise.',
    )
    optimisation.add_argument(
        '--decay_start_iteration',
        default=15000,
        type=int,
        help='Iteration at which the exponential decay of the learning rate begins, '
        'down to a thousandth at the end; -1 keeps the rate constant.',
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


def add_bookkeeping_flags(parser):
    """Add the flags of resuming and reporting to a parser."""
    bookkeeping = parser.add_argument_group('bookkeeping')
    bookkeeping.add_argument(
        '--resume',
        action='store_true',
        help='Continue the run in the experiment root, with the flags of its '
        'args.json. Of the command line, only --image_root, --loading_threads, '
        '--cache, --checkpoint_frequency, --histogram_frequency, --image_frequency, '
        '--detailed_logs, --distribute, the flags of validation and a larger '
        '--train_iterations count.',
    )
    bookkeeping.add_argument(
        '--dry_run',
        action='store_true',
        help='Check flags, data, network and weights, read the first batch, and leave '
        'without training or writing anything.',
    )
    bookkeeping.add_argument(
        '--checkpoint_frequency',
        default=1000,
        type=common.non_negative_int,
        help='Iterations between checkpoints; 0: only the last one.',
    )
    bookkeeping.add_argument(
        '--histogram_frequency',
        default=50,
        type=common.non_negative_int,
        help="Iterations between TensorBoard's histograms; 0: none. Scalars are "
        'written at every iteration.',
    )
    bookkeeping.add_argument(
        '--image_frequency',
        default=0,
        type=common.non_negative_int,
        help="Iterations between TensorBoard's pictures of the augmented batch and of "
        'its hardest pairs; 0: none. A picture of 72 images of 256x128 pixels takes '
        'some megabytes of disk.',
    )
    bookkeeping.add_argument(
        '--detailed_logs',
        action='store_true',
        help='Store the embeddings, losses and FIDs of every iteration, as arrays.',
    )


def margin(text):
    """argparse type: 'soft', 'none' or a number."""
    if text in ('soft', 'none'):
        return text
    return common.number(text, float, "a number, 'soft' or 'none'")


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


def parse_args(parser, argv):
    """Return the checked flags of a new run, or those of the run to be resumed.

    Args:
        parser: of build_parser.
        argv: list of str, or None for those of the process.

    Returns:
        (args, notes): argparse.Namespace; list of str, what a resumed run should be
        told about its flags.
    """
    args = parser.parse_args(argv)
    notes = []
    if args.resume:
        args, notes = merge_stored_args(parser, argv, args.experiment_root)
    cluster = read_cluster(parser, args.distribute)
    # The experiment root is the chief's, which may be faster than we are.
    if not args.resume and (cluster is None or cluster.is_chief):
        check_is_new(parser, args.experiment_root)
    for name in ('train_set', 'image_root'):
        if getattr(args, name) is None:
            parser.error(f'--{name} is required')
        # A run must be resumable from another working directory.
        setattr(args, name, absolute(getattr(args, name)))
    check_data(parser, as_list(args.train_set), as_list(args.image_root))
    check_sizes(parser, args)
    check_loss(parser, args)
    check_optimizer(parser, args)
    check_validation(parser, args)
    if args.distribute != 'none' and args.precision == 'float16':
        # Keras looks for overflows before it sums the gradients: each device might
        # come to another conclusion.
        parser.error(
            f'--precision float16 cannot be trained with --distribute '
            f'{args.distribute}; choose bfloat16 or float32'
        )
    if args.seed is None:
        args.seed = secrets.randbelow(2**31)
    if args.initial_checkpoint not in (None, 'imagenet'):
        args.initial_checkpoint = os.path.abspath(args.initial_checkpoint)
    return args, notes


def check_validation(parser, args):
    """Leave with an error unless the flags of validation go together."""
    if args.val_set is None:
        for name in ('val_query', 'val_excluder', 'val_image_root'):
            if getattr(args, name) is not None:
                parser.error(f'--{name} needs a --val_set, the gallery')
        return
    if args.val_excluder is None:
        parser.error(
            '--val_set needs a --val_excluder; `diagonal` if the names of the images '
            'tell no camera'
        )
    if args.val_image_root is None and len(as_list(args.image_root)) > 1:
        parser.error(
            f'--image_root has {len(args.image_root)} directories; say which one holds '
            'the images of --val_set with --val_image_root'
        )
    for name in ('val_set', 'val_query', 'val_image_root'):
        if getattr(args, name) is not None:
            setattr(args, name, os.path.abspath(getattr(args, name)))


def read_cluster(parser, distribute):
    """Return the devices.Cluster of this process, or None if it is alone.

    Leaves with an error if TF_CONFIG describes none.
    """
    if distribute != 'multi_worker':
        return None
    try:
        return devices.read_cluster(os.environ.get('TF_CONFIG'))
    except ValueError as error:
        return parser.error(str(error))


def check_is_new(parser, experiment_root):
    """Leave with an error if there is something where a new run is to go."""
    if os.path.isdir(experiment_root):
        if os.listdir(experiment_root):
            parser.error(
                f'--experiment_root {experiment_root} is not empty; add --resume to '
                'continue it, or choose a new directory'
            )
    elif os.path.lexists(experiment_root):
        parser.error(
            f'--experiment_root {experiment_root} is a file; choose a new directory'
        )


def check_data(parser, train_sets, image_roots):
    """Leave with an error unless every data set has one image root that exists."""
    for image_root in image_roots:
        if not os.path.isdir(image_root):
            parser.error(f'--image_root {image_root} is not a directory')
    if len(image_roots) not in (1, len(train_sets)):
        parser.error(
            f'--image_root has {len(image_roots)} directories, --train_set '
            f'{len(train_sets)} file(s); give one directory for all, or one for each'
        )
    pairs = pair_roots(train_sets, image_roots)
    for i, (train_set, image_root) in enumerate(pairs):
        if (train_set, image_root) in pairs[:i]:
            parser.error(
                f'--train_set has {train_set} twice, with the same --image_root: '
                'every identity of it would count as two; leave one of them out'
            )


def pair_roots(train_sets, image_roots):
    """Return [(data set, its image root)]; there is one root for all or one for each.

    Args:
        train_sets, image_roots: lists of str.
    """
    if len(image_roots) == 1:
        image_roots = image_roots * len(train_sets)
    return list(zip(train_sets, image_roots, strict=True))


def absolute(paths):
    """Return a path, or several in a list, independent of the working directory."""
    if isinstance(paths, list):
        return [os.path.abspath(path) for path in paths]
    return os.path.abspath(paths)


def check_sizes(parser, args):
    """Leave with an error if a crop is larger than what it is cut out of."""
    net = args.net_input_height, args.net_input_width
    pre_crop = args.pre_crop_height, args.pre_crop_width
    if args.crop_augment and (net[0] > pre_crop[0] or net[1] > pre_crop[1]):
        parser.error(
            f'a net input of {net[0]}x{net[1]} pixels does not fit into the pre-crop '
            f'size of {pre_crop[0]}x{pre_crop[1]}; raise --pre_crop_height and '
            '--pre_crop_width'
        )
    if args.crop_augment and args.pad_crop:
        parser.error(
            f'--pad_crop {args.pad_crop} and --crop_augment both say where the net '
            'input is cut out; leave one of them out'
        )


def check_loss(parser, args):
    """Leave with an error if the loss has nothing to compare, or no such margin."""
    if args.batch_p * args.batch_k < 2:
        parser.error('--batch_p 1 with --batch_k 1 leaves no pair; raise one of them')
    if args.loss not in loss.PAIR_LOSSES and 1 in (args.batch_p, args.batch_k):
        parser.error(
            f'--loss {args.loss} has no triplet in a batch of --batch_p {args.batch_p} '
            f'--batch_k {args.batch_k}; both must be at least 2'
        )
    try:
        loss.check_margin(args.loss, args.margin)
    except ValueError as error:
        parser.error(f'--{error}')


def check_optimizer(parser, args):
    """Leave with an error if a flag of the optimizer would have no effect."""
    if args.optimizer == 'adamw' and not args.weight_decay:
        parser.error(
            '--optimizer adamw without --weight_decay is adam; give it one, such as '
            "0.004, Keras' default, or choose adam"
        )
    if args.adam_beta1_at_decay == optimizers.BETA1:
        return
    if args.optimizer not in optimizers.ADAMS:
        parser.error(
            f'--adam_beta1_at_decay needs --optimizer {" or ".join(optimizers.ADAMS)}, '
            f'not {args.optimizer}'
        )
    if not optimizers.decays(args.decay_start_iteration, args.train_iterations):
        parser.error(
            '--adam_beta1_at_decay needs a decay; --decay_start_iteration '
            f'{args.decay_start_iteration} begins none within --train_iterations '
            f'{args.train_iterations}'
        )


def merge_stored_args(parser, argv, experiment_root):
    """Return the flags of the run in `experiment_root`, and what to say of them.

    The stored values win, except those in FREE_ON_RESUME and a raised
    --train_iterations. Keys that this version does not know are kept.
    """
    stored = common.read_args(experiment_root)
    for name in NOT_STORED:
        stored.pop(name, None)
    check_stored_args(parser, stored, experiment_root)
    defaults = argparse.Namespace(**stored)
    # argparse leaves alone what is already set, unless the command line names it.
    given = vars(parser.parse_args(argv, namespace=defaults))
    notes = []
    known = {action.dest for action in parser._actions}
    unknown = sorted(set(stored) - known)
    if unknown:
        notes.append(
            f'args.json has keys that this version does not know, kept and ignored: '
            f'{", ".join(unknown)}'
        )
    for name, value in sorted(stored.items()):
        if is_same_value(name, given[name], value) or name in FREE_ON_RESUME:
            continue
        if name == 'train_iterations' and given[name] > value:
            notes.append(f'--train_iterations raised from {value} to {given[name]}')
            continue
        hint = '; it can only be raised' if name == 'train_iterations' else ''
        notes.append(
            f'--{name} {as_words(given[name])} ignored: the stored {as_words(value)} '
            f'wins when resuming{hint}'
        )
        given[name] = value
    return argparse.Namespace(**given), notes


def as_words(value):
    """Return a flag's value as it stands on a command line."""
    return ' '.join(map(str, as_list(value)))


def check_stored_args(parser, stored, experiment_root):
    """Raise ValueError if a value in args.json is none that the flag could have."""
    for action in parser._actions:
        value = stored.get(action.dest)
        if value is not None and not is_possible(action, value):
            raise common.InputError(
                f'--{action.dest} {value!r} in {experiment_root}/args.json is no value '
                'that the flag takes; restore what train.py wrote'
            )
        if action.choices and value is not None and value not in action.choices:
            raise common.InputError(
                f'--{action.dest} {value} in {experiment_root}/args.json is unknown; '
                f'expected one of {", ".join(map(str, action.choices))}'
            )


def is_possible(action, value):
    """Say whether a stored value is one that the flag's type could have returned."""
    if action.type is None:
        return isinstance(value, str if action.const is None else bool)
    if action.nargs == '+' and isinstance(value, list):
        return len(value) > 1 and all(isinstance(item, str) for item in value)
    if action.type is common.path:
        return isinstance(value, str)
    try:
        return action.type(str(value)) == value
    except (ValueError, argparse.ArgumentTypeError):
        return False


def is_same_value(name, given, stored):
    """Say whether a flag's value means the stored one; a path may be relative."""
    if name in ('train_set', 'initial_checkpoint') and given and stored:
        return absolute(given) == absolute(stored)
    return given == stored


def flags_to_share(args, pids, fids):
    """Return {name: value} of what has to be the same in all processes of a run.

    Args:
        args: of parse_args.
        pids, fids: [N] of str, of the training sets.
    """
    values = {
        # Files may lie elsewhere on another machine.
        f'--{name}': without_directory(value)
        for name, value in vars(args).items()
        if name not in (*FREE_ON_RESUME, 'experiment_root')
    }
    rows = '\n'.join(common.csv_lines(pids, fids))
    values['the checksum of --train_set'] = zlib.crc32(rows.encode('utf-8'))
    return values


def without_directory(value):
    """Return a flag's value, of paths the last part alone."""
    if isinstance(value, list):
        return [without_directory(part) for part in value]
    return os.path.basename(value) if isinstance(value, str) else value
