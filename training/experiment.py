"""The directory of a run: who owns it, what is in it, and what a false start leaves."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket

import common

# Held while a run writes to its directory; it tells who does.
LOCK = '.lock'

# File systems that know no locks say one of these.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)

# What a process leaves that was killed while it wrote a checkpoint: directories of
# ours, and files of TensorFlow's, of which earlier versions left some.
LEFTOVER = re.compile(
    r'\.(checkpoint-\d+|best(-.*)?)\.partial|(checkpoint-\d+|best)_temp|checkpoint\.tmp.*'
)

# What complete_file has not completed, and the lock: nothing of a run.
NOTHING = re.compile(rf'\..*\.partial|{re.escape(LOCK)}')

# All that there is before the first checkpoint is complete; no update is in it.
FIRST_STORE = re.compile(r'args\.json|checkpoint-0\..*')

# What a run writes by its first iteration.
OF_A_RUN = re.compile(
    rf'{FIRST_STORE.pattern}|{LEFTOVER.pattern}|checkpoint|train\.log|'
    r'events\.out\.tfevents\..*|(embeddings|losses|fids)(\.json)?'
)


def contents(directory):
    """Return the names in a directory that are something, list of str, sorted.

    None are in a directory that does not exist.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(
            name
            for name in os.listdir(directory)
            if not (LEFTOVER.fullmatch(name) or NOTHING.fullmatch(name))
        )
    return []


def has_not_begun(directory):
    """Say whether a directory holds a run that ended before its first checkpoint.

    It may be started again, or resumed as if it was new.
    """
    names = contents(directory)
    return 'args.json' in names and all(map(FIRST_STORE.fullmatch, names))


class ExperimentRoot:
    """Context in which a run has its directory for itself.

    A run that fails before its first iteration takes away what it wrote. The lock is
    one of flock: the system releases it when the process ends, however it does. Where
    there are no locks, what is there may be that of a living run: nothing is removed.

    Args:
        directory: the experiment root; of a new run it is empty, or not there yet.
        is_new: whether a run starts. Otherwise nothing of a run is ever removed.
        is_writer: whether this process writes; others leave the directory alone.

    Attributes:
        notes: list of str, what to say of what was found.

    Raises:
        InputError: another process is at work there, or was first.
        FileError: the directory cannot be made, or written to.
    """

    def __init__(self, directory, is_new, is_writer):
        self.directory = directory
        self.is_removable = is_new
        self.is_writer = is_writer
        self.notes = []

    def __enter__(self):
        if not self.is_writer:
            return self
        self.existed = os.path.isdir(self.directory)
        with common.writing(f'cannot write to {self.directory}'):
            common.make_directory_of(os.path.abspath(f'{self.directory}/{LOCK}'))
            self.lock = self.take_lock()
        try:
            if self.lock is not None:
                self.remove_leftovers()
            if self.is_removable:
                self.check_is_new()
        except BaseException:
            self.release_lock()
            raise
        return self

    def take_lock(self):
        """Return the descriptor of the lock file, or None where there are no locks."""
        filename = os.path.join(self.directory, LOCK)
        while True:
            # Not only for reading: NFS locks nothing else.
            lock = os.open(filename, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = os.read(lock, 200).decode(errors='replace').strip()
                os.close(lock)
                raise common.InputError(
                    f'{self.directory} is in use: another train.py is at work there'
                    f'{f" ({owner})" * bool(owner)}; wait for it, stop it, or choose '
                    'another --experiment_root'
                ) from error
            except OSError as error:
                # Who has the lock has written into its file.
                is_owned = os.fstat(lock).st_size > 0
                os.close(lock)
                if not is_owned:
                    os.remove(filename)
                if error.errno not in NO_LOCKS:
                    raise
                self.notes.append(
                    f'the file system of {self.directory} has no locks: nothing keeps '
                    'a second train.py from writing there at the same time'
                )
                return None
            # The owner before may have removed the file that we have waited for.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), os.stat(filename)):
                    break
            os.close(lock)
        os.ftruncate(lock, 0)
        os.write(lock, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
        return lock

    def release_lock(self):
        """Let others in."""
        if self.lock is not None:
            # The directory is gone, or read-only: the file is no lock without us.
            with contextlib.suppress(OSError):
                os.remove(os.path.join(self.directory, LOCK))
            os.close(self.lock)

    def remove_leftovers(self):
        """Remove what no living process can own, since the lock is ours."""
        names = [n for n in os.listdir(self.directory) if LEFTOVER.fullmatch(n)]
        for name in names:
            remove(os.path.join(self.directory, name))
        if names:
            self.notes.append(
                f'{len(names)} leftovers of killed processes removed from '
                f'{self.directory} (first: {min(names)})'
            )

    def check_is_new(self):
        """Raise InputError unless a run can start here; as checks.check_is_new did.

        Since then, another one may have come and gone.
        """
        if has_not_begun(self.directory):
            if self.lock is None:
                raise common.InputError(
                    f'--experiment_root {self.directory} holds the first files of a '
                    'run, and its file system has no locks: another train.py may be '
                    'at work there; choose a new directory, or empty this one if not'
                )
            for name in contents(self.directory):
                remove(os.path.join(self.directory, name))
        if contents(self.directory):
            raise common.InputError(
                f'--experiment_root {self.directory} is not empty: another train.py '
                'has just begun there; choose a new directory'
            )

    def report(self, iteration):
        """Keep everything from here on: an Iteration has been made."""
        del iteration
        self.is_removable = False

    def __exit__(self, kind, *_):
        if not self.is_writer:
            return
        is_false_start = kind is not None and self.is_removable
        is_false_start &= self.lock is not None  # Else, whose files would it remove?
        # Somebody has removed it all, or the disk is read-only. The error that ends the
        # run is another one.
        with contextlib.suppress(OSError):
            if is_false_start:
                for name in filter(OF_A_RUN.fullmatch, os.listdir(self.directory)):
                    remove(os.path.join(self.directory, name))
        self.release_lock()
        if is_false_start and not self.existed:
            with contextlib.suppress(OSError):  # Somebody has put something there.
                os.rmdir(self.directory)


def remove(path):
    """Remove a file, or a directory and all in it."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.remove(path)
