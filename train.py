#!/usr/bin/env python3
"""Learn an embedding of images with the batch-hard triplet loss.

    python train.py --experiment_root ~/exp/market \\
        --train_set data/market1501_train.csv --image_root ~/Market-1501-v15.09.15 \\
        --initial_checkpoint resnet_v1_50.ckpt --flip_augment --crop_augment

Writes args.json, train.log, checkpoint-STEP.* and TensorBoard events to the
experiment root. Ctrl+C (or SIGTERM) finishes the iteration, writes a checkpoint and
stops; --resume continues. The paper's recipe is market1501_train.sh.
"""

import argparse
import importlib
import os
import secrets
import shlex
import shutil
import signal
import sys
import time

import common
import loss
from heads import HEAD_CHOICES
from nets import NET_CHOICES
from precision import is_native

# Imported at first use, so that --help and a mistyped flag answer at once.
np = common.lazy_import('numpy')
pd = common.lazy_import('pandas')
tf = common.lazy_import('tensorflow')
batches = common.lazy_import('batches')
checkpoints = common.lazy_import('checkpoints')
model = common.lazy_import('model')
monitoring = common.lazy_import('monitoring')

# The learning rate's factor at the end of the decay (the paper's schedule).
DECAY_FACTOR = 0.001

# float16 would need its loss scaled, and the scale kept in the checkpoints.
PRECISION_CHOICES = ('float32', 'bfloat16')

# What --resume takes from the command line: it does not change the mathematics.
FREE_ON_RESUME = (
    'image_root',
    'loading_threads',
    'checkpoint_frequency',
    'histogram_frequency',
    'detailed_logs',
)

# Flags of one call, not of the experiment.
NOT_STORED = ('experiment_root', 'resume')


