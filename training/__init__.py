"""What train.py alone is made of.

flags.py           its flags: declared, and what they are in the end
checks.py          which of them go together
experiment.py      the directory of a run; a false start leaves nothing there
resuming.py        args.json: what is stored, and how --resume merges it
settings.py        what the flags mean, in groups that travel together
step.py            the mathematics of one iteration
loop.py            the iterations, one after another
optimizers.py      Keras' optimizers, and their rates as functions of the step
validation.py      held-out identities scored while training
devices.py         what --distribute means
replicas.py        the devices of one process that share a batch
workers.py         several processes that share a batch, and what they exchange
watchdog.py        notices that another worker is gone, or hangs
journal.py         what is told of every iteration: log, TensorBoard, arrays
batch_pictures.py  a batch and its hardest pairs as pictures
diagnosis.py       tables before the start, divergence, collapse
image_cache.py     --cache: the decoded images in memory
"""
