#!/usr/bin/env python3
"""Score query against gallery embeddings: mean average precision and CMC.

    python evaluate.py --excluder market1501 \\
        --query_dataset data/market1501_query.csv \\
        --query_embeddings ~/exp/trinet/market1501_query_embeddings.h5 \\
        --gallery_dataset data/market1501_test.csv \\
        --gallery_embeddings ~/exp/trinet/market1501_test_embeddings.h5 \\
        --metric euclidean --filename ~/exp/trinet/market1501_evaluation.json

Prints mAP and top-k scores in percent, then both kinds of mAP by name, mINP and top-20.
Writes, if --filename is given, a JSON file with mAP, CMC (share of queries with a match
among the k nearest, k = 1, 2, ...) and aps (average precision of each query that has a
match), all in 0..1, and more: docs/evaluation.md.

Queries without any match in the gallery are left out of mAP and aps, but count as
failures in the CMC, unless --no_match says otherwise; they are reported on stderr and
named in the JSON file.
"""

import importlib
import importlib.metadata
import platform
import sys

import numpy as np

import common
import embeddings
import ranking

NO_MATCH_RULES = {
    'original': 'left out of mAP, failures in the CMC',
    'zero': 'average precision 0, failures in the CMC',
    'drop': 'left out of mAP and CMC',
}
TOP_KS = (1, 2, 5, 10, 20)


def build_parser():
    """Return the argument parser."""
    parser = common.new_parser(__doc__)
    embeddings.add_flags(parser)
    data = parser.add_argument_group('data')
    data.add_argument(
        '--csv_header',
        action='store_true',
        help='The first line of both CSV files names the columns. With the names pid, '
        'fid and camera, columns may come in any order; other columns are ignored.',
    )
    output = parser.add_argument_group('scores')
    output.add_argument(
        '--use_market_ap',
        action='store_true',
        help='Let mAP and aps be the average precision of the Market-1501 code, which '
        "the paper reports (trapezoid rule), instead of scikit-learn's (steps). The "
        'JSON file has both means.',
    )
    output.add_argument(
        '--no_match',
        choices=tuple(NO_MATCH_RULES),
        default='original',
        help='What queries without any match in the gallery are: '
        + '; '.join(f'{name}: {rule}' for name, rule in NO_MATCH_RULES.items())
        + '.',
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
        has_header=args.csv_header,
        streams_gallery=True,
    )
    excluder_module = importlib.import_module(f'excluders.{args.excluder}')
    excluder = excluder_module.Excluder(gallery.fids)
    dists = ranking.EmbeddingDistances(
        query.embs, gallery.embs, args.metric, args.batch_size
    )
    ranks = ranking.rank(
        dists,
        query.pids,
        gallery.pids,
        lambda rows, cols: excluder(query.fids[rows], cols),
    )
    report_unmatched(ranks, query.fids, args.no_match)
    scores = compute_scores(
        ranks, query.fids, len(gallery.fids), args.use_market_ap, args.no_match
    )
    print(format_summary(scores['mAP'], scores['CMC']))
    print(format_details(scores))
    if args.filename is not None:
        provenance = {'args': vars(args), 'versions': collect_versions()}
        common.write_json(args.filename, scores | provenance)


def compute_scores(
    ranks, query_fids, num_gallery, use_market_ap=False, no_match='original'
):
    """Return everything that the JSON file says about a ranking.

    Args:
        ranks: list [Q] of ranking.MatchRanks.
        query_fids: [Q] of str.
        num_gallery: G.
        use_market_ap: whether `mAP` and `aps` are Market-1501's average precision.
        no_match: one of NO_MATCH_RULES.

    Returns:
        dict, ready for JSON.

    Raises:
        ValueError: no query has a match, so that there is no mAP; not if such queries
            count as zero.
    """
    if no_match != 'zero':
        ranking.check_any_match(ranks)
    is_matched = np.array([len(r.ranks) > 0 for r in ranks])
    step_aps, market1501_aps, inverse_penalties = (
        score_queries(ranks, score, no_match)
        for score in (
            ranking.step_average_precision,
            ranking.market1501_average_precision,
            ranking.inverse_negative_penalty,
        )
    )
    aps = market1501_aps if use_market_ap else step_aps
    ranks_in_cmc = [r for r in ranks if len(r.ranks) or no_match != 'drop']
    cmc = ranking.cumulative_matching_characteristic(ranks_in_cmc, num_gallery)
    return {
        'mAP': float(np.mean(aps)),
        'CMC': cmc.tolist(),
        'aps': aps,
        'mAP_step': float(np.mean(step_aps)),
        'mAP_market1501': float(np.mean(market1501_aps)),
        'mINP': float(np.mean(inverse_penalties)),
        'top': {str(k): float(cmc[k - 1]) for k in TOP_KS if k <= num_gallery},
        'num_queries': len(ranks),
        'num_gallery': num_gallery,
        'num_queries_without_match': int(np.count_nonzero(~is_matched)),
        'queries_without_match': list(query_fids[~is_matched]),
    }


def score_queries(ranks, score, no_match):
    """Return the scores that a mean is taken of: list of float.

    Args:
        ranks: list [Q] of ranking.MatchRanks.
        score: function of MatchRanks with at least one match.
        no_match: one of NO_MATCH_RULES: 0 for the others, or nothing.
    """
    if no_match == 'zero':
        return [score(r) if len(r.ranks) else 0.0 for r in ranks]
    return [score(r) for r in ranks if len(r.ranks)]


def report_unmatched(ranks, query_fids, no_match):
    """Say on stderr how many queries have no match, what they count, and the first."""
    unmatched = [
        fid for fid, r in zip(query_fids, ranks, strict=True) if not len(r.ranks)
    ]
    if unmatched:
        print(
            f'{len(unmatched)} of {len(ranks)} queries have no match in the '
            f'gallery: {NO_MATCH_RULES[no_match]} (first: {", ".join(unmatched[:3])})',
            file=sys.stderr,
        )


def format_summary(mean_ap, cmc):
    """Return the original's line, as far as the gallery has k images.

    Args:
        mean_ap: mAP in 0..1.
        cmc: [G], in 0..1.
    """
    top = {k: f'top-{k}: {cmc[k - 1]:.2%}' for k in (1, 2, 5, 10) if k <= len(cmc)}
    groups = [f'mAP: {mean_ap:.2%}', ' '.join(top[k] for k in (1, 2) if k in top)]
    return ' | '.join(groups + [top[k] for k in (5, 10) if k in top])


def format_details(scores):
    """Return the line after it: both average precisions by name, mINP and top-20."""
    names = ('mAP_step', 'mAP_market1501', 'mINP')
    groups = [f'{name}: {scores[name]:.2%}' for name in names]
    if '20' in scores['top']:
        groups.append(f'top-20: {scores["top"]["20"]:.2%}')
    return ' | '.join(groups)


def collect_versions():
    """Return {what computed the scores: its version}."""
    libraries = {name: importlib.metadata.version(name) for name in ('numpy', 'scipy')}
    return {'python': platform.python_version(), **libraries}


if __name__ == '__main__':
    common.run(main)
