"""Compares two runs by a metric that each question has."""

from __future__ import annotations

import math

from runner_compare.metrics import BetterDirection
from runner_compare.model.data import NotPaired, Run, TooFewPairs
from runner_compare.model.mean_pairs import find_cluster_field, get_pair_clusters
from runner_compare.model.repeated_answers import RepeatedAnswerMetric
from runner_compare.reader import Reader
from runner_compare.statistics import MIN_TEXTS, MetricFlipTest, RunComparison
from runner_compare.statistics.ratios import sum_by_cluster
from runner_compare.ways import PairingOptions


def can_compare_run(run: Run) -> bool:
    return bool(run.number)


def compare_with_baseline(
    run: Run, base: Run, reader: Reader, _pairing: PairingOptions
) -> list[RunComparison]:
    return [RunComparison(create_metric_test(run, base, reader))]


def create_metric_test(run: Run, base: Run, reader: Reader) -> MetricFlipTest:
    answers, base_answers = reader.load_metric_values(run), reader.load_metric_values(base)
    if answers.keys() != base_answers.keys():
        shared = len(answers.keys() & base_answers.keys())
        raise NotPaired(
            f"the questions differ: {len(answers)} in this run, {len(base_answers)} in the baseline, "
            f"{shared} in both"
        )
    pairs = [(answers[question], base_answers[question]) for question in sorted(answers)]
    values = [(answer.number, base_answer.number) for answer, base_answer in pairs]
    if any(None in value for value in values):
        raise NotPaired(f"some questions have no {run.number}")
    differences = [(number or 0.0) - (base_number or 0.0) for number, base_number in values]
    sizes, what, field = [1.0] * len(pairs), "questions", find_cluster_field(run, base, pairs)
    clusters = get_pair_clusters(
        [(answer.cluster, base_answer.cluster) for answer, base_answer in pairs], field
    )
    if clusters is not None:
        what = f"clusters by {field}"
        differences, sizes = sum_by_cluster(differences, clusters)
    if len(sizes) < MIN_TEXTS:
        shift = math.fsum(differences) / math.fsum(sizes)
        signed = f"{shift:+.4g}".replace("-", "−")
        raise TooFewPairs(
            f"the test needs at least {MIN_TEXTS} {what}, but the runs share only {len(sizes)} "
            f"(difference: {signed} {run.number})"
        )
    sides = [[value[side] or 0.0 for value in values] for side in (0, 1)]
    grouping = "" if clusters is None else f", in {len(sizes):,} {what}"
    return MetricFlipTest(
        run.number or "", differences, sizes, get_better_direction(run), sides[0], sides[1], grouping
    )


def get_better_direction(run: Run) -> BetterDirection:
    if RepeatedAnswerMetric.from_name(run.number or "") is not None:
        return BetterDirection.higher
    return BetterDirection(int(run.facts["better"])) if "better" in run.facts else BetterDirection.neither
