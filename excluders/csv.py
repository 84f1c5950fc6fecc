"""PID and camera from the CSV, for names that tell neither: no regular expression.

The CSV has a third column, the camera: PID,FID,CAMERA. Otherwise as market1501: no
images of the query's PID by its own camera, and no junk, whose PID is -1.
"""

import common
from excluders import _columns, _keys


class Excluder(_keys.PidCameraExcluder):
    """Ignore the query's PID in the query's camera, and PID -1."""

    example = _columns.FidWithCamera('cat.jpg', pid='7', cid='lobby')

    def parse(self, fid):
        """Return (pid, cid) that came with the fid.

        Raises:
            ValueError: none did.
        """
        if not isinstance(fid, _columns.FidWithCamera):
            raise common.InputError(
                f'no camera in the row of {fid!r}; --excluder csv wants three columns, '
                'PID,FID,CAMERA'
            )
        return fid.pid, fid.cid
