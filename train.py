#!/usr/bin/env python3
"""Learn an embedding of images with a triplet loss, batch-hard by default.

    python train.py --experiment_root ~/exp/market \\
        --train_set data/market1501_train.csv --image_root ~/Market-1501-v15.09.15 \\
        --initial_checkpoint resnet_v1_50.ckpt --flip_augment --crop_augment

Writes args.json, train.log, checkpoint-STEP.* and TensorBoard events to the
experiment root. Ctrl+C (or SIGTERM) finishes the iteration, writes a checkpoint and
stops; --resume continues. The paper's recipe is market1501_train.sh. With --distribute
several devices share the work.
"""

import importlib
import os
import shlex
import shutil
import signal
import sys
import time
import typing

import common
import loss
from precision import is_native
from training import devices, flags, optimizers

# Imported at first use, so that --help and a mistyped flag answer at once.
np = common.lazy_import('numpy')
pd = common.lazy_import('pandas')
tf = common.lazy_import('tensorflow')
batches = common.lazy_import('batches')
checkpoints = common.lazy_import('checkpoints')
diagnosis = common.lazy_import('training.diagnosis')
divergence = common.lazy_import('training.divergence')
image_cache = common.lazy_import('training.image_cache')
layers = common.lazy_import('layers')
model = common.lazy_import('model')
journal = common.lazy_import('training.journal')
validation = common.lazy_import('training.validation')


def build_parser():
    """Return the parser of train.py's flags."""
    return flags.build_parser(__doc__)


class Data(typing.NamedTuple):
    """The images that are trained on.

    Attributes:
        pids, fids: object arrays [N] of str.
        paths: list [N] of str, the image files.
    """

    pids: typing.Any
    fids: typing.Any
    paths: list


def load_train_sets(train_sets, image_roots):
    """Return the Data of a run; several data sets are kept apart.

    Args:
        train_sets: list of str, CSV files.
        image_roots: list of str, one directory for all of them or one for each.

    With several data sets, PIDs and FIDs begin with the number of theirs, from 1:
    '2:0001' is another person than '1:0001'.
    """
    tables, paths = [], []
    pairs = flags.pair_roots(train_sets, image_roots)
    for number, (train_set, image_root) in enumerate(pairs, start=1):
        pids, fids = common.load_dataset(train_set, image_root)
        paths += common.join_paths(image_root, fids)
        prefix = f'{number}:' if len(pairs) > 1 else ''
        tables.append((prefix + pids, prefix + fids))
    pids, fids = (np.concatenate(columns) for columns in zip(*tables, strict=True))
    return Data(pids, fids, paths)


def check_initial_checkpoint(initial_checkpoint):
    """Raise FileNotFoundError, before anything slow, if there is no such file."""
    if initial_checkpoint not in (None, 'imagenet'):
        checkpoints.WeightsFile(initial_checkpoint)


def build_state(args, replicas):
    """Return (model, optimizer, TrainingState) of a run, the weights random."""
    tf.keras.utils.set_random_seed(args.seed)
    with replicas.scope():
        network = model.build_model(
            args.model_name,
            args.head_name,
            args.embedding_dim,
            args.precision,
            args.last_stride,
        )
        optimizer = optimizers.build(
            args.optimizer,
            network.trainable_variables,
            args.learning_rate,
            args.weight_decay,
            args.adam_beta1_at_decay,
            args.decay_start_iteration,
            args.precision,
        )
    if args.sync_batch_norm:
        layers.synchronise_batch_norm(network)
    state = checkpoints.TrainingState(
        network, optimizer, args.experiment_root, replicas.is_chief
    )
    return network, optimizer, state


def load_weights(args, network, state):
    """Give a run the weights that it begins or goes on with; return what to say."""
    if args.resume:
        checkpoint = checkpoints.latest(args.experiment_root)
        return f'resuming {checkpoint}: {state.load(checkpoint)}'
    if args.initial_checkpoint is None:
        return 'no --initial_checkpoint: all variables start random'
    if args.initial_checkpoint == 'imagenet':
        net = importlib.import_module(f'nets.{args.model_name}')
        weights = checkpoints.imagenet_weights(net, args.model_name)
    else:
        weights = checkpoints.WeightsFile(args.initial_checkpoint)
    report = checkpoints.load_body(network, weights, args.initial_checkpoint)
    return f'{args.initial_checkpoint}: {report}'


