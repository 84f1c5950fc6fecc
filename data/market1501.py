"""Market-1501: 1501 pedestrians, six cameras, boxes of a detector.

    bounding_box_train/0002_c1s1_000451_03.jpg    train
    query/0001_c1s1_001051_00.jpg                 query
    bounding_box_test/-1_c1s1_000401_03.jpg       test

A name is PID, camera and sequence, frame, box. In the test folder, PID 0000 is a
distractor (a wrong answer to every query) and -1 is junk (to be ignored, see
excluders/market1501.py); both stay in the CSV. Some names end in `.jpg.jpg`, rightly.

Source: Zheng et al. 2015, "Scalable Person Re-identification: A Benchmark", and the
readme.txt of Market-1501-v15.09.15; counted in that release.
"""

from data import _folders

COMPLETE = {'train': 12936, 'query': 3368, 'test': 19732}


def read(root):
    """Return the rows of the three folders; see data/__init__.py."""
    return _folders.read_named_images(
        root,
        _folders.MARKET_FOLDERS,
        pattern=r'(-1|\d+)_c\d+s\d+_\d+_\d+\.',
        example='0002_c1s1_000451_03.jpg',
    )
