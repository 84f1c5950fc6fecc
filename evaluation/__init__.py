"""From embeddings to scores: NumPy and SciPy only, no TensorFlow, nothing printed.

ranking.py      distances in blocks, ranks of the true matches, AP, CMC, mINP
rerank.py       distances after re-ranking with k-reciprocal neighbours
thresholds.py   same identity or not: ROC, equal error rate, distances to accept below
single_shot.py  CMC in random galleries of one image per identity
pooling.py      several embeddings into one: tracklets, queries of one camera
protocol.py     what a query and a gallery are, where not one image each
flags.py        the flags of what is ranked, and how; reads it
"""
