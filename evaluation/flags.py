"""The flags of what is ranked, and how, which evaluate.py and visualize.py share.

add_flags(parser)
add_protocol_flags(parser)
add_rerank_flags(parser)
query, gallery, task = load(parser.parse_args())
"""

import argparse
import typing

import common
import embedding_files
import excluders
from evaluation import pooling, protocol, ranking, rerank


class Ranked(typing.NamedTuple):
    """What the flags ask to rank, once the protocol is followed.

    Attributes:
        query, gallery: embedding_files.EmbeddedDataset.
        task: ranking.Task, their distances and what is ignored.
        notes: list of str, what is to be said of the data.
        origin: embedding_files.Origin of the gallery.
    """

    query: embedding_files.EmbeddedDataset
    gallery: embedding_files.EmbeddedDataset
    task: ranking.Task
    notes: list
    origin: embedding_files.Origin


def add_flags(parser):
    """Add the flags that say what is ranked, and how, to an argument parser."""
    required = parser.add_argument_group('required')
    required.add_argument(
        '--excluder',
        required=True,
        choices=excluders.EXCLUDER_CHOICES,
        help='Which gallery images a query ignores: those of its PID by its own '
        'camera under the naming rules of a data set, or (diagonal) itself.',
    )
    for side in ('query', 'gallery'):
        required.add_argument(
            f'--{side}_dataset',
            required=True,
            type=common.path,
            metavar='CSV',
            help=f'The {side} set: one PID,FID row an image.',
        )
        required.add_argument(
            f'--{side}_embeddings',
            required=True,
            type=common.path,
            metavar='HDF5',
            help=f'Its embeddings, as embed.py writes them: emb [N, D] in the order '
            f'of --{side}_dataset; .npy, .npz, .csv and .parquet do too.',
        )
    ranked = parser.add_argument_group('ranking')
    ranked.add_argument(
        '--metric',
        choices=ranking.METRIC_CHOICES,
        default='euclidean',
        help='Distance by which the gallery is ranked.',
    )
    ranked.add_argument(
        '--batch_size',
        type=common.positive_int,
        default=256,
        help='Queries ranked at once, at most. More needs more memory; the result is '
        'the same.',
    )


def add_protocol_flags(parser):
    """Add the flags of what a query and a gallery are; return their group."""
    group = parser.add_argument_group('protocol')
    group.add_argument(
        '--multi_query',
        choices=pooling.POOL_CHOICES,
        help='Pool the queries of one PID and camera into one query.',
    )
    group.add_argument(
        '--pool',
        choices=pooling.POOL_CHOICES,
        help='Rank tracklets, pooled from their frames, which both sets consist of '
        '(excluder mars).',
    )
    group.add_argument(
        '--gallery_includes_queries',
        action='store_true',
        help='Search the query set too. The official gallery of MARS does.',
    )
    return group


def add_rerank_flags(parser):
    """Add the flags of re-ranking to an argument parser."""
    group = parser.add_argument_group('re-ranking')
    group.add_argument(
        '--rerank',
        action='store_true',
        help='Rank by k-reciprocal neighbours too (Zhong et al. 2017). Looks at all '
        'queries and the whole gallery at once, which needs time and memory; say so '
        'when you publish the scores.',
    )
    group.add_argument(
        '--rerank_k1',
        type=common.positive_int,
        default=20,
        help='Nearest images that may be reciprocal neighbours.',
    )
    group.add_argument(
        '--rerank_k2',
        type=common.positive_int,
        default=6,
        help="Nearest images that an image's neighbours are averaged over.",
    )
    group.add_argument(
        '--rerank_lambda',
        type=share,
        default=0.3,
        help='Weight of the original distance, 0 to 1.',
    )


def share(text):
    """argparse type: a number from 0 to 1."""
    value = common.number(text, float, 'a number from 0 to 1')
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} given, 0 to 1 expected')
    return value


def load(args, streams_gallery=False):
    """Read what is ranked.

    Args:
        args: of a parser with all flags above, and --csv_header.
        streams_gallery: leave the gallery's embeddings in their file.

    Returns:
        Ranked.

    Raises:
        FileNotFoundError, ValueError: a file is missing or wrong, or the protocol does
            not fit the names of its images.
    """
    query, gallery = embedding_files.load_pair(
        args.query_dataset,
        args.query_embeddings,
        args.gallery_dataset,
        args.gallery_embeddings,
        has_header=args.csv_header,
        streams_gallery=streams_gallery,
    )
    notes = embedding_files.describe_skipped(args.query_dataset, query)
    notes += embedding_files.describe_skipped(args.gallery_dataset, gallery)
    notes += embedding_files.describe_views(query, gallery)
    origin = gallery.origin
    query, gallery = protocol.follow(
        query,
        gallery,
        args.excluder,
        args.pool,
        args.gallery_includes_queries,
        args.multi_query,
    )
    dists = ranking.EmbeddingDistances(
        query.embs, gallery.embs, args.metric, args.batch_size
    )
    if args.rerank:
        dists = rerank.RerankedDistances(
            query.embs,
            gallery.embs,
            args.metric,
            args.batch_size,
            args.rerank_k1,
            args.rerank_k2,
            args.rerank_lambda,
        )
    is_ignored = excluders.make_mask(args.excluder, query, gallery)
    task = ranking.Task(dists, query.pids, gallery.pids, is_ignored)
    return Ranked(query, gallery, task, notes, origin)
