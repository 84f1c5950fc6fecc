"""How a CSV's camera column reaches an excluder: with the fid."""


class FidWithCamera(str):
    """A fid that knows what its row of the CSV says besides.

    Attributes:
        pid: str, the row's PID.
        cid: str, the row's camera.
    """

    def __new__(cls, fid, pid, cid):
        """Return the fid, with its PID and camera."""
        self = super().__new__(cls, fid)
        self.pid, self.cid = pid, cid
        return self
