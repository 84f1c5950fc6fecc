"""PID and camera from the CSV, for names that tell neither: no regular expression.

The CSV has a third column, the camera: PID,FID,CAMERA. Otherwise as market1501: no
images of the query's PID by its own camera, and no junk, whose PID is -1.
"""

import common
from excluders import _keys

JUNK_PID = '-1'


class Excluder(_keys.KeyExcluder):
    """Ignore the query's PID in the query's camera, and PID -1."""

    def keys(self, fids, pids=None, cids=None):
        """Return (pid, cid) of each image, None for junk; see _keys.KeyExcluder."""
        cids = self.cameras(fids, pids, cids)
        return [
            None if pid == JUNK_PID else (pid, cid)
            for pid, cid in zip([] if pids is None else pids, cids, strict=True)
        ]

    def cameras(self, fids, pids=None, cids=None):
        """Return the camera column of the CSV.

        Raises:
            InputError: there is none.
        """
        if cids is None and len(fids):
            raise common.InputError(
                f'no camera in the row of {fids[0]!r}; --excluder csv wants three '
                'columns, PID,FID,CAMERA'
            )
        return [] if cids is None else cids
