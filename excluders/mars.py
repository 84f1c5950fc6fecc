"""MARS' protocol: no same-camera tracklets of the query's PID, no junk.

A name such as 0002C1T0001F001.jpg is PID 0002, camera 1, tracklet 1, frame 1. PID 00-1
is junk, which the official evaluation ignores; PID 0000 are distractors, which count.
Source: Zheng et al. 2016, "MARS: A Video Benchmark for Large-Scale Person
Re-Identification"; test_mars.m of https://github.com/liangzheng06/MARS-evaluation.
"""

import re

from excluders import _keys


class Excluder(_keys.PidCameraExcluder):
    """Ignore the query's PID in the query's camera, and PID 00-1."""

    pattern = re.compile(r'([\d-]+)C(\d+)T\d+F\d+')
    example = '0002C1T0001F001.jpg'
    junk_pids = ('00-1',)

    def tracklets(self, fids):
        """Return what all frames of a tracklet share, [N]: the names up to the F."""
        for fid in fids:
            self.parse(fid)
        return [fid.rpartition('F')[0] for fid in fids]
