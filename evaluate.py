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

import importlib.metadata
import platform
import sys

import numpy as np

import common
import datasets
from evaluation import flags, ranking, single_shot, thresholds

NO_MATCH_RULES = {
    'original': 'left out of mAP, failures in the CMC',
    'zero': 'average precision 0, failures in the CMC',
    'drop': 'left out of mAP and CMC',
}
TOP_KS = (1, 2, 5, 10, 20)
FALSE_POSITIVE_RATES = (1e-2, 1e-3, 1e-4)

# A false positive rate made of fewer pairs is uncertain by a third or more.
FEW_PAIRS = 10


def build_parser():
    """Return the argument parser."""
    parser = common.new_parser(__doc__)
    flags.add_flags(parser)
    data = parser.add_argument_group('data')
    datasets.add_header_flag(data)
    add_single_shot_flags(flags.add_protocol_flags(parser))
    flags.add_rerank_flags(parser)
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
        '--thresholds',
        action='store_true',
        help='Also answer "same identity or not?" for every pair that the excluder '
        'leaves: ROC, equal error rate, and the distances to accept below.',
    )
    output.add_argument(
        '--filename',
        type=common.path,
        metavar='JSON',
        help='File to write all scores to; without it they are only printed.',
    )
    common.add_quiet(output)
    return parser


def add_single_shot_flags(group):
    """Add the flags of random galleries to an argument group."""
    group.add_argument(
        '--single_shot',
        type=common.positive_int,
        metavar='N',
        help='Also give mean and standard deviation of the CMC in N random galleries '
        'with one image per PID; CUHK03 classically has 100.',
    )
    group.add_argument(
        '--seed',
        type=common.non_negative_int,
        default=0,
        help='Of the random galleries.',
    )


def parse_args(argv):
    """Return the checked flags."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.quiet and args.filename is None:
        parser.error('--quiet without --filename tells nothing; give it a file')
    return args


def main(argv=None):
    args = parse_args(argv)
    if args.filename is not None:
        common.check_file_name(args.filename)
    query, gallery, task, notes, origin = flags.load(args, streams_gallery=True)
    for note in notes:
        print(note, file=sys.stderr)
    ranks = ranking.rank(*task)
    report_unmatched(ranks, query.fids, args.no_match)
    scores = compute_scores(
        ranks, query.fids, len(gallery.fids), args.use_market_ap, args.no_match
    )
    lines = [format_summary(scores['mAP'], scores['CMC']), format_details(scores)]
    if args.single_shot is not None:
        cmcs = single_shot.single_shot_cmcs(
            *task, args.single_shot, args.seed, args.no_match == 'drop'
        )
        lines.append(format_single_shot(cmcs))
        scores['single_shot'] = {
            'CMC_mean': cmcs.mean(axis=0).tolist(),
            'CMC_std': cmcs.std(axis=0).tolist(),
        }
    if args.thresholds:
        of_pairs = compute_thresholds(*thresholds.count_pairs(*task))
        lines += format_thresholds(of_pairs)
        scores |= of_pairs
    # Whatever becomes of the terminal, the file is there.
    if args.filename is not None:
        provenance = {'args': vars(args), 'versions': collect_versions()}
        provenance['embeddings'] = origin._asdict()
        common.write_json(args.filename, scores | provenance)
    if not args.quiet:
        print('\n'.join(lines))


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


def format_single_shot(cmcs):
    """Return the line of --single_shot, from the CMCs [galleries, PIDs]."""
    means, stds = cmcs.mean(axis=0), cmcs.std(axis=0)
    groups = [f'single-shot, {len(cmcs)} galleries of {len(means)} PIDs']
    groups += [
        f'top-{k}: {means[k - 1]:.2%} ± {stds[k - 1]:.2%}'
        for k in (1, 5, 10, 20)
        if k <= len(means)
    ]
    return ' | '.join(groups)


def compute_thresholds(same, different):
    """Return what --thresholds adds to the JSON file.

    Args:
        same, different: histograms of thresholds.count_pairs.
    """
    roc = thresholds.compute_roc(same, different)
    equal_error_rate, threshold = thresholds.equal_error(roc)
    chosen = {'equal error rate': threshold} | {
        f'FPR at most {rate:g}': thresholds.at_false_positive_rate(roc, rate)
        for rate in FALSE_POSITIVE_RATES
    }
    edges, even_same, even_different = thresholds.to_even_bins(same, different)
    return {
        'num_same_pairs': roc.num_same,
        'num_different_pairs': roc.num_different,
        'roc_auc': thresholds.area_under(roc),
        'equal_error_rate': equal_error_rate,
        'thresholds': [
            {'rule': rule} | thresholds.describe_threshold(roc, distance)
            for rule, distance in chosen.items()
        ],
        'roc': {
            'fpr': roc.fpr.tolist(),
            'tpr': roc.tpr.tolist(),
            'threshold': roc.thresholds.tolist(),
        },
        'distance_histogram': {
            'edges': edges.tolist(),
            'same': even_same.tolist(),
            'different': even_different.tolist(),
        },
    }


def format_thresholds(of_pairs):
    """Return the lines that --thresholds prints."""
    lines = [
        f'pairs: {of_pairs["num_same_pairs"]} same, '
        f'{of_pairs["num_different_pairs"]} different | '
        f'ROC AUC: {of_pairs["roc_auc"]:.2%} | '
        f'equal error rate: {of_pairs["equal_error_rate"]:.2%}',
        f'{"accept up to":>12}  {"TPR":>7}  {"FPR":>8}  {"same accepted":>13}  '
        f'{"different accepted":>18}  rule',
    ]
    for row in of_pairs['thresholds']:
        distance = f'{row["threshold"]:.6g}' if row['threshold'] >= 0 else 'nothing'
        few = ' (few pairs)' if row['num_different_accepted'] < FEW_PAIRS else ''
        lines.append(
            f'{distance:>12}  {row["tpr"]:7.2%}  {row["fpr"]:8.4%}  '
            f'{row["num_same_accepted"]:13}  {row["num_different_accepted"]:18}  '
            f'{row["rule"]}{few}'
        )
    return lines


def collect_versions():
    """Return {what computed the scores: its version}."""
    libraries = {name: importlib.metadata.version(name) for name in ('numpy', 'scipy')}
    return {'python': platform.python_version(), **libraries}


if __name__ == '__main__':
    common.run(main)
