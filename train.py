#!/usr/bin/env python3
"""Learn an embedding of images with a triplet loss, batch-hard by default.

    python train.py --experiment_root ~/exp/market \\
        --train_set data/market1501_train.csv \\
        --image_root ~/Market-1501-v15.09.15 \\
        --initial_checkpoint resnet_v1_50.ckpt --flip_augment --crop_augment

Writes args.json, train.log, checkpoint-STEP.* and TensorBoard events to the
experiment root. Ctrl+C (or SIGTERM) finishes the iteration, writes a checkpoint and
stops; --resume continues. The paper's recipe is market1501_train.sh. With --distribute
several devices share the work.
"""

import bisect
import importlib
import itertools
import os
import shlex
import sys
import typing

import common
import datasets
from precision import is_native
from training import checks, devices, experiment, flags, resuming

# Imported at first use, so that --help and a mistyped flag answer at once.
np = common.lazy_import('numpy')
tf = common.lazy_import('tensorflow')
batches = common.lazy_import('batches')
checkpoints = common.lazy_import('checkpoints')
embedder = common.lazy_import('embedder')
images = common.lazy_import('images')
layers = common.lazy_import('layers')
model = common.lazy_import('model')
diagnosis = common.lazy_import('training.diagnosis')
image_cache = common.lazy_import('training.image_cache')
journals = common.lazy_import('training.journal')
loop = common.lazy_import('training.loop')
optimizers = common.lazy_import('training.optimizers')
settings = common.lazy_import('training.settings')
step = common.lazy_import('training.step')
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


class Learner(typing.NamedTuple):
    """What a run changes.

    Attributes:
        network: of model.build_model.
        optimizer: of optimizers.build.
        state: the checkpoints.TrainingState of both.
    """

    network: typing.Any
    optimizer: typing.Any
    state: typing.Any


def main(argv=None):
    args, notes, warnings, previous = flags.parse_args(__doc__, argv)
    data = load_train_sets(
        args.train_set, args.image_root, args.csv_header, args.allow_outside_image_root
    )
    checksum = resuming.checksum(data.pids, data.fids)
    warnings += resuming.check_rows(vars(args), checksum)
    devices.prepare(args.distribute)
    common.start_tensorflow()
    run = settings.group(args)
    with (
        devices.connect(args.distribute) as replicas,
        open_root(args, replicas) as root,
    ):
        notes += root.notes
        logger = open_log(root, args.resume, args.quiet, replicas.is_chief)
        args.seed = agree(vars(args), run.batches.size, data, replicas)
        held_out = read_held_out(run.validation, replicas.is_chief)
        notes += validation.describe_overlap(held_out, data.pids)
        check_images(args.check_images, data, held_out, logger, args.quiet)
        check_initial_checkpoint(run.network.initial_checkpoint, args.resume)
        sampler = batches.Sampler(
            data.pids, run.batches.batch_p, run.batches.batch_k, args.seed
        )
        learner = build_learner(run, args.seed, args.experiment_root, replicas)
        source = find_weights(args.experiment_root, args.resume, args.checkpoint)
        weights = load_weights(learner, run.network, source, replicas)
        steps = range(learner.state.step, args.train_iterations)
        notes += describe_run(
            run, args.seed, previous, sampler, learner, steps, weights, replicas
        )
        feed, cache_notes = open_feed(
            run.batches, sampler, data.paths, steps, args.dry_run, replicas
        )
        if root.is_writer:
            store(vars(args) | {resuming.CHECKSUM: checksum}, learner.state)
        logger = open_log(root, True, args.quiet, replicas.is_chief)
        warnings += warn_of_devices(args.precision, args.distribute, replicas)
        say([*notes, *cache_notes], warnings, logger)
        schedule = make_schedule(run, args.val_every, steps, held_out, learner.state)
        if args.dry_run or not (steps or schedule.is_overdue):
            say_without_training(args.dry_run, feed, steps, logger)
            return

        overfit = diagnosis.OverfitWatch()
        journal = open_journal(
            run, data, steps, root, learner.state, overfit, logger, replicas
        )
        done = loop.train(
            schedule,
            feed,
            sampler.pid_codes,
            make_train_step(run, learner, args.seed, replicas),
            make_validator(run, held_out, learner, journal),
            journal,
            learner.state,
            replicas,
        )
        say_what_was_learned(overfit, logger)
        conclude(done, args.train_iterations, args.experiment_root, logger)


