"""What a run says of itself: before it starts, when it diverges, when it collapses."""

import collections
import math
import typing

import numpy as np
import tensorflow as tf

import checkpoints
import common
import model
from training import optimizers

# The paper's schedule visits every identity of Market-1501 so often (25000 iterations
# of 18 identities, 751 in all), and those of MARS about as often.
PAPER_PIDS = 751
PAPER_VISITS = 600
PAPER_DECAY_SHARE = 0.6

# By which factor data and schedule may differ from the paper's without a suggestion.
FAR = 2

# What TensorFlow takes at the first steps beyond the arrays that are counted here:
# compiled kernels and their scratch space; measured, see docs/diagnosis.md.
RUNTIME_BYTES = 100e6

# Gradients of activations, of the size of the largest, at the same time: what goes into
# an operation of the backward pass, what comes out, and the sum where paths meet.
GRADIENTS_IN_TRANSIT = 3

# Batches of images in memory at the same time: in the net, prefetched, being filled.
BATCHES_IN_MEMORY = 4

# TensorFlow operations whose result is their operand's memory.
ALIASES = {'Identity', 'IdentityN', 'Reshape', 'Squeeze', 'ExpandDims', 'StopGradient'}

# What is no activation: it is counted elsewhere, or is tiny.
NO_ACTIVATIONS = {'ReadVariableOp', 'Const', 'Placeholder', 'Shape'}

# Checkpoints that take more are mentioned with the flag that keeps fewer.
MUCH_DISK = 5e9

# Losses that are ln 2, or the margin, where all embeddings are one point.
TRIPLET_LOSSES = ('batch_hard', 'batch_all', 'batch_all_nonzero', 'batch_sample')

# A run has collapsed if, over so many iterations, its loss was as near to that value,
# and its embeddings had only this share of the spread they began with.
COLLAPSE_WINDOW = 100
COLLAPSE_LOSS = 0.01
COLLAPSE_SPREAD = 0.1

# Iterations that tell where a loss ends.
FEW = 10

# One batch is learned if its loss has fallen to this share, with this precision.
LEARNED_LOSS = 0.5
LEARNED_PRECISION = 0.99


# --- tables ----------------------------------------------------------------------


def format_table(title, rows):
    """Return the lines of a table, list of str.

    Args:
        title: its first line.
        rows: list of (name, text); those whose text is None are left out.
    """
    rows = [(name, text) for name, text in rows if text is not None]
    width = max(len(name) for name, _ in rows)
    return [title, *(f'  {name:<{width}}  {text}' for name, text in rows)]


def data_table(counts, batch_p, batch_k, train_iterations, is_decaying):
    """Return what a run should know of its data, list of str.

    Args:
        counts: int64 [number of PIDs], images of each.
        batch_p, batch_k: P and K.
        train_iterations: of the whole run.
        is_decaying: whether the learning rate decays, so that a suggested schedule
            says when.
    """
    num_few = np.count_nonzero(counts < batch_k)
    visits = train_iterations * batch_p / len(counts)
    passes = train_iterations * batch_p * batch_k / counts.sum()
    return format_table(
        'data',
        [
            ('images', f'{counts.sum()}'),
            ('identities', f'{len(counts)}'),
            (
                'images per identity',
                f'min {counts.min()}, median {np.median(counts):g}, max {counts.max()}',
            ),
            (
                f'fewer than K = {batch_k}',
                f'{num_few} identities'
                + (', whose images come twice in a batch' if num_few else ''),
            ),
            (
                'schedule',
                f'{train_iterations} iterations of {batch_p} x {batch_k}: every '
                f'identity {format_times(visits)}, every image {format_times(passes)}',
            ),
            (
                'suggestion',
                suggest_schedule(len(counts), batch_p, train_iterations, is_decaying),
            ),
        ],
    )


def format_times(number):
    """Return how often something happens: '1070 times', '2.53 times'."""
    return f'{number:.0f} times' if number >= 100 else f'{number:.3g} times'


def suggest_schedule(num_pids, batch_p, train_iterations, is_decaying=True):
    """Return the schedule that is the paper's for so many identities, or None.

        iterations = 600 * num_pids / P, the decay beginning after 60 % of them

    There is none where the number of identities is within a factor of 2 of
    Market-1501's, or the schedule is already within a factor of 2 of this one.
    """
    iterations = round_to_two_digits(PAPER_VISITS * num_pids / batch_p)
    if is_near(num_pids, PAPER_PIDS) or is_near(train_iterations, iterations):
        return None
    start = round_to_two_digits(PAPER_DECAY_SHARE * iterations)
    decay = f' --decay_start_iteration {start}' if is_decaying else ''
    return (
        f'--train_iterations {iterations}{decay} would show every identity about '
        f'{PAPER_VISITS} times, as the paper does'
    )


