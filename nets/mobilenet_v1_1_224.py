"""MobileNet v1 of width 1, the layout of TF-Slim; features [B, 1024].

See _mobilenet.py.
"""

from nets import _mobilenet

KERAS_APPLICATION = 'MobileNet'
build, from_keras = _mobilenet.variant(1)
