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
import zlib

import common
import distribution
import loss
import optimizers
import training_args
from precision import is_native

# Imported at first use, so that --help and a mistyped flag answer at once.
np = common.lazy_import('numpy')
pd = common.lazy_import('pandas')
tf = common.lazy_import('tensorflow')
batches = common.lazy_import('batches')
checkpoints = common.lazy_import('checkpoints')
diagnosis = common.lazy_import('diagnosis')
image_cache = common.lazy_import('image_cache')
layers = common.lazy_import('layers')
model = common.lazy_import('model')
monitoring = common.lazy_import('monitoring')
validation = common.lazy_import('validation')


def build_parser():
    """Return the parser of train.py's flags."""
    return training_args.build_parser(__doc__)


def load_train_sets(train_sets, image_roots):
    """Read the data sets of a run; those of several are kept apart.

    Args:
        train_sets: list of str, CSV files.
        image_roots: list of str, one directory for all of them or one for each.

    Returns:
        (pids, fids, paths): two object arrays [N] of str, and a list [N] of str, the
        image files. With several data sets, PIDs and FIDs begin with the number of
        theirs, from 1: '2:0001' is another person than '1:0001'.
    """
    tables, paths = [], []
    pairs = training_args.pair_roots(train_sets, image_roots)
    for number, (train_set, image_root) in enumerate(pairs, start=1):
        pids, fids = common.load_dataset(train_set, image_root)
        paths += [os.path.join(image_root, fid) for fid in fids]
        prefix = f'{number}:' if len(pairs) > 1 else ''
        tables.append((prefix + pids, prefix + fids))
    pids, fids = (np.concatenate(columns) for columns in zip(*tables, strict=True))
    return pids, fids, paths


def check_initial_checkpoint(initial_checkpoint):
    """Raise FileNotFoundError, before anything slow, if there is no such file."""
    if initial_checkpoint not in (None, 'imagenet'):
        checkpoints.WeightsFile(initial_checkpoint)


def agree_on_flags(args, replicas, pids, fids):
    """Give all processes the chief's seed; raise ValueError if other things differ."""
    args.seed = replicas.exchange(args.seed)[0]
    replicas.check_same(
        lambda: flags_to_share(args, pids, fids),
        'start all workers with the same flags and data',
    )


def flags_to_share(args, pids, fids):
    """Return {name: value} of what has to be the same in all processes of a run."""
    values = {
        # Files may lie elsewhere on another machine.
        f'--{name}': without_directory(value)
        for name, value in vars(args).items()
        if name not in (*training_args.FREE_ON_RESUME, 'experiment_root')
    }
    rows = '\n'.join(f'{pid},{fid}' for pid, fid in zip(pids, fids, strict=True))
    values['the checksum of --train_set'] = zlib.crc32(rows.encode('utf-8'))
    return values


def without_directory(value):
    """Return a flag's value, of paths the last part alone."""
    if isinstance(value, list):
        return [without_directory(part) for part in value]
    return os.path.basename(value) if isinstance(value, str) else value


def build_state(args, replicas):
    """Return (model, optimizer, TrainingState) of a run, the weights random."""
    tf.keras.utils.set_random_seed(args.seed)
    with replicas.scope():
        embedder = model.build_model(
            args.model_name,
            args.head_name,
            args.embedding_dim,
            args.precision,
            args.last_stride,
        )
        optimizer = optimizers.build(
            args.optimizer,
            embedder.trainable_variables,
            args.learning_rate,
            args.weight_decay,
            args.adam_beta1_at_decay,
            args.decay_start_iteration,
            args.precision,
        )
    if args.sync_batch_norm:
        layers.synchronise_batch_norm(embedder)
    state = checkpoints.TrainingState(
        embedder, optimizer, args.experiment_root, replicas.is_chief
    )
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


def make_train_step(embedder, optimizer, loss_name, metric, margin, k, seed, replicas):
    """Return the function of one iteration.

    It maps (images float32 [B, H, W, 3] as split by `replicas`, pids [B], learning
    rate, step int64) to a dict of `losses` [B], `embs` [B, D], `dists` [B, B] and the
    scalars `top1` and `precision` (of the k nearest), all float32 and of the whole
    batch, and updates the weights. What a loss draws at random depends on `seed`, an
    int64, and the step. If the optimizer scales the loss, `loss_scale` is its factor
    for the next iteration.
    """
    # The moving averages of batch norm, to which each replica adds its own images.
    averages = [v for v in embedder.non_trainable_variables if v.dtype == 'float32']

    def update(images, pids, step):
        with tf.GradientTape() as tape:
            outputs = embedder(images, training=True)
            embs = replicas.gather(model.training_embs(outputs))  # [B, D]
            dists = loss.cdist(embs, embs, metric)  # [B, B]
            losses = loss.batch_losses(
                loss_name, dists, pids, margin, tf.stack([seed, step])
            )  # [B]
            # The optimizer adds up the gradients of the replicas.
            mean_loss = optimizer.scale_loss(
                tf.reduce_mean(losses) / replicas.num_replicas
            )
        gradients = tape.gradient(mean_loss, embedder.trainable_variables)
        optimizer.apply(gradients, embedder.trainable_variables)
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