def is_near(a, b):
    """Say whether two positive numbers differ by at most the factor FAR."""
    return max(a, b) <= FAR * min(a, b)


def round_to_two_digits(number):
    """Return a positive number rounded to two significant digits, int, at least 1."""
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return max(1, round(number / unit) * unit)


def network_table(network, names, weights):
    """Return what a run should know of its network, list of str.

    Args:
        network: of model.build_model.
        names: of net and head.
        weights: what was loaded, left random and unused, as a text.
    """
    total = count_numbers(network.variables)
    trainable = count_numbers(network.trainable_variables)
    return format_table(
        'network',
        [
            ('net and head', ', '.join(names)),
            (
                'parameters',
                f'{trainable:,} trained, {total - trainable:,} not (moving averages)',
            ),
            ('weights', weights),
        ],
    )


def count_numbers(variables):
    """Return how many numbers a list of variables holds."""
    return sum(math.prod(variable.shape) for variable in variables)


def memory_table(network, optimizer, batch_size, net_size, free):
    """Return what a run will need of the main memory, list of str.

    Args:
        network: of model.build_model.
        optimizer: a Keras optimizer, built for it.
        batch_size: B.
        net_size: (height, width), pixels.
        free: bytes that can be had, or None if unknown.
    """
    state = 4 * count_numbers([*network.variables, *optimizer.variables])  # float32
    gradients = 4 * count_numbers(network.trainable_variables)  # All at once.
    activations, largest = measure_activations(network, batch_size, net_size)
    activations += GRADIENTS_IN_TRANSIT * largest
    images = BATCHES_IN_MEMORY * batch_size * math.prod(net_size) * 3 * 4
    needed = activations + gradients + images + RUNTIME_BYTES
    if free is not None:  # It is the main memory that is needed.
        common.refuse_impossible(
            needed,
            f'a batch of {batch_size} images of {net_size[0]}x{net_size[1]} pixels',
            'lower --batch_p or the net input, or choose a smaller --model_name',
        )
    advice = None
    if free is not None and needed > free:
        advice = (
            'likely to run out of memory: lower --batch_p first, then the net input, '
            'or choose a smaller --model_name ("Out of memory" in README.md)'
        )
    return format_table(
        'memory',
        [
            ('weights, optimizer', f'{gigabytes(state)}, already there'),
            ('gradients', gigabytes(gradients)),
            (
                'activations',
                f'{gigabytes(activations)} for {batch_size} images of '
                f'{net_size[0]}x{net_size[1]}',
            ),
            ('images', gigabytes(images)),
            (
                'still needed',
                f'about {gigabytes(needed)}'
                + ('' if free is None else f' of {gigabytes(free)} available'),
            ),
            ('advice', advice),
        ],
    )


def training_table(objective, optimizer, seed):
    """Return how a run learns, list of str.

    Args:
        objective: a settings.Objective.
        optimizer: a settings.Optimizer.
        seed: of batches, augmentation and initial weights.
    """
    rate = optimizer.learning_rate
    schedule = f'{rate.rate:g}'
    if rate.warmup_iterations:
        schedule += f', reached after {rate.warmup_iterations} iterations'
    if optimizers.decays(rate.decay_start, rate.train_iterations):
        schedule += (
            f', from iteration {rate.decay_start} down to '
            f'{optimizers.DECAY_FACTOR * rate.rate:g} at {rate.train_iterations}'
        )
    return format_table(
        'training',
        [
            ('loss', f'{objective.loss}, margin {objective.margin}'),
            ('metric', objective.metric),
            ('optimizer', optimizer.name),
            ('learning rate', schedule),
            ('seed', f'{seed}'),
        ],
    )


