"""MSMT17's protocol: no same-camera images of the query's PID.

A name such as 0000_000_01_0303morning_0015_0.jpg is PID 0000, image 0, camera 1, and
then day, time of day and what else. Cameras are 01 to 15; there is no junk.
Source: Wei et al. 2018, "Person Transfer GAN to Bridge Domain Gap for Person
Re-Identification", arXiv:1711.08565; scored as Market-1501 is.
"""

import re

from excluders import _keys


class Excluder(_keys.PidCameraExcluder):
    """Ignore the query's PID in the query's camera."""

    pattern = re.compile(r'(\d+)_\d+_(\d+)_')
    example = '0000_000_01_0303morning_0015_0.jpg'