def open_root(args, replicas):
    """Return the experiment.ExperimentRoot of a run, a context.

    Args:
        args: the flags.
        replicas: of devices.connect; one process writes, and of a dry run, none.
    """
    return experiment.ExperimentRoot(
        args.experiment_root,
        is_new=not args.resume,
        is_writer=replicas.is_chief and not args.dry_run,
    )


def load_train_sets(train_sets, image_roots, has_header=False, allows_outside=False):
    """Return the Data of a run; several data sets are kept apart.

    Args:
        train_sets: list of str, CSV files.
        image_roots: list of str, one directory for all of them or one for each.
        has_header: whether the first line of a CSV names its columns.
        allows_outside: whether images may lie outside their directory.

    With several data sets, PIDs and FIDs begin with the number of theirs, from 1:
    '2:0001' is another person than '1:0001'.
    """
    tables, paths = [], []
    starts = []  # Of each data set, in `paths`.
    pairs = checks.pair_roots(train_sets, image_roots)
    for number, (train_set, image_root) in enumerate(pairs, start=1):
        dataset = datasets.read(train_set, has_header, image_root)
        datasets.check_inside(train_set, dataset.fids, image_root, allows_outside)
        datasets.check_images_exist(train_set, dataset.fids, image_root)
        starts.append(len(paths))
        paths += datasets.join_paths(image_root, dataset.fids)
        prefix = f'{number}:' if len(pairs) > 1 else ''
        tables.append((prefix + dataset.pids, prefix + dataset.fids))
    pids, fids = (np.concatenate(columns) for columns in zip(*tables, strict=True))

    def place(row):
        number = bisect.bisect(starts, row) - 1
        return f'row {row - starts[number] + 1} of {train_sets[number]}'

    datasets.check_labels(pids, paths, place)
    return Data(pids, fids, paths)


def agree(values, batch_size, data, replicas):
    """Return the seed of a run, once all of its processes are known to be alike.

    Args:
        values: {flag: value} of this process.
        batch_size: B.
        data: its Data.
        replicas: of devices.connect.

    Raises:
        InputError: processes have other flags or data, or a batch cannot be split.
    """
    replicas.check_batch_size(batch_size)
    seed = replicas.exchange(values['seed'])[0]  # The chief's.
    replicas.check_same(
        lambda: resuming.to_share(values | {'seed': seed}, data.pids, data.fids),
        'start all workers with the same flags and data',
    )
    return seed


def read_held_out(held_out, is_chief):
    """Return the validation.HeldOut of a run, or None if this process has none.

    Args:
        held_out: a settings.Validation, or None.
        is_chief: whether this process is the one that validates.
    """
    if held_out is None or not is_chief:
        return None
    return validation.HeldOut(
        held_out.gallery_csv,
        held_out.query_csv,
        held_out.excluder,
        held_out.image_root,
        held_out.has_header,
        held_out.allows_outside,
    )


def check_images(is_wanted, data, held_out, logger, quiet):
    """Raise InputError, once all are listed, if images of a run cannot be read.

    Args:
        is_wanted: whether to look at them at all.
        data: the Data.
        held_out: a validation.HeldOut, or None.
        logger: of open_log.
        quiet: whether there is no progress bar.
    """
    if not is_wanted:
        return
    paths = data.paths
    if held_out is not None:
        paths = paths + datasets.join_paths(held_out.image_root, held_out.fids())
    images.check_all(list(dict.fromkeys(paths)), logger, quiet)


def check_initial_checkpoint(initial_checkpoint, is_resumed):
    """Raise FileNotFoundError, before anything slow, if there is no such file.

    A resumed run needs nothing from it, and may be on another machine by now.
    """
    if not is_resumed and initial_checkpoint not in (None, 'imagenet'):
        checkpoints.WeightsFile(initial_checkpoint)