def store(args, state):
    """Write args.json; of a new run also checkpoint-0, and if that fails, nothing."""
    root = args.experiment_root
    filename = os.path.join(root, 'args.json')
    if args.resume:
        common.write_json(filename, vars(args))
        return
    existed = os.path.isdir(root)
    try:
        common.write_json(filename, vars(args))
        state.save(0)
    except BaseException:
        if not existed:
            shutil.rmtree(root, ignore_errors=True)
        elif os.path.isdir(root):
            for entry in os.scandir(root):
                os.remove(entry.path)
        raise


def make_train_step(network, optimizer, loss_name, metric, margin, k, seed, replicas):
    """Return the function of one iteration.

    It maps (images float32 [B, H, W, 3] as split by `replicas`, pids [B], learning
    rate, step int64) to a dict of `losses` [B], `embs` [B, D], `dists` [B, B] and the
    scalars `top1` and `precision` (of the k nearest), all float32 and of the whole
    batch, and updates the weights. What a loss draws at random depends on `seed`, an
    int64, and the step. If the optimizer scales the loss, `loss_scale` is its factor
    for the next iteration.
    """
    # The moving averages of batch norm, to which each replica adds its own images.
    averages = [v for v in network.non_trainable_variables if v.dtype == 'float32']

    def update(images, pids, step):
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            embs = replicas.gather(model.training_embs(outputs))  # [B, D]
            dists = loss.cdist(embs, embs, metric)  # [B, B]
            losses = loss.batch_losses(
                loss_name, dists, pids, margin, tf.stack([seed, step])
            )  # [B]
            # The optimizer adds up the gradients of the replicas.
            mean_loss = optimizer.scale_loss(
                tf.reduce_mean(losses) / replicas.num_replicas
            )
        gradients = tape.gradient(mean_loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        replicas.average(averages)
        return {'losses': losses, 'embs': embs, 'dists': dists}

    @tf.function
    def train_step(images, pids, learning_rate, step):
        optimizer.learning_rate.assign(learning_rate)
        iterations = tf.identity(optimizer.iterations)
        outcome = replicas.run(update, images, pids, step)
        # Where scaled gradients overflow there is no update, but an iteration it is.
        optimizer.iterations.assign(iterations + 1)
        top1, precision = loss.batch_scores(outcome['dists'], pids, k)
        outcome = {**outcome, 'top1': top1, 'precision': precision}
        if hasattr(optimizer, 'dynamic_scale'):
            outcome['loss_scale'] = tf.identity(optimizer.dynamic_scale)
        return outcome

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


class Schedule(typing.NamedTuple):
    """What happens when in a run.

    Attributes:
        steps: range, from the number of updates made to that at the end of the run.
        learning_rate_at: function of a step.
        is_save_due: function of the updates made; True where a checkpoint is written.
            One is also written at the end and when someone asks for a stop.
    """

    steps: range
    learning_rate_at: typing.Callable
    is_save_due: typing.Callable


def train(schedule, next_batch, train_step, validate, journal, state, replicas):
    """Run the iterations; return the number of updates made by then.

    Args:
        schedule: a Schedule.
        next_batch: function of a step that returns (rows [B], images, pids [B]).
        train_step: see make_train_step.
        validate: function of the updates made, called after each; not when someone
            asks for a stop.
        journal: journal.Journal.
        state: checkpoints.TrainingState.
        replicas: of devices.connect.

    Raises:
        ValueError: the loss or a weight is no longer finite, or an image cannot be
            read.
    """
    with StopRequest() as stop, journal:
        for step in schedule.steps:
            started = time.perf_counter()
            rows, images, pids = next_batch(step)
            secs_input = time.perf_counter() - started
            learning_rate = schedule.learning_rate_at(step)
            outcome = train_step(
                images, pids, tf.constant(learning_rate), tf.constant(step, tf.int64)
            )
            done = step + 1
            divergence.check_outcome(outcome, done, state)
            journal.write(done, rows, pids, learning_rate, outcome, secs_input, images)
            is_at_end = done == schedule.steps.stop
            is_stopped = replicas.any(stop.is_made) and not is_at_end
            if is_at_end or is_stopped or schedule.is_save_due(done):
                divergence.check_weights(state, done)
                state.save(done)
            if is_stopped:
                break
            validate(done)
    return done


def make_schedule(args, steps):
    """Return the Schedule of a run that makes these steps."""
    return Schedule(
        steps,
        lambda step: optimizers.learning_rate_at(
            step,
            args.learning_rate,
            args.decay_start_iteration,
            args.train_iterations,
            args.warmup_iterations,
        ),
        lambda done: (
            args.checkpoint_frequency and done % args.checkpoint_frequency == 0
        ),
    )


def describe_run(args, pids, network, optimizer, weights, replicas):
    """Return the tables of diagnosis.py on data, network and memory, list of str.

    Args:
        args: of the run.
        pids: object array [N] of str.
        network, optimizer: of build_state.
        weights: what was loaded, as a text.
        replicas: of devices.connect.
    """
    batch_size = args.batch_p * args.batch_k
    return [
        *diagnosis.data_table(
            pids,
            args.batch_p,
            args.batch_k,
            args.train_iterations,
            optimizers.decays(args.decay_start_iteration, args.train_iterations),
        ),
        *diagnosis.network_table(network, (args.model_name, args.head_name), weights),
        *diagnosis.memory_table(
            network,
            optimizer,
            len(range(batch_size)[replicas.part(batch_size)]),  # Of this machine.
            (args.net_input_height, args.net_input_width),
            diagnosis.free_memory(),
        ),
    ]


def open_cache(args, paths, steps):
    """Return (image_cache.ImageCache or None, notes) of what a run will read."""
    if not args.cache or args.overfit_one_batch or not steps:
        return None, []
    if args.dry_run:
        estimate = image_cache.check_fits(paths)
        return None, [
            f'--cache: {len(paths)} images will take about {estimate / 1e6:.0f} MB'
        ]
    cache = image_cache.ImageCache(paths, args.loading_threads)
    return cache, [f'--cache: {len(paths)} images take {cache.num_bytes / 1e6:.0f} MB']


def make_next_batch(args, sampler, data, steps, cache, replicas):
    """Return the function of a step that `train` gets its batches from, in order."""
    if args.overfit_one_batch:
        steps = range(1)
    pid_codes, _ = pd.factorize(data.pids)  # [N]
    augmentation = batches.Augmentation(
        net_size=(args.net_input_height, args.net_input_width),
        pre_crop_size=(args.pre_crop_height, args.pre_crop_width),
        flips=args.flip_augment,
        crops=args.crop_augment,
        pad_crop=args.pad_crop,
        color_jitter=args.color_jitter,
        random_erasing=args.random_erasing,
    )
    part = replicas.part(args.batch_p * args.batch_k)
    iterator = iter(
        batches.training_batches(
            sampler,
            data.paths,
            augmentation,
            steps.start,
            steps.stop,
            args.loading_threads,
            cache,
            part,
        )
    )

    def next_batch(step):
        rows = sampler.draw(step)  # [B]
        _, images = batches.next_batch(
            iterator, lambda: [data.paths[row] for row in rows[part]]
        )
        return rows, replicas.split(images), pid_codes[rows]

    if args.overfit_one_batch:
        only_batch = next_batch(0)
        return lambda step: only_batch
    return next_batch


def dry_run(next_batch, steps, logger):
    """Read the first batch, and say what a run would have begun with."""
    if steps:
        next_batch(steps.start)
        logger.info(
            'dry run: flags, data, network, weights and the first batch are in order; '
            'nothing was written'
        )
    else:
        logger.info(f'dry run: the run is finished after {steps.start} iterations')


def open_journal(args, logger, data, steps, watches, replicas):
    """Return the journal.Journal of a run; one process writes it."""
    if not replicas.is_chief:
        return journal.SilentJournal()
    detailed_logs = None
    if args.detailed_logs:
        detailed_logs = journal.DetailedLogs(
            args.experiment_root,
            args.train_iterations,
            args.batch_p * args.batch_k,
            args.embedding_dim,
            data.fids,
        )
    return journal.Journal(
        logger,
        args.experiment_root,
        steps.start,
        steps.stop,
        num_neighbours(args.batch_k),
        args.histogram_frequency,
        detailed_logs,
        watches,
        journal.Pictures(args.image_frequency, data.pids, args.batch_k),
    )


def num_neighbours(batch_k):
    """Return k of the k nearest that are looked at: the K - 1 of a PID, or 1."""
    return max(1, batch_k - 1)


def read_held_out(args, replicas):
    """Return the validation.HeldOut of a run, or None if this process has none."""
    if args.val_set is None or not replicas.is_chief:
        return None
    excluder = importlib.import_module(f'excluders.{args.val_excluder}').Excluder
    image_root = args.val_image_root or flags.as_list(args.image_root)[0]
    return validation.HeldOut(args.val_set, args.val_query, excluder, image_root)


def make_validate(args, held_out, network, state, journal):
    """Return the function of the updates made that validates where it is due."""
    if held_out is None:
        return lambda done: None
    held_out_embedder = validation.Embedder(
        held_out,
        network,
        (args.net_input_height, args.net_input_width),
        args.batch_p * args.batch_k,
        args.loading_threads,
    )
    validator = validation.Validator(
        held_out, held_out_embedder, args.metric, state, journal
    )

    def validate(done):
        is_due = args.val_every and done % args.val_every == 0
        if is_due or done == args.train_iterations:
            validator.validate(done)

    return validate


def open_log(args, replicas):
    """Return the logger of a run; of several processes, one tells what happens."""
    if not replicas.is_chief:
        return common.setup_logging(quiet=True)
    if args.dry_run:
        return common.setup_logging()
    return common.setup_logging(os.path.join(args.experiment_root, 'train.log'))


def warn_of_devices(logger, precision, distribute, replicas):
    """Warn where a flag does not make a run faster, as things are here."""
    if not is_native(precision):
        logger.warning(
            f'this processor has no instructions for {precision}: products are '
            'computed in float32 and rounded, right but slower than --precision float32'
        )
    if distribute != 'none' and replicas.num_replicas == 1:
        logger.warning(
            f'--distribute {distribute} changes nothing: there is one device only'
        )


def conclude(logger, done, last_step, experiment_root):
    """Say how a run ended, and how it is continued if it is not at its end."""
    if done < last_step:
        command = shlex.join(
            ['python', sys.argv[0], '--experiment_root', experiment_root, '--resume']
        )
        logger.info(f'stopped after iteration {done}; continue with: {command}')
    else:
        logger.info(
            f'finished after {done} iterations: {experiment_root}/checkpoint-{done}'
        )


def main(argv=None):
    args, notes = flags.parse_args(build_parser(), argv)
    data = load_train_sets(
        flags.as_list(args.train_set), flags.as_list(args.image_root)
    )
    devices.prepare(args.distribute)
    common.start_tensorflow()
    with devices.connect(args.distribute) as replicas:
        run(args, notes, data, replicas)


def run(args, notes, data, replicas):
    """Carry out what the command line asks for, on the devices of `replicas`."""
    replicas.check_batch_size(args.batch_p * args.batch_k)
    args.seed = replicas.exchange(args.seed)[0]  # The chief's.
    replicas.check_same(
        lambda: flags.flags_to_share(args, data.pids, data.fids),
        'start all workers with the same flags and data',
    )
    held_out = read_held_out(args, replicas)
    if held_out is not None:
        notes += validation.describe_overlap(held_out, data.pids)
    check_initial_checkpoint(args.initial_checkpoint)
    sampler = batches.Sampler(data.pids, args.batch_p, args.batch_k, args.seed)
    network, optimizer, state = build_state(args, replicas)
    weights = load_weights(args, network, state)
    replicas.check_same(
        lambda: {'the checksum of the initial weights': state.fingerprint()},
        'give all workers the same --experiment_root or --initial_checkpoint',
    )
    steps = range(state.step, args.train_iterations)
    cache, cache_notes = open_cache(args, data.paths, steps)
    if steps:
        notes += describe_run(args, data.pids, network, optimizer, weights, replicas)
    next_batch = make_next_batch(args, sampler, data, steps, cache, replicas)
    if replicas.is_chief and not args.dry_run:
        store(args, state)
    logger = open_log(args, replicas)
    for note in [*notes, *cache_notes]:
        logger.info(note)
    if args.dry_run:
        dry_run(next_batch, steps, logger)
        return
    warn_of_devices(logger, args.precision, args.distribute, replicas)
    if not steps:
        logger.info(
            f'nothing to do: the run is finished after {state.step} iterations; raise '
            '--train_iterations to go on'
        )
        return
    collapse = diagnosis.CollapseWatch(diagnosis.collapsed_loss(args.loss, args.margin))
    overfit = diagnosis.OverfitWatch()
    journal = open_journal(args, logger, data, steps, (collapse, overfit), replicas)
    done = train(
        make_schedule(args, steps),
        next_batch,
        make_train_step(
            network,
            optimizer,
            args.loss,
            args.metric,
            args.margin,
            num_neighbours(args.batch_k),
            batches.seed_from(args.seed, batches.LOSS_STREAM),
            replicas,
        ),
        make_validate(args, held_out, network, state, journal),
        journal,
        state,
        replicas,
    )
    if args.overfit_one_batch and replicas.is_chief:
        has_worked, verdict = overfit.verdict()
        (logger.info if has_worked else logger.warning)(verdict)
    conclude(logger, done, args.train_iterations, args.experiment_root)


if __name__ == '__main__':
    common.run(main)
