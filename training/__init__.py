"""What train.py alone is made of.

flags.py           its flags: declared, checked, merged with those of a resumed run
devices.py         one training step on one or several devices or machines
optimizers.py      Keras' optimizers, and their rates as functions of the step
journal.py         what is told of every iteration: log, TensorBoard, arrays
batch_pictures.py  a batch and its hardest pairs as pictures
image_cache.py     --cache: the decoded images in memory
diagnosis.py       tables before the start, and signs that a run has collapsed
divergence.py      ends a run whose numbers are no longer finite
validation.py      held-out identities scored while training
"""