def build_learner(run, seed, experiment_root, replicas):
    """Return the Learner of a run, its weights random.

    Args:
        run: the settings.Settings.
        seed: of the weights.
        experiment_root: directory of its checkpoints.
        replicas: of devices.connect.
    """
    tf.keras.utils.set_random_seed(seed)
    with replicas.scope():
        network = model.build_model(
            run.network.model_name,
            run.network.head_name,
            run.network.embedding_dim,
            run.network.precision,
            run.network.last_stride,
        )
        optimizer = optimizers.build(
            run.optimizer.name,
            network.trainable_variables,
            run.optimizer.learning_rate.rate,
            run.optimizer.weight_decay,
            run.optimizer.beta1_at_decay,
            run.optimizer.learning_rate.decay_start,
            run.network.precision,
        )
    if run.network.sync_batch_norm:
        layers.synchronise_batch_norm(network)
    state = checkpoints.TrainingState(
        network,
        optimizer,
        experiment_root,
        replicas.is_chief,
        diagnosis.make_collapse_memory(),
        run.reporting.keep_checkpoints,
    )
    return Learner(network, optimizer, state)


def find_weights(experiment_root, is_resumed, name):
    """Return the prefix of the checkpoint that a run goes on with; None: it is new.

    Args:
        experiment_root: directory of the run.
        is_resumed: whether it goes on.
        name: of the checkpoint; None: the newest.
    """
    return checkpoints.find(experiment_root, name) if is_resumed else None


def load_weights(learner, network, resumed, replicas):
    """Give a run the weights that it begins or goes on with; return what to say.

    Args:
        learner: a Learner.
        network: a settings.Network.
        resumed: of find_weights.
        replicas: of devices.connect.

    Raises:
        FileNotFoundError, InputError: see checkpoints; or processes have not loaded the
            same weights.
    """
    source = network.initial_checkpoint
    if resumed is not None:
        said = f'resuming {resumed}: {learner.state.load(resumed)}'
    elif source is None:
        said = 'no --initial_checkpoint: all variables start random'
    else:
        if source == 'imagenet':
            net = importlib.import_module(f'nets.{network.model_name}')
            weights = checkpoints.imagenet_weights(net, network.model_name)
        else:
            weights = checkpoints.WeightsFile(source)
        said = f'{source}: {checkpoints.load_body(learner.network, weights, source)}'
    replicas.check_same(
        lambda: {'the checksum of the initial weights': learner.state.fingerprint()},
        'give all workers the same --experiment_root or --initial_checkpoint',
    )
    return said


def open_feed(wanted, sampler, paths, steps, is_dry_run, replicas):
    """Return the iterator over the batches of a run, and what to say of its cache.

    Args:
        wanted: a settings.Batches.
        sampler: the batches.Sampler.
        paths: list [N] of str, the image files.
        steps: range, of the run.
        is_dry_run: whether a cache is estimated only.
        replicas: of devices.connect.

    Returns:
        (feed, notes): iterator of batches.Batch; list of str.
    """
    cache, notes = None, []
    if wanted.is_cached and steps and not wanted.is_one:
        needed = f'--cache: {len(paths)} images'
        if is_dry_run:
            estimate = image_cache.check_fits(paths)
            notes = [f'{needed} will take about {estimate / 1e6:.0f} MB']
        else:
            cache = image_cache.ImageCache(paths, wanted.loading_threads)
            notes = [f'{needed} take {cache.num_bytes / 1e6:.0f} MB']
    feed = batches.TrainingBatches(
        sampler,
        paths,
        wanted.augmentation,
        range(1) if wanted.is_one else steps,
        wanted.loading_threads,
        cache,
        replicas.part(wanted.size),
    )
    if wanted.is_one:
        return itertools.repeat(next(feed)), notes
    return feed, notes