def train(
    steps,
    next_batch,
    train_step,
    learning_rate_of,
    journal,
    state,
    is_due,
    validate,
    replicas,
):
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
        validate: function of the updates made, called after each; not when someone
            asks for a stop.
        replicas: of distribution.connect.

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
            outcome = train_step(
                images, pids, tf.constant(learning_rate), tf.constant(step, tf.int64)
            )
            done = step + 1
            check_finite(outcome['losses'].numpy(), done, state)
            check_loss_scale(outcome, done, state)
            journal.write(done, rows, pids, learning_rate, outcome, secs_input, images)
            is_stopped = replicas.any(stop.is_made)
            is_last = is_stopped or done == steps.stop
            if is_last or is_due(done):
                check_weights(state, done)
                state.save(done)
            if not is_stopped or done == steps.stop:
                validate(done)
            if is_last:
                break
    return done


def describe_run(args, pids, embedder, optimizer, weights, replicas):
    """Return the tables of diagnosis.py on data, network and memory, list of str.

    Args:
        args: of the run.
        pids: object array [N] of str.
        embedder, optimizer: of build_state.
        weights: what was loaded, as a text.
        replicas: of distribution.connect.
    """
    batch_size = args.batch_p * args.batch_k
    return [
        *diagnosis.data_table(
            pids,
            args.batch_p,
            args.batch_k,
            args.train_iterations,
            0 <= args.decay_start_iteration < args.train_iterations,
        ),
        *diagnosis.network_table(embedder, (args.model_name, args.head_name), weights),
        *diagnosis.memory_table(
            embedder,
            optimizer,
            len(range(batch_size)[replicas.part(batch_size)]),  # Of this machine.
            (args.net_input_height, args.net_input_width),
            diagnosis.free_memory(),
        ),
    ]


def make_next_batch(args, sampler, pids, paths, steps, cache, replicas):
    """Return the function of a step that `train` gets its batches from, in order."""
    if args.overfit_one_batch:
        steps = range(1)
    pid_codes, _ = pd.factorize(pids)  # [N]
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
            paths,
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
            iterator, lambda: [paths[row] for row in rows[part]]
        )
        return rows, replicas.split(images), pid_codes[rows]

    if args.overfit_one_batch:
        only_batch = next_batch(0)
        return lambda step: only_batch
    return next_batch


def open_journal(args, logger, pids, fids, steps, k, watches, replicas):
    """Return the monitoring.Journal of a run; one process writes it."""
    if not replicas.is_chief:
        return monitoring.SilentJournal()
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
        watches,
        monitoring.Pictures(args.image_frequency, pids, args.batch_k),
    )


def dry_run(next_batch, steps, notes):
    """Read the first batch, and say on stderr what a run would have begun with."""
    logger = common.setup_logging()
    for note in notes:
        logger.info(note)
    if steps:
        next_batch(steps.start)
        logger.info(
            'dry run: flags, data, network, weights and the first batch are in order; '
            'nothing was written'
        )
    else:
        logger.info(f'dry run: the run is finished after {steps.start} iterations')


def read_held_out(args):
    """Return the validation.HeldOut of a run, or None if it does not validate."""
    if args.val_set is None:
        return None
    excluder = importlib.import_module(f'excluders.{args.val_excluder}').Excluder
    image_root = args.val_image_root or training_args.as_list(args.image_root)[0]
    return validation.HeldOut(args.val_set, args.val_query, excluder, image_root)


def make_validate(args, held_out, embedder, state, journal):
    """Return the function of the updates made that validates where it is due.

    Args:
        args: of the run.
        held_out: of read_held_out.
        embedder, state: of build_state.
        journal: monitoring.Journal.
    """
    if held_out is None:
        return lambda done: None
    held_out_embedder = validation.Embedder(
        held_out,
        embedder,
        (args.net_input_height, args.net_input_width),
        args.batch_p * args.batch_k,
        args.loading_threads,
    )
    best = state.read_best()
    if best is not None and best.get('checksum') != held_out.checksum:
        best = None  # Of other images: their scores cannot be compared.

    def validate(done):
        nonlocal best
        is_due = args.val_every and done % args.val_every == 0
        if not is_due and done != args.train_iterations:
            return
        started = time.perf_counter()
        embs = held_out_embedder.embed()
        try:
            scores = held_out.score(embs, args.metric)
        except ValueError as error:  # Perhaps only for now; training goes on.
            journal.logger.warning(f'no validation after iteration {done}: {error}')
            return
        if best is None or scores.mAP > best['mAP']:
            best = {'step': done, 'checksum': held_out.checksum, **scores._asdict()}
            state.save_best(best)
        journal.write_validation(done, scores, best, time.perf_counter() - started)

    return validate


