"""Which of train.py's flags go together: a check leaves with an error, or returns."""

import os

import loss
from training import experiment, optimizers, workers


def check(parser, args, is_chief):
    """Leave with an error unless the flags of a run go together; return warnings.

    Args:
        parser: its parser, for the errors.
        args: its flags.
        is_chief: whether this process is the one that writes.

    Returns:
        list of str, on what is possible, but hardly meant.
    """
    # The experiment root is the chief's, which may be faster than we are.
    if not args.resume and is_chief:
        check_is_new(parser, args.experiment_root)
    check_data(parser, args.train_set, args.image_root)
    check_sizes(parser, args)
    check_loss(parser, args)
    check_optimizer(parser, args)
    check_validation(parser, args)
    check_precision(parser, args.precision, args.distribute)
    return [*warn_of_loss(args), *warn_of_schedule(args)]


def check_precision(parser, precision, distribute):
    """Leave with an error if a half format cannot be trained on these devices."""
    if distribute != 'none' and precision == 'float16':
        # Keras looks for overflows before it sums the gradients: each device might
        # come to another conclusion.
        parser.error(
            f'--precision float16 cannot be trained with --distribute {distribute}; '
            'choose bfloat16 or float32'
        )


def check_validation(parser, args):
    """Leave with an error unless the flags of validation go together."""
    if args.val_set is None:
        for name in ('val_query', 'val_excluder', 'val_image_root'):
            if getattr(args, name) is not None:
                parser.error(f'--{name} needs a --val_set, the gallery')
        # An older version may have stored it.
        if not args.resume and args.val_every != parser.get_default('val_every'):
            parser.error(
                f'--val_every {args.val_every} needs a --val_set, which is scored so '
                'often; without one, leave it out'
            )
        return
    if args.val_excluder is None:
        parser.error(
            '--val_set needs a --val_excluder; `diagonal` if the names of the images '
            'tell no camera'
        )
    if args.val_image_root is None and len(args.image_root) > 1:
        parser.error(
            f'--image_root has {len(args.image_root)} directories; say which one holds '
            'the images of --val_set with --val_image_root'
        )
    for name in ('val_set', 'val_query', 'val_image_root'):
        if getattr(args, name) is not None:
            setattr(args, name, os.path.abspath(getattr(args, name)))


def read_cluster(parser, distribute):
    """Return the workers.Cluster of this process, or None if it is alone.

    Leaves with an error if TF_CONFIG describes none.
    """
    if distribute != 'multi_worker':
        return None
    try:
        return workers.read_cluster(os.environ.get('TF_CONFIG'))
    except ValueError as error:
        return parser.error(str(error))


def check_is_new(parser, experiment_root):
    """Leave with an error if there is something where a new run is to go."""
    if experiment.contents(experiment_root):
        if not experiment.has_not_begun(experiment_root):
            parser.error(
                f'--experiment_root {experiment_root} is not empty; add --resume to '
                'continue it, or choose a new directory'
            )
    elif not os.path.isdir(experiment_root) and os.path.lexists(experiment_root):
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


def warn_of_loss(args):
    """Return warnings of batches or a margin that teach next to nothing."""
    warnings = []
    if args.batch_k == 1:
        warnings.append(
            '--batch_k 1 leaves no positive pair: images are only pushed apart'
        )
    if args.batch_p == 1:
        warnings.append(
            '--batch_p 1 leaves no negative pair: a soft loss is 0, and nothing is '
            'learned'
        )
    if not isinstance(args.margin, str) and args.margin < 0:
        warnings.append(
            f'--margin {args.margin} is negative: pairs count as solved although the '
            'positive is farther away than the negative'
        )
    return warnings


def warn_of_schedule(args):
    """Return a warning, or nothing, of a warm-up that never ends."""
    if args.warmup_iterations <= args.train_iterations:
        return []
    last = args.learning_rate * args.train_iterations / args.warmup_iterations
    return [
        f'--warmup_iterations {args.warmup_iterations} is longer than the run of '
        f'--train_iterations {args.train_iterations}: the learning rate ends at '
        f'{last:.2g} and never reaches {args.learning_rate:g}'
    ]


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