def describe_run(run, seed, previous, sampler, learner, steps, weights, replicas):
    """Return the tables on data, network, training, memory and disk, list of str.

    Called before images are read: it refuses what needs too much memory.

    Args:
        run: the settings.Settings.
        seed: of batches and weights.
        previous: {flag: value} of the schedule before it was changed.
        sampler: the batches.Sampler.
        learner: the Learner.
        steps: range, of the run; there are no tables if nothing is left to do.
        weights: what was loaded, as a text.
        replicas: of devices.connect.
    """
    if not steps:
        return []
    wanted, rate = run.batches, run.optimizer.learning_rate
    disk = diagnosis.Disk(
        learner.state.num_bytes,
        rate.train_iterations,
        run.reporting.checkpoint_frequency,
        run.reporting.keep_checkpoints,
    )
    return [
        *diagnosis.data_table(
            np.array([len(rows) for rows in sampler.rows]),
            wanted.batch_p,
            wanted.batch_k,
            rate.train_iterations,
            optimizers.decays(rate.decay_start, rate.train_iterations),
        ),
        *diagnosis.network_table(
            learner.network, (run.network.model_name, run.network.head_name), weights
        ),
        *diagnosis.training_table(run.objective, run.optimizer, seed),
        *diagnosis.memory_table(
            learner.network,
            learner.optimizer,
            len(range(wanted.size)[replicas.part(wanted.size)]),  # Of this machine.
            wanted.augmentation.net_size,
            diagnosis.free_memory(),
        ),
        *diagnosis.disk_table(disk),
        *describe_start(rate, previous, steps),
    ]


def describe_start(rate, previous, steps):
    """Return what to say of a changed schedule and of the start, list of str.

    Args:
        rate: the optimizers.LearningRate.
        previous: {flag: value} of the schedule before it was changed.
        steps: range, of the run.
    """
    before = rate._replace(
        decay_start=previous.get('decay_start_iteration', rate.decay_start),
        train_iterations=previous.get('train_iterations', rate.train_iterations),
    )
    return [
        *optimizers.describe_change(before, rate, steps.start),
        f'Starting training from iteration {steps.start}. Losses are min|avg|max of a '
        'batch; p@k is the share of the PID among the k nearest',
    ]


def store(values, state):
    """Write args.json, and of a new run checkpoint-0.

    Args:
        values: {flag: value} and what else is stored with them.
        state: the checkpoints.TrainingState; it knows the experiment root.
    """
    filename = os.path.join(state.directory, 'args.json')
    content = resuming.to_json(values)
    common.write_json(filename, content)
    state.keep_args(content)
    if not values['resume']:
        state.save(0)
    elif values['checkpoint'] is not None:
        state.go_on_from(values['checkpoint'])


def open_log(root, has_begun, quiet, is_chief):
    """Return the logger of a run; of several processes, one tells what happens.

    Args:
        root: the experiment.ExperimentRoot; its train.log has all messages and errors,
            if this process writes there.
        has_begun: whether there may be a train.log: of a new run, args.json and the
            first checkpoint come before.
        quiet: whether the terminal gets warnings only.
        is_chief: whether this process is the one that tells.
    """
    log_file = os.path.join(root.directory, 'train.log')
    has_file = root.is_writer and has_begun
    return common.setup_logging(log_file if has_file else None, quiet or not is_chief)


def say(notes, warnings, logger):
    """Log what there is to say before a run."""
    for note in notes:
        logger.info(note)
    for warning in warnings:
        logger.warning(warning)


def say_without_training(is_dry_run, feed, steps, logger):
    """Say why there is no training; of a dry run, read the first batch before."""
    if steps:
        next(feed)
        logger.info(
            'dry run: flags, data, network, weights and the first batch are in order; '
            'nothing was written'
        )
    elif is_dry_run:
        logger.info(f'dry run: the run is finished after {steps.start} iterations')
    else:
        logger.info(
            f'nothing to do: the run is finished after {steps.start} iterations; raise '
            '--train_iterations to go on'
        )