def check_finite(losses, step, state):
    """Raise ValueError if a loss of iteration `step` is NaN or infinite."""
    if not np.isfinite(losses).all():
        raise divergence(f'the loss became {losses.mean()}', step, state)


def check_loss_scale(outcome, step, state):
    """Raise ValueError if gradients have overflowed whatever the loss' scale was.

    The loss and the weights would stay as they are, and the run go on for nothing.
    """
    scale = float(outcome.get('loss_scale', 1))
    if scale < optimizers.SMALLEST_LOSS_SCALE:
        what = f'gradients overflow, even with a loss scale of {scale:.1e},'
        raise divergence(what, step, state)


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


def open_log(experiment_root, replicas):
    """Return the logger of a run; of several processes, one tells what happens."""
    if not replicas.is_chief:
        return common.setup_logging(quiet=True)
    return common.setup_logging(os.path.join(experiment_root, 'train.log'))


def main(argv=None):
    args, notes = training_args.parse_args(build_parser(), argv)
    pids, fids, paths = load_train_sets(
        training_args.as_list(args.train_set), training_args.as_list(args.image_root)
    )
    distribution.prepare(args.distribute)
    common.start_tensorflow()
    with distribution.connect(args.distribute) as replicas:
        run(args, notes, pids, fids, paths, replicas)


def run(args, notes, pids, fids, paths, replicas):
    """Carry out what the command line asks for, on the devices of `replicas`."""
    replicas.check_batch_size(args.batch_p * args.batch_k)
    agree_on_flags(args, replicas, pids, fids)
    held_out = read_held_out(args) if replicas.is_chief else None
    if held_out is not None:
        notes += filter(None, [validation.describe_overlap(held_out, pids)])
    check_initial_checkpoint(args.initial_checkpoint)
    sampler = batches.Sampler(pids, args.batch_p, args.batch_k, args.seed)
    embedder, optimizer, state = build_state(args, replicas)
    if args.resume:
        checkpoint = checkpoints.latest(args.experiment_root)
        weights = f'resuming {checkpoint}: {state.load(checkpoint)}'
    else:
        weights = initialise(embedder, args.model_name, args.initial_checkpoint)
    replicas.check_same(
        lambda: {'the checksum of the initial weights': state.fingerprint()},
        'give all workers the same --experiment_root or --initial_checkpoint',
    )
    steps = range(state.step, args.train_iterations)
    if steps:
        notes += describe_run(args, pids, embedder, optimizer, weights, replicas)
    cache = None
    if args.cache and steps and not (args.dry_run or args.overfit_one_batch):
        cache = image_cache.ImageCache(paths, args.loading_threads)
        notes.append(
            f'--cache: {len(paths)} images take {cache.num_bytes / 1e6:.0f} MB'
        )
    next_batch = make_next_batch(args, sampler, pids, paths, steps, cache, replicas)
    if args.dry_run:
        dry_run(next_batch, steps, notes)
        return
    if replicas.is_chief and args.resume:
        write_args(args)
    elif replicas.is_chief:
        create_experiment(args, state)
    logger = open_log(args.experiment_root, replicas)
    for note in notes:
        logger.info(note)
    if not is_native(args.precision):
        logger.warning(
            f'this processor has no instructions for {args.precision}: products are '
            'computed in float32 and rounded, right but slower than --precision float32'
        )

    if args.distribute != 'none' and replicas.num_replicas == 1:
        logger.warning(
            f'--distribute {args.distribute} changes nothing: there is one device only'
        )
    if not steps:
        logger.info(
            f'nothing to do: the run is finished after {state.step} iterations; raise '
            '--train_iterations to go on'
        )
        return
    # Neighbours to look at: the K - 1 other images of a PID, or one if there is none.
    k = max(1, args.batch_k - 1)
    collapse = diagnosis.CollapseWatch(diagnosis.collapsed_loss(args.loss, args.margin))
    overfit = diagnosis.OverfitWatch()
    journal = open_journal(
        args, logger, pids, fids, steps, k, (collapse, overfit), replicas
    )
    done = train(
        steps,
        next_batch,
        make_train_step(
            embedder,
            optimizer,
            args.loss,
            args.metric,
            args.margin,
            k,
            batches.seed_from(args.seed, batches.LOSS_STREAM),
            replicas,
        ),
        lambda step: optimizers.learning_rate_at(
            step,
            args.learning_rate,
            args.decay_start_iteration,
            args.train_iterations,
            args.warmup_iterations,
        ),
        journal,
        state,
        lambda done: (
            args.checkpoint_frequency and done % args.checkpoint_frequency == 0
        ),
        make_validate(args, held_out, embedder, state, journal),
        replicas,
    )
    if args.overfit_one_batch and replicas.is_chief:
        has_worked, verdict = overfit.verdict()
        (logger.info if has_worked else logger.warning)(verdict)
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
