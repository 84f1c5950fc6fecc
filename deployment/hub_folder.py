"""A directory with all that somebody else needs, for Hugging Face's hub or a colleague.

Weights, args.json without the paths of this machine, thresholds if there are any, and a
model card, README.md. `huggingface-cli upload` takes it as it is, and Embedder.load
reads it back. Nothing here uses the network.
"""

import json
import os

import numpy as np

import common

# Imported at first use: what a format needs is looked at without TensorFlow.
tf = common.lazy_import('tensorflow')
checkpoints = common.lazy_import('checkpoints')
embedder = common.lazy_import('embedder')

SUFFIX = '_hub'
IS_DIRECTORY = True
OF_RUN = True
NEEDS = ()
TOLERANCE = 1e-5  # A batch of another size may be summed otherwise.

# Flags that tell of a machine and not of the network; they hold names of files.
PATHS = (
    *('experiment_root', 'image_root', 'initial_checkpoint', 'train_set', 'val_set'),
    *('val_query', 'val_image_root'),
)

# What thresholds.json keeps: what tells same from different, and how sure that is.
THRESHOLDS = (
    *('thresholds', 'roc', 'roc_auc', 'equal_error_rate', 'num_same_pairs'),
    'num_different_pairs',
)

CARD = """---
license: {licence}
library_name: tensorflow
tags:
- re-identification
- image-retrieval
- metric-learning
- triplet-loss
{metadata}---

# {title}

A network of `{model_name}` with the head `{head_name}` that maps images, {height}
pixels high and {width} wide, to {embedding_dim} numbers, such that images of one
identity are near each other ({metric} distance). It was trained with the loss `{loss}`
(margin `{margin}`) on `{train_set}` for {step} iterations of {batch} images.

{scores}
## Use

With the code that it was trained with, version {version}:

```python
from embedder import Embedder

embedder = Embedder.load('{name}')  # This directory.
embs = embedder.embed(['a.jpg', 'b.jpg'])  # float32 [2, {embedding_dim}]
print(embedder.distances(embs[0], embs[1]))
```

Images are RGB, resized to {height} x {width} by TensorFlow 1's bilinear rule. All flags
of the training are in `args.json`.
"""


def write(run, target, calibration):
    """Write a directory; see deployment.

    Args:
        run: _run.Run.
        target: name of the directory, which is there and empty.
        calibration: not used.
    """
    del calibration
    name = os.path.basename(run.prefix)
    variables = checkpoints.variables_by_name(run.embedder.network)
    variables[checkpoints.STEP_NAME] = tf.Variable(run.step, dtype=tf.int64)
    checkpoints.write(target, name, tf.train.Checkpoint(**variables))
    with open(os.path.join(target, checkpoints.INDEX_FILE), 'w') as file:
        file.write(f'model_checkpoint_path: "{name}"\n')
    args = {key: value for key, value in run.args.items() if key not in PATHS}
    common.write_json(os.path.join(target, 'args.json'), args)
    thresholds = os.path.join(run.root, embedder.THRESHOLDS_FILE)
    if os.path.isfile(thresholds):
        stored = common.read_object(thresholds)
        common.write_json(
            os.path.join(target, embedder.THRESHOLDS_FILE), without_paths(stored)
        )
    with open(os.path.join(target, 'README.md'), 'w', encoding='utf-8') as file:
        file.write(describe(run))


def without_paths(scores):
    """Return what evaluate.py --thresholds has written, but for names of files."""
    kept = {name: scores[name] for name in THRESHOLDS if name in scores}
    args, told = scores.get('args', {}), scores.get('embeddings', {})
    kept['args'] = {name: args.get(name) for name in ('metric', 'excluder')}
    checkpoint = os.path.basename(told.get('checkpoint') or '')
    return kept | {'embeddings': {**told, 'checkpoint': checkpoint}}


def describe(run):
    """Return the model card of a _run.Run, as text."""
    args = run.args
    sets = args.get('train_set')
    sets = [sets] if isinstance(sets, str) else sets or ['unknown images']
    names = [os.path.splitext(os.path.basename(name))[0] for name in sets]
    return CARD.format(
        licence=run.licence,
        metadata=describe_metadata(run, names),
        title=f'{args["model_name"]} trained on {", ".join(names)}',
        model_name=args['model_name'],
        head_name=args['head_name'],
        height=args['net_input_height'],
        width=args['net_input_width'],
        embedding_dim=args['embedding_dim'],
        metric=run.embedder.metric,
        loss=args.get('loss', 'batch_hard'),
        margin=args.get('margin', 'soft'),
        train_set=', '.join(names),
        step=run.step,
        batch=args.get('batch_p', 0) * args.get('batch_k', 0),
        scores=describe_scores(run.scores),
        version=common.VERSION,
        name=run.name,
    )


def describe_metadata(run, names):
    """Return the part of the card's heading that tells of data sets and scores."""
    lines = ['datasets:', *(f'- {json.dumps(name)}' for name in names)]
    if run.scores is not None:
        lines += [
            'model-index:',
            f'- name: {json.dumps(run.name)}',
            '  results:',
            '  - task:',
            '      type: image-retrieval',
            '    dataset:',
            f'      name: {json.dumps(names_of_gallery(run.scores))}',
            f'      type: {json.dumps(names_of_gallery(run.scores))}',
            '    metrics:',
            *metric_lines('mAP', run.scores['mAP']),
            *metric_lines('rank-1', run.scores['CMC'][0]),
        ]
    return '\n'.join(lines) + '\n'


def names_of_gallery(scores):
    """Return what scores of evaluate.py were computed on."""
    gallery = scores.get('args', {}).get('gallery_dataset') or 'unknown'
    return os.path.splitext(os.path.basename(gallery))[0]


def metric_lines(name, value):
    """Return a metric of a model index, list of str; shares as percent."""
    return [f'    - type: {name}', f'      value: {100 * value:.2f}']


def describe_scores(scores):
    """Return the card's paragraph on scores of evaluate.py, or nothing."""
    if scores is None:
        return ''
    return (
        f'On `{names_of_gallery(scores)}`: mAP {scores["mAP"]:.2%}, rank-1 '
        f'{scores["CMC"][0]:.2%}, rank-5 {scores["CMC"][4]:.2%}.\n'
    )


def load(target):
    """Return a function of images to embeddings; see deployment."""
    common.start_tensorflow()
    ours = embedder.Embedder.load(target)
    return lambda images: np.array(ours.embed_batch(images)[0])
