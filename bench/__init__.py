"""How fast, and with how much memory? A module for each figure that docs/ publishes.

Run from the root of the repository; --help tells what is measured and printed.
~/torchenv is an environment of bench/requirements.txt: the sides in PyTorch live there.

    python -m bench.train_speed --torch_python ~/torchenv/bin/python
        a training iteration: train.py against the same step in PyTorch
    python -m bench.embed_speed --torch_python ~/torchenv/bin/python
        image files to a file of embeddings: embed.py's way against PyTorch
    python -m bench.evaluate_speed
        evaluate.py on Market-1501's size against two common ways to evaluate
    python -m bench.search_speed ~/exp/600/market1501_test_embeddings.h5
        search.py in a million images: exact, and by each index
    python -m bench.trinet_speed
        ten-crop embeddings: trinet_embed.py against the naive way
    python -m bench.pipeline_speed
        JPEG files to training batches: ours against cv2 and a naive tf.data
    python -m bench.distances
        distances of a large batch: in blocks against all differences at once
    python -m bench.journal_cost
        what log line, scalars and histograms cost an iteration
    python -m bench.memory
        whether a long training run needs more and more memory
    python -m bench.exchange
        the bytes that two workers exchange in a training step
    python -m bench.bulk_speed
        bulk_embed.py with one and two actors against embed.py
    python -m bench.startup
        until the first iteration of a data set with a million rows
    python -m bench.before ~/before
        train.py, embed.py and evaluate.py against those of an earlier commit
    python -m bench.mutation loss
        how many small faults in a module its tests notice
    python -m bench.tcmalloc /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4
        training with and without tcmalloc

_sides.py         processes that measure in turn; what a process used
_yardsticks.py    drawn images, operations of a net, rate of a matrix product
_usage.py         a command's time and memory, without those of who starts it
_product.py       a side: the matrix product in TensorFlow or PyTorch
_embed_task.py    what both sides of embed_speed are asked, and how they answer
_cdist.py         a side of distances: one form of them
_our_embed.py     a side of embed_speed: TensorFlow
_torch_embed.py   a side of embed_speed: PyTorch
_torch_train.py   a side of train_speed: PyTorch
_torch_resnet.py  the paper's network in PyTorch
"""