class Disk(typing.NamedTuple):
    """What decides how much disk the checkpoints of a run take.

    Attributes:
        num_bytes: of one checkpoint.
        train_iterations: of the whole run.
        frequency: iterations between checkpoints; 0: only the last one.
        keep: how many are kept; 0: all.
    """

    num_bytes: int
    train_iterations: int
    frequency: int
    keep: int

    @property
    def num_checkpoints(self):
        """How many there are at the end, with the first and the last one."""
        number = 2
        if self.frequency:
            number = 1 + -(-self.train_iterations // self.frequency)
        return min(number, self.keep or number)


def disk_table(disk):
    """Return what the checkpoints of a run will take, list of str, from a Disk."""
    number = disk.num_checkpoints
    what = (
        f'{number} of {gigabytes(disk.num_bytes)}: {gigabytes(number * disk.num_bytes)}'
    )
    advice = None
    if number * disk.num_bytes > MUCH_DISK:
        advice = '--keep_checkpoints N keeps the newest only'
    return format_table('disk', [('checkpoints', what), ('advice', advice)])


def gigabytes(num_bytes):
    """Return a number of bytes as a text, in GB of 10^9, to the nearest 10 MB."""
    return f'{num_bytes / 1e9:.2f} GB'


def measure_activations(network, batch_size, net_size):
    """Return the bytes that a forward pass keeps for the backward pass.

    Both are traced, not run; what counts is every tensor of the former that the latter
    reads, once. Layers that Keras nests are traced like all others.

    Args:
        network: of model.build_model.
        batch_size: B.
        net_size: (height, width), pixels.

    Returns:
        (total, largest): bytes of all tensors and of the largest one.
    """
    forward = set()  # Names of operations.

    @tf.function(autograph=False)
    def gradients(images):
        with tf.GradientTape() as tape:
            embs = model.training_embs(network(images, training=True))
        # Not told by their names later: gradients of a tf.custom_gradient have any.
        forward.update(operation.name for operation in images.graph.get_operations())
        return tape.gradient(embs, network.trainable_variables)

    images = tf.TensorSpec((batch_size, *net_size, 3))
    operations = gradients.get_concrete_function(images).graph.get_operations()
    kept = {}
    for operation in operations:
        if operation.name in forward:
            continue
        for tensor in map(find_memory, operation.inputs):
            if (
                tensor.op.name in forward
                and tensor.op.type not in NO_ACTIVATIONS
                and tensor.shape.is_fully_defined()
            ):
                kept[tensor.name] = tensor.shape.num_elements() * tensor.dtype.size
    return sum(kept.values()), max(kept.values(), default=0)


def find_memory(tensor):
    """Return the tensor whose memory a tensor shares."""
    while tensor.op.type in ALIASES and tensor.op.inputs:
        # IdentityN has several results, of as many operands.
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def free_memory():
    """Return the bytes of memory that can be had where the net is computed.

    None where that is unknown, as on a GPU, whose memory is not looked at.
    """
    has_gpu = bool(tf.config.list_physical_devices('GPU'))
    return None if has_gpu else common.free_memory()


# --- divergence -----------------------------------------------------------------


def check_outcome(outcome, step, state):
    """Raise InputError if losses or embeddings of iteration `step` are not finite.

    Or if gradients have overflowed whatever the scale of the loss was: loss and weights
    would stay as they are, and the run go on for nothing.

    Args:
        outcome: a step.Outcome.
        step: number of the iteration.
        state: checkpoints.TrainingState.
    """
    losses = outcome.losses.numpy()
    if not np.isfinite(outcome.embs.numpy()).all():
        raise divergence('embeddings are no longer finite', step, state)
    if not np.isfinite(losses).all():
        raise divergence(f'the loss became {losses.mean()}', step, state)
    scale = None if outcome.loss_scale is None else float(outcome.loss_scale)
    if scale is not None and not scale >= optimizers.SMALLEST_LOSS_SCALE:
        what = f'gradients overflow, even with a loss scale of {scale:.1e},'
        raise divergence(what, step, state)


def check_weights(state, step):
    """Raise InputError if a variable is NaN or infinite after iteration `step`.

    The loss shows it one iteration late, when the checkpoint would be there.
    """
    for name, variable in state.variables.items():
        if not np.isfinite(variable.numpy()).all():
            raise divergence(f'{name} is no longer finite', step, state)


def divergence(what, step, state):
    """Return the InputError that tells of a run that has diverged."""
    if step == 1:
        return common.InputError(
            f'{what} in iteration 1, before any update: look at the weights that the '
            'run starts with, at --loss, --margin, --batch_p and --batch_k'
        )
    return common.InputError(
        f'{what} in iteration {step}; the last good checkpoint is '
        f'{checkpoints.latest(state.directory)}. Start anew with a lower '
        '--learning_rate, or with that file as --initial_checkpoint'
    )


# --- collapse --------------------------------------------------------------------


def collapsed_loss(loss_name, margin):
    """Return the loss where all embeddings are one point, or None if that is no sign.

    Args:
        loss_name: of --loss.
        margin: float, 'soft' or 'none'.
    """
    if loss_name not in TRIPLET_LOSSES or margin == 'none':
        return None
    return math.log(2) if margin == 'soft' else margin


def make_collapse_memory():
    """Return what a CollapseWatch remembers, {name in checkpoints: tf.Variable}."""
    window = np.full(COLLAPSE_WINDOW, np.nan, np.float32)
    values = {
        'first_spread': np.float32(np.nan),  # Mean distance in the first batch.
        'losses': window,  # Of the last iterations, the newest last.
        'spreads': window,
        'has_warned': False,
    }
    return {
        f'{checkpoints.MEMORY_SCOPE}collapse_watch/{name}': tf.Variable(value)
        for name, value in values.items()
    }


class CollapseWatch:
    """Notices, once, that a run maps all images to one point.

    That is so if, over the last 100 iterations, the mean loss was within 1 % of the
    loss of identical embeddings, and the mean distance in the batch below a tenth of
    what it was at first. A healthy run may rest at that loss too, or shrink for a
    while, but not both so far.

    Args:
        expected_loss: of collapsed_loss.
        logger: of common.setup_logging; it gets the warning.
        memory: of make_collapse_memory. It is stored with the weights, so that an
            interruption makes no difference.
    """

    def __init__(self, expected_loss, logger, memory):
        self.expected_loss = expected_loss
        self.logger = logger
        self.first_spread, self.losses, self.spreads, self.has_warned = memory.values()

    def report(self, iteration):
        """Count a journal.Iteration, and warn if the run has collapsed."""
        warning = self.observe(
            float(iteration.outcome.losses.numpy().mean()),
            float(iteration.outcome.dists.numpy().mean()),
        )
        if warning is not None:
            self.logger.warning(warning)

    def observe(self, mean_loss, spread):
        """Count an iteration; return a warning, or None.

        Args:
            mean_loss: of the batch.
            spread: mean distance of the batch's images.
        """
        if self.expected_loss is None or self.has_warned.numpy():
            return None
        if np.isnan(self.first_spread.numpy()):
            self.first_spread.assign(spread)
        for window, value in ((self.losses, mean_loss), (self.spreads, spread)):
            window.assign(np.append(window.numpy()[1:], np.float32(value)))
        losses, spreads = self.losses.numpy(), self.spreads.numpy()
        first = float(self.first_spread.numpy())
        gap = abs(losses.mean(dtype=np.float64) - self.expected_loss)
        last = spreads.mean(dtype=np.float64)  # NaN until the window is full.
        if not (
            gap <= COLLAPSE_LOSS * self.expected_loss
            and last <= COLLAPSE_SPREAD * first
        ):
            return None
        self.has_warned.assign(True)
        return (
            f'the embeddings have collapsed: for {COLLAPSE_WINDOW} iterations the loss '
            f'has been {self.expected_loss:.3f}, that of identical embeddings, and the '
            f'mean distance in the batch fell from {first:.2g} to {last:.2g}. Start '
            'anew with a lower --learning_rate, or with smaller --batch_p and '
            '--batch_k first; check above that the weights were loaded; or try '
            '--loss batch_sample'
        )


# --- one batch -------------------------------------------------------------------


class OverfitWatch:
    """Judges a run on a single batch: whether it learned it by heart."""

    def __init__(self):
        self.first_losses = []
        self.losses = collections.deque(maxlen=FEW)
        self.precisions = collections.deque(maxlen=FEW)

    def report(self, iteration):
        """Count a journal.Iteration."""
        outcome = iteration.outcome
        self.observe(
            float(outcome.losses.numpy().mean()), float(outcome.precision_at_k)
        )

    def observe(self, mean_loss, precision_at_k):
        """Count an iteration.

        Args:
            mean_loss: of the batch.
            precision_at_k: of the images' nearest neighbours.
        """
        if not self.first_losses:
            self.first_losses.append(mean_loss)
        self.losses.append(mean_loss)
        self.precisions.append(precision_at_k)

    def verdict(self):
        """Return (whether it worked, what to say of it).

        It worked if the mean loss of the last 10 iterations is at most half of the
        first iteration's, and their precision at least 99 %.
        """
        first, last = self.first_losses[0], float(np.mean(self.losses))
        precision = float(np.mean(self.precisions))
        figures = f'loss from {first:.3f} to {last:.3f}, precision {precision:.1%}'
        has_fallen = last <= LEARNED_LOSS * first or (first <= 0 and last <= first)
        if has_fallen and precision >= LEARNED_PRECISION:
            return True, (
                f'one batch was learned by heart ({figures}): images, net, loss and '
                'optimizer work together'
            )
        return False, (
            f'one batch was not learned by heart ({figures}). Give it more '
            '--train_iterations; if the loss stays, raise or lower --learning_rate by '
            'a factor of ten; check in TensorBoard (--image_frequency 1) that images '
            'and PIDs belong together, and above that the weights were loaded'
        )
