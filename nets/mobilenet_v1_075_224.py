"""MobileNet v1 of width 0.75, the layout of TF-Slim; features [B, 768].

See _mobilenet.py.
"""

from nets import _mobilenet

KERAS_APPLICATION = 'MobileNet'
KERAS_ARGUMENTS = {'alpha': 0.75}
build, from_keras = _mobilenet.variant(0.75)
