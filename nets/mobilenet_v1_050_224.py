"""MobileNet v1 of width 0.5, the layout of TF-Slim; features [B, 512].

See _mobilenet.py.
"""

from nets import _mobilenet

KERAS_APPLICATION = 'MobileNet'
KERAS_ARGUMENTS = {'alpha': 0.5}
build, from_keras = _mobilenet.variant(0.5)