def warn_of_devices(precision, distribute, replicas):
    """Return warnings of flags that make nothing faster here, list of str."""
    warnings = []
    if not is_native(precision):
        warnings.append(
            f'this processor has no instructions for {precision}: products are '
            'computed in float32 and rounded, right but slower than --precision float32'
        )
    if distribute != 'none' and replicas.num_replicas == 1:
        warnings.append(
            f'--distribute {distribute} changes nothing: there is one device only'
        )
    return warnings


def make_schedule(run, validation_frequency, steps, held_out, state):
    """Return the loop.Schedule of a run.

    Args:
        run: the settings.Settings.
        validation_frequency: iterations between validations.
        steps: range, of the run.
        held_out: of read_held_out.
        state: the checkpoints.TrainingState.
    """
    schedule = loop.Schedule(
        steps,
        run.optimizer.learning_rate,
        run.reporting.checkpoint_frequency,
        validation_frequency,
    )
    is_due = steps.start and schedule.is_due(validation_frequency, steps.start)
    if held_out is None or not is_due:
        return schedule
    # A stop, or a kill, comes between a checkpoint and the validation after it, or
    # between its record and its curve.
    is_made = validation.last_step(held_out, state) >= steps.start
    is_shown = journals.shows_validation(state.directory, steps.start)
    return schedule._replace(is_overdue=not (is_made and is_shown))


def open_journal(run, data, steps, root, state, overfit, logger, replicas):
    """Return the journals.Journal of a run; one process writes it.

    Args:
        run: the settings.Settings.
        data: the Data.
        steps: range, of the run.
        root: the experiment.ExperimentRoot; it learns of the first iteration.
        state: the checkpoints.TrainingState; it keeps what watches remember.
        overfit: a diagnosis.OverfitWatch, used where there is but one batch.
        logger: of open_log.
        replicas: of devices.connect.
    """
    if not replicas.is_chief:
        return journals.SilentJournal(logger)
    wanted, reporting = run.batches, run.reporting
    expected_loss = diagnosis.collapsed_loss(run.objective.loss, run.objective.margin)
    reporters = [
        journals.Line(logger, wanted.num_neighbours, steps.stop),
        journals.Scalars(wanted.num_neighbours),
        journals.Histograms(reporting.histogram_frequency, steps.stop),
        journals.Pictures(reporting.image_frequency, data.pids, wanted.batch_k),
        diagnosis.CollapseWatch(expected_loss, logger, state.memory),
        root,
    ]
    if reporting.detailed_logs:
        reporters.append(
            journals.DetailedLogs(
                root.directory,
                steps.stop,
                wanted.size,
                run.network.embedding_dim,
                data.fids,
            )
        )
    if wanted.is_one:
        reporters.append(overfit)
    return journals.Journal(logger, root.directory, steps, reporters, reporting.quiet)


def make_train_step(run, learner, seed, replicas):
    """Return the function of one iteration of a run; see training/step.py."""
    return step.make_train_step(
        learner.network,
        learner.optimizer,
        run.objective.loss,
        run.objective.metric,
        run.objective.margin,
        run.batches.num_neighbours,
        batches.seed_from(seed, batches.LOSS_STREAM),
        replicas,
    )


def make_validator(run, held_out, learner, journal):
    """Return the validation.Validator of a run, or None.

    Args:
        run: the settings.Settings.
        held_out: of read_held_out.
        learner: the Learner.
        journal: of open_journal.
    """
    if held_out is None:
        return None
    return validation.Validator(
        held_out,
        embedder.Embedder(
            learner.network,
            run.network.embedding_dim,
            run.batches.augmentation.net_size,
        ),
        run.batches.size,
        run.batches.loading_threads,
        run.objective.metric,
        learner.state,
        journal,
    )


def say_what_was_learned(overfit, logger):
    """Say whether a single batch was learned by heart, if one was watched."""
    if not overfit.losses:
        return
    has_worked, verdict = overfit.verdict()
    (logger.info if has_worked else logger.warning)(verdict)


def conclude(done, last_step, experiment_root, logger):
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


if __name__ == '__main__':
    common.run(main)
