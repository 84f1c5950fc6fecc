#!/usr/bin/env python3
"""Score query against gallery embeddings: mean average precision and CMC.

    python evaluate.py --excluder market1501 \\
        --query_dataset data/market1501_query.csv \\
        --query_embeddings ~/exp/trinet/market1501_query_embeddings.h5 \\
        --gallery_dataset data/market1501_test.csv \\
        --gallery_embeddings ~/exp/trinet/market1501_test_embeddings.h5 \\
        --metric euclidean --filename ~/exp/trinet/market1501_evaluation.json

Prints one line, mAP and top-k scores in percent. Writes, if --filename is given, a JSON
file with mAP, CMC (share of queries with a match among the k nearest, k = 1, 2, ...)
and aps (average precision of each query that has a match), all in 0..1, and more.

Queries without any match in the gallery are left out of mAP and aps, but count as
failures in the CMC; they are reported on stderr and named in the JSON file.
"""

import importlib
import importlib.metadata
import platform
import sys

import numpy as np

import common
import embeddings
import ranking


def build_parser():
    """Return the argument parser."""
    parser = common.new_parser(__doc__)
    embeddings.add_flags(parser)
    output = parser.add_argument_group('scores')
    output.add_argument(
        '--use_market_ap',
        action='store_true',
        help='Let mAP and aps be the average precision of the Market-1501 code, which '
        "the paper reports (trapezoid rule), instead of scikit-learn's (steps). The "
        'JSON file has both means.',
    )
    output.add_argument(
        '--filename',
        type=common.path,
        metavar='JSON',
        help='File to write all scores to; without it they are only printed.',
    )
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    query, gallery = embeddings.load_pair(
        args.query_dataset,
        args.query_embeddings,
        args.gallery_dataset,
        args.gallery_embeddings,
    )
    excluder_module = importlib.import_module(f'excluders.{args.excluder}')
    excluder = excluder_module.Excluder(gallery.fids)
    ranks = ranking.rank_all(
        query.embs,
        gallery.embs,
        query.pids,
        gallery.pids,
        lambda rows: excluder(query.fids[rows]),
        args.metric,
        args.batch_size,
    )
    scores = compute_scores(ranks, query.fids, len(gallery.fids), args.use_market_ap)
    report_unmatched(scores['queries_without_match'], len(query.fids))
    print(format_summary(scores['mAP'], scores['CMC']))
    if args.filename is not None:
        provenance = {'args': vars(args), 'versions': collect_versions()}
        common.write_json(args.filename, scores | provenance)


def compute_scores(ranks, query_fids, num_gallery, use_market_ap):
    """Return everything that the JSON file says about a ranking.

    Args:
        ranks: list [Q] of ranking.MatchRanks.
        query_fids: [Q] of str.
        num_gallery: G.
        use_market_ap: whether `mAP` and `aps` are Market-1501's average precision.

    Returns:
        dict, ready for JSON.

    Raises:
        ValueError: no query has a match, so that there is no mAP.
    """
    ranking.check_any_match(ranks)
    matched = [r for r in ranks if len(r.ranks)]
    unmatched = [
        fid for fid, r in zip(query_fids, ranks, strict=True) if not len(r.ranks)
    ]
    step_aps = [ranking.step_average_precision(r) for r in matched]
    market1501_aps = [ranking.market1501_average_precision(r) for r in matched]
    aps = market1501_aps if use_market_ap else step_aps
    cmc = ranking.cumulative_matching_characteristic(ranks, num_gallery)
    return {
        'mAP': float(np.mean(aps)),
        'CMC': cmc.tolist(),
        'aps': aps,
        'mAP_step': float(np.mean(step_aps)),
        'mAP_market1501': float(np.mean(market1501_aps)),
        'mINP': float(np.mean([ranking.inverse_negative_penalty(r) for r in matched])),
        'num_queries': len(ranks),
        'num_gallery': num_gallery,
        'num_queries_without_match': len(unmatched),
        'queries_without_match': unmatched,
    }


def report_unmatched(unmatched_fids, num_queries):
    """Say on stderr how many queries are left out of mAP, and the first of them."""
    if unmatched_fids:
        print(
            f'{len(unmatched_fids)} of {num_queries} queries have no match in the '
            'gallery: left out of mAP, failures in the CMC '
            f'(first: {", ".join(unmatched_fids[:3])})',
            file=sys.stderr,
        )


def format_summary(mean_ap, cmc):
    """Return the line that is printed, as far as the gallery has k images.

    Args:
        mean_ap: mAP in 0..1.
        cmc: [G], in 0..1.
    """
    top = {k: f'top-{k}: {cmc[k - 1]:.2%}' for k in (1, 2, 5, 10) if k <= len(cmc)}
    groups = [f'mAP: {mean_ap:.2%}', ' '.join(top[k] for k in (1, 2) if k in top)]
    return ' | '.join(groups + [top[k] for k in (5, 10) if k in top])


def collect_versions():
    """Return {what computed the scores: its version}."""
    libraries = {name: importlib.metadata.version(name) for name in ('numpy', 'scipy')}
    return {'python': platform.python_version(), **libraries}


if __name__ == '__main__':
    common.run(main)
