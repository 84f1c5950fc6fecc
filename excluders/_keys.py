"""What excluders share: ignore the gallery images whose key equals the query's.

A key is any hashable value, such as (PID, camera). Keys are numbered when an excluder
is built; a block of queries then costs one integer comparison per pair.
"""

import numpy as np

import common

JUNK_CODE = 0
UNSEEN_CODE = -1  # Of a query key that no gallery image has.


class KeyExcluder:
    """Ignore gallery images with the query's key, and junk.

    A subclass defines `key(fid)`, which returns a hashable value, or None for junk: an
    image that no query may find.

    Args:
        gallery_fids: [G] of str.
        gallery_pids, gallery_cids: [G] of str, of the CSV; None: not known.

    Attributes:
        gallery_codes: int32 [G], the number of each gallery image's key; 0 is junk.
    """

    def __init__(self, gallery_fids, gallery_pids=None, gallery_cids=None):
        self._code_of_key = {None: JUNK_CODE}
        self.gallery_codes = np.array(
            [
                self._code_of_key.setdefault(key, len(self._code_of_key))
                for key in self.keys(gallery_fids, gallery_pids, gallery_cids)
            ],
            np.int32,
        )

    def key(self, fid):
        """Return what makes two images too similar to count, or None for junk."""
        raise NotImplementedError

    def keys(self, fids, pids=None, cids=None):
        """Return the key of each image, list [N]; see `key`.

        Args:
            fids: [N] of str.
            pids, cids: [N] of str, of the CSV; None: not known. Here they do not count.
        """
        del pids, cids
        return [self.key(fid) for fid in fids]

    def cameras(self, fids, pids=None, cids=None):
        """Return the camera of each image, [N] of str; None: names tell of none."""

    def tracklets(self, fids):
        """Return the tracklet of each image, [N]; None: names tell of none."""

    def encode(self, query_fids, query_pids=None, query_cids=None):
        """Return int32 [Q], the number of each query's key; -1: not in the gallery."""
        keys = self.keys(query_fids, query_pids, query_cids)
        codes = [self._code_of_key.get(key, UNSEEN_CODE) for key in keys]
        return np.array(codes, np.int32)

    def ignores(self, query_codes, gallery_rows=slice(None)):
        """Return bool [Q, rows]: True where the query ignores the gallery image.

        Args:
            query_codes: int32 [Q], of `encode`.
            gallery_rows: slice or indices of the gallery images asked about.
        """
        gallery_codes = self.gallery_codes[gallery_rows]
        is_same = query_codes[:, None] == gallery_codes  # [Q, rows]
        is_same |= gallery_codes == JUNK_CODE
        return is_same

    def __call__(self, query_fids, gallery_rows=slice(None)):
        """Return bool [Q, rows] of queries whose names are to be parsed first."""
        return self.ignores(self.encode(query_fids), gallery_rows)


class PidCameraExcluder(KeyExcluder):
    """Ignore gallery images of the query's PID by its own camera, and junk.

    Finding the same person in the same camera, often a moment later, is too easy to
    tell anything about re-identification.

    A subclass defines `pattern`, which matches the start of a file name with the
    groups PID and camera, and `example`, a name that error messages quote. Both groups
    are compared as text: camera `01` is not camera `1`. Where one pattern is not
    enough, it overrides `match`; where junk is marked otherwise, `junk_pids`.
    """

    pattern = None
    example = None
    junk_pids = ('-1',)  # Bad detections.

    def parse(self, fid):
        """Return (pid, cid), both str, of a fid; its directory does not matter.

        Raises:
            ValueError: the file name does not match the pattern.
        """
        match = self.match(fid.rpartition('/')[2])
        if match is None:
            name = type(self).__module__.rpartition('.')[2]
            raise common.InputError(
                f'no PID and camera in {fid!r}; {name} names look like {self.example}'
            )
        return match.groups()

    def match(self, name):
        """Return a match object with groups PID and camera, or None, of a file name."""
        return self.pattern.match(name)

    def cameras(self, fids, pids=None, cids=None):
        """Return the camera of each image, list [N] of str."""
        del pids, cids
        return [self.parse(fid)[1] for fid in fids]

    def key(self, fid):
        """Return (pid, cid), or None for junk."""
        pid, cid = self.parse(fid)
        return None if pid in self.junk_pids else (pid, cid)
