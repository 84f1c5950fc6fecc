"""The directory of a run."""

import os
import shutil


class ExperimentRoot:
    """Context in which a run that fails before its first iteration leaves nothing.

    Args:
        directory: the experiment root; of a new run it is empty, or not there yet.
        is_new: whether a run starts, and writes its files. Otherwise nothing is ever
            removed.
        replicas: of devices.connect; of several processes, one writes.
    """

    def __init__(self, directory, is_new, replicas):
        self.directory = directory
        self.is_removable = is_new and replicas.is_chief

    def __enter__(self):
        self.existed = os.path.isdir(self.directory)
        return self

    def report(self, iteration):
        """Keep everything from here on: an Iteration has been made."""
        del iteration
        self.is_removable = False

    def __exit__(self, kind, *_):
        if kind is None or not self.is_removable:
            return
        if not self.existed:
            shutil.rmtree(self.directory, ignore_errors=True)
        elif os.path.isdir(self.directory):
            for entry in os.scandir(self.directory):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.remove(entry.path)
