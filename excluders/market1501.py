"""Market-1501's protocol: no same-camera images of the query's PID, no junk.

A name such as 0002_c1s1_000451_03.jpg is PID 0002, camera 1, sequence 1, frame 451,
detection 3. PID -1 is junk (bad detections); PID 0000 are distractors, which count.
Source: Zheng et al. 2015, "Scalable Person Re-identification: A Benchmark", section
3.1. The masks agree with the data set's own lists in gt_query (docs/excluders.md).
"""

import re

from excluders import _keys


class Excluder(_keys.PidCameraExcluder):
    """Ignore the query's PID in the query's camera, and PID -1."""

    # Greedy: should a PID itself contain `_c1s1`, the last such field is the camera.
    pattern = re.compile(r'(\S+)_c(\d+)s\d')
    example = '0002_c1s1_000451_03.jpg'