def build_parser():
    """Return the parser of train.py's flags."""
    parser = common.new_parser(__doc__)
    add_required_flags(parser)
    add_model_flags(parser)
    add_data_flags(parser)
    add_optimisation_flags(parser)
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
        type=common.path,
        help='CSV of the training images, a line `PID,FID` each; see make_csv.py.',
    )
    required.add_argument(
        '--image_root',
        type=common.path,
        help='Directory that the FIDs are relative to.',
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
        '--embedding_dim',
        default=128,
        type=common.positive_int,
        help='Length of an embedding.',
    )
    network.add_argument(
        '--initial_checkpoint',
        type=common.path,
        help='Where the net (not the head) starts from: a TF-Slim checkpoint, old or '
        'new format, or one of ours; or the word `imagenet` for the weights of Keras: '
        'ResNet50 for resnet_v1_50, ResNet101 for resnet_v1_101, MobileNet for '
        'mobilenet_v1_1_224, renamed (the ResNets stride elsewhere there: a start for '
        'training, not the same function). Without it the net starts random.',
    )
    network.add_argument(
        '--precision',
        default='float32',
        choices=PRECISION_CHOICES,
        help='Number format of activations and products; weights, batch-norm '
        'statistics, distances, loss and optimizer are float32 in any case. bfloat16 '
        'is faster where the processor has it (AVX-512, GPU), slower elsewhere.',
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
    common.add_loading_threads(data)
    data.add_argument(
        '--seed',
        type=common.non_negative_int,
        help='Of batches, augmentation and initial weights: the same seed, the same '
        'run. Drawn and stored in args.json when absent.',
    )


def add_optimisation_flags(parser):
    """Add the flags of loss and learning rate to a parser."""
    optimisation = parser.add_argument_group('optimisation')
    optimisation.add_argument(
        '--loss',
        default='batch_hard',
        choices=tuple(loss.LOSS_CHOICES),
        help='The loss, a function of loss.py.',
    )
    optimisation.add_argument(
        '--margin',
        default='soft',
        type=margin,
        help='A number in the unit of the metric: hinge loss; `soft`: softplus; '
        '`none`: the bare difference of distances.',
    )
    optimisation.add_argument(
        '--metric',
        default='euclidean',
        choices=loss.METRIC_CHOICES,
        help='Distance between embeddings.',
    )
    optimisation.add_argument(
        '--learning_rate',
        default=3e-4,
        type=common.positive_float,
        help="Adam's learning rate until the decay begins.",
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


def add_bookkeeping_flags(parser):
    """Add the flags of resuming and reporting to a parser."""
    bookkeeping = parser.add_argument_group('bookkeeping')
    bookkeeping.add_argument(
        '--resume',
        action='store_true',
        help='Continue the run in the experiment root, with the flags of its '
        'args.json. Of the command line, only --image_root, --loading_threads, '
        '--checkpoint_frequency, --histogram_frequency, --detailed_logs and a larger '
        '--train_iterations count.',
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
        '--detailed_logs',
        action='store_true',
        help='Store the embeddings, losses and FIDs of every iteration, as arrays.',
    )


def margin(text):
    """argparse type: 'soft', 'none' or a number."""
    if text in ('soft', 'none'):
        return text
    return common.number(text, float, "a number, 'soft' or 'none'")


def parse_args(argv):
    """Return the checked flags of a new run, or those of the run to be resumed.

    Returns:
        (args, notes): argparse.Namespace; list of str, what a resumed run should be
        told about its flags.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    notes = []
    if args.resume:
        args, notes = merge_stored_args(parser, argv, args.experiment_root)
    else:
        check_is_new(parser, args.experiment_root)
    for name in ('train_set', 'image_root'):
        if getattr(args, name) is None:
            parser.error(f'--{name} is required')
        # A run must be resumable from another working directory.
        setattr(args, name, os.path.abspath(getattr(args, name)))
    if not os.path.isdir(args.image_root):
        parser.error(f'--image_root {args.image_root} is not a directory')
    check_sizes(parser, args)
    if args.batch_p * args.batch_k < 2:
        parser.error('--batch_p 1 with --batch_k 1 leaves no pair; raise one of them')
    if args.seed is None:
        args.seed = secrets.randbelow(2**31)
    if args.initial_checkpoint not in (None, 'imagenet'):
        args.initial_checkpoint = os.path.abspath(args.initial_checkpoint)
    return args, notes


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
        notes.append(
            f'--{name} {given[name]} ignored: the stored {value} wins when resuming'
        )
        given[name] = value
    return argparse.Namespace(**given), notes


def check_stored_args(parser, stored, experiment_root):
    """Raise ValueError if a value in args.json is none that the flag could have."""
    for action in parser._actions:
        value = stored.get(action.dest)
        if value is not None and not is_possible(action, value):
            raise ValueError(
                f'--{action.dest} {value!r} in {experiment_root}/args.json is no value '
                'that the flag takes; restore what train.py wrote'
            )
        if action.choices and value is not None and value not in action.choices:
            raise ValueError(
                f'--{action.dest} {value} in {experiment_root}/args.json is unknown; '
                f'expected one of {", ".join(action.choices)}'
            )


def is_possible(action, value):
    """Say whether a stored value is one that the flag's type could have returned."""
    if action.type is None:
        return isinstance(value, str if action.const is None else bool)
    try:
        return action.type(str(value)) == value or action.type is common.path
    except (ValueError, argparse.ArgumentTypeError):
        return False


def is_same_value(name, given, stored):
    """Say whether a flag's value means the stored one; a path may be relative."""
    if name in ('train_set', 'initial_checkpoint') and given and stored:
        return os.path.abspath(given) == os.path.abspath(stored)
    return given == stored


def learning_rate_at(step, learning_rate, decay_start, train_iterations):
    """Return the learning rate of the update after `step` updates.

        learning_rate * 0.001 ** ((step - start) / (train_iterations - start))

    from start = decay_start on; constant before it, and everywhere if decay_start is
    -1 or not below train_iterations.
    """
    if not 0 <= decay_start < train_iterations or step < decay_start:
        return learning_rate
    progress = (step - decay_start) / (train_iterations - decay_start)
    return learning_rate * DECAY_FACTOR**progress


def check_initial_checkpoint(initial_checkpoint):
    """Raise FileNotFoundError, before anything slow, if there is no such file."""
    if initial_checkpoint not in (None, 'imagenet'):
        checkpoints.WeightsFile(initial_checkpoint)


def build_state(args):
    """Return (model, optimizer, TrainingState) of a run, the weights random."""
    tf.keras.utils.set_random_seed(args.seed)
    embedder = model.build_model(
        args.model_name, args.head_name, args.embedding_dim, args.precision
    )
    optimizer = tf.keras.optimizers.Adam(args.learning_rate, epsilon=1e-8)
    optimizer.build(embedder.trainable_variables)
    state = checkpoints.TrainingState(embedder, optimizer, args.experiment_root)
    return embedder, optimizer, state


def initialise(embedder, model_name, initial_checkpoint):
    """Give a new run's net its initial weights; return what to say of it."""
    if initial_checkpoint is None:
        return 'no --initial_checkpoint: all variables start random'
    if initial_checkpoint == 'imagenet':
        net = importlib.import_module(f'nets.{model_name}')
        weights = checkpoints.imagenet_weights(net, model_name)
    else:
        weights = checkpoints.WeightsFile(initial_checkpoint)
    report = checkpoints.load_body(embedder, weights, initial_checkpoint)
    return f'{initial_checkpoint}: {report}'


def create_experiment(args, state):
    """Write args.json and checkpoint-0; if that fails, nothing stays behind."""
    root = args.experiment_root
    existed = os.path.isdir(root)
    try:
        write_args(args)
        state.save(0)
    except BaseException:
        if not existed:
            shutil.rmtree(root, ignore_errors=True)
        elif os.path.isdir(root):
            for entry in os.scandir(root):
                os.remove(entry.path)
        raise


def write_args(args):
    """Write every flag to args.json in the experiment root."""
    common.write_json(os.path.join(args.experiment_root, 'args.json'), vars(args))


def make_train_step(embedder, optimizer, loss_name, metric, margin, k):
    """Return the function of one iteration.

    It maps (images float32 [B, H, W, 3], pids [B], learning rate) to a dict of
    `losses` [B], `embs` [B, D], `dists` [B, B] and the scalars `top1` and `precision`
    (of the k nearest), all float32, and updates the weights.
    """
    loss_function = loss.LOSS_CHOICES[loss_name]

    @tf.function
    def train_step(images, pids, learning_rate):
        with tf.GradientTape() as tape:
            embs = embedder(images, training=True)['emb']  # [B, D]
            dists = loss.cdist(embs, embs, metric)  # [B, B]
            losses = loss_function(dists, pids, margin)  # [B]
            mean_loss = tf.reduce_mean(losses)
        gradients = tape.gradient(mean_loss, embedder.trainable_variables)
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply(gradients, embedder.trainable_variables)
        top1, precision = loss.batch_scores(dists, pids, k)
        return {
            'losses': losses,
            'embs': embs,
            'dists': dists,
            'top1': top1,
            'precision': precision,
        }

    return train_step


class StopRequest:
    """Context in which SIGINT and SIGTERM ask for a stop; a second one stops at once.

    Its `is_made` says whether someone asked.
    """

    def __enter__(self):
        self.is_made = False
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.previous = {number: signal.signal(number, self.ask) for number in numbers}
        return self

    def ask(self, *_):
        """Note the request, and let the next signal do what it did before."""
        self.is_made = True
        self.restore()

    def restore(self, *_):
        """Reinstall the handlers that were there before."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    __exit__ = restore


def train(steps, next_batch, train_step, learning_rate_of, journal, state, is_due):
    """Run the iterations; return the number of updates made by then.

    Args:
        steps: range, from the number of updates made to that at the end of the run.
        next_batch: function of a step that returns (rows [B], images, pids [B]).
        train_step: see make_train_step.
        learning_rate_of: function of a step.
        journal: monitoring.Journal.
        state: checkpoints.TrainingState.
        is_due: function of the updates made; True where a checkpoint is written. One
            is also written at the end and when someone asks for a stop.

    Raises:
        ValueError: the loss or a weight is no longer finite, or an image cannot be
            read.
    """
    with StopRequest() as stop, journal:
        for step in steps:
            started = time.perf_counter()
            rows, images, pids = next_batch(step)
            secs_input = time.perf_counter() - started
            learning_rate = learning_rate_of(step)
            outcome = train_step(images, pids, tf.constant(learning_rate))
            done = step + 1
            check_finite(outcome['losses'].numpy(), done, state)
            journal.write(done, rows, pids, learning_rate, outcome, secs_input)
            is_last = stop.is_made or done == steps.stop
            if is_last or is_due(done):
                check_weights(state, done)
                state.save(done)
            if is_last:
                break
    return done


def make_next_batch(args, sampler, pids, fids, steps):
    """Return the function of a step that `train` gets its batches from, in order."""
    paths = batches.join_paths(args.image_root, fids)
    pid_codes, _ = pd.factorize(pids)  # [N]
    augmentation = batches.Augmentation(
        net_size=(args.net_input_height, args.net_input_width),
        pre_crop_size=(args.pre_crop_height, args.pre_crop_width),
        flips=args.flip_augment,
        crops=args.crop_augment,
    )
    iterator = iter(
        batches.training_batches(
            sampler, paths, augmentation, steps.start, steps.stop, args.loading_threads
        )
    )

    def next_batch(step):
        rows, images = batches.next_batch(
            iterator, lambda: [paths[row] for row in sampler.draw(step)]
        )
        return rows.numpy(), images, pid_codes[rows.numpy()]

    return next_batch


def open_journal(args, logger, fids, steps, k):
    """Return the monitoring.Journal of a run."""
    detailed_logs = None
    if args.detailed_logs:
        detailed_logs = monitoring.DetailedLogs(
            args.experiment_root,
            args.train_iterations,
            args.batch_p * args.batch_k,
            args.embedding_dim,
            fids,
        )
    return monitoring.Journal(
        logger,
        args.experiment_root,
        steps.start,
        steps.stop,
        k,
        args.histogram_frequency,
        detailed_logs,
    )


def check_finite(losses, step, state):
    """Raise ValueError if a loss of iteration `step` is NaN or infinite."""
    if not np.isfinite(losses).all():
        raise divergence(f'the loss became {losses.mean()}', step, state)


def check_weights(state, step):
    """Raise ValueError if a variable is NaN or infinite after iteration `step`.

    The loss shows it one iteration late, when the checkpoint would be there.
    """
    for name, variable in state.variables.items():
        if not np.isfinite(variable.numpy()).all():
            raise divergence(f'{name} is no longer finite', step, state)


def divergence(what, step, state):
    """Return the ValueError that tells of a run that has diverged."""
    return ValueError(
        f'{what} in iteration {step}; the last good checkpoint is '
        f'{checkpoints.latest(state.directory)}. Start anew with a lower '
        '--learning_rate, or with that file as --initial_checkpoint'
    )


def main(argv=None):
    args, notes = parse_args(argv)
    pids, fids = common.load_dataset(args.train_set, args.image_root)
    common.start_tensorflow()
    check_initial_checkpoint(args.initial_checkpoint)
    sampler = batches.Sampler(pids, args.batch_p, args.batch_k, args.seed)
    embedder, optimizer, state = build_state(args)
    if args.resume:
        checkpoint = checkpoints.latest(args.experiment_root)
        notes.append(f'resuming {checkpoint}: {state.load(checkpoint)}')
        write_args(args)
    else:
        notes.append(initialise(embedder, args.model_name, args.initial_checkpoint))
        create_experiment(args, state)
    logger = common.setup_logging(os.path.join(args.experiment_root, 'train.log'))
    for note in notes:
        logger.info(note)
    if not is_native(args.precision):
        logger.warning(
            f'this processor has no instructions for {args.precision}: products are '
            'computed in float32 and rounded, right but slower than --precision float32'
        )

    steps = range(state.step, args.train_iterations)
    if not steps:
        logger.info(
            f'nothing to do: the run is finished after {state.step} iterations; raise '
            '--train_iterations to go on'
        )
        return
    # Neighbours to look at: the K - 1 other images of a PID, or one if there is none.
    k = max(1, args.batch_k - 1)
    done = train(
        steps,
        make_next_batch(args, sampler, pids, fids, steps),
        make_train_step(embedder, optimizer, args.loss, args.metric, args.margin, k),
        lambda step: learning_rate_at(
            step, args.learning_rate, args.decay_start_iteration, args.train_iterations
        ),
        open_journal(args, logger, fids, steps, k),
        state,
        lambda done: (
            args.checkpoint_frequency and done % args.checkpoint_frequency == 0
        ),
    )
    if done < args.train_iterations:
        command = shlex.join(
            ['python', sys.argv[0], '--experiment_root', args.experiment_root]
        )
        logger.info(
            f'stopped after iteration {done}; continue with: {command} --resume'
        )
    else:
        logger.info(
            f'finished after {done} iterations: {state.directory}/checkpoint-{done}'
        )


if __name__ == '__main__':
    common.run(main)
