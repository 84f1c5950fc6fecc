"""CUHK03's protocol: no same-camera images of the query's PID.

Two kinds of names, those of the two forms that data/cuhk03.py reads:

    1_001_1_01.png    camera pair 1, person 1, camera 1 of the pair, image 1
    0003_c1_21.png    PID 3, camera 1, image 21

In the first, a person exists in one pair of cameras only, so that pair and person are
the identity. Source: Zhong et al. 2017, arXiv:1701.08398, whose scripts score so.
"""

import re

from excluders import _keys

PAIR_NAME = re.compile(r'(\d+_\d+)_(\d+)_\d+\.')
MARKET_NAME = re.compile(r'(\d+)_c(\d+)_')


class Excluder(_keys.PidCameraExcluder):
    """Ignore the query's PID in the query's camera."""

    example = '1_001_1_01.png'

    def match(self, name):
        """Match either kind of file name; groups: PID, camera."""
        return PAIR_NAME.match(name) or MARKET_NAME.match(name)
