"""Compares a number that each question has."""

from __future__ import annotations

import math

from runner_compare.metrics import Better
from runner_compare.model.answer_votes import Chance
from runner_compare.model.data import NotPaired, Run, TooFew
from runner_compare.model.mean_pairs import cluster_field, clusters_of
from runner_compare.reader import Reader
from runner_compare.statistics import MIN_TEXTS, Compared, NumberFlips
from runner_compare.statistics.ratios import cluster_sums
from runner_compare.ways import Asked


def fits(run: Run) -> bool:
    """Whether a number of each question was chosen."""
    return bool(run.number)


def compare(run: Run, base: Run, reader: Reader, _asked: Asked) -> list[Compared]:
    """Compare two runs by the number of each question."""
    return [Compared(compare_numbers(run, base, reader))]


def compare_numbers(run: Run, base: Run, reader: Reader) -> NumberFlips:
    """Compare two runs by the number of each question."""
    answers, base_answers = reader.numbers(run), reader.numbers(base)
    if answers.keys() != base_answers.keys():
        shared = len(answers.keys() & base_answers.keys())
        raise NotPaired(
            f"different questions: {len(answers)} here, {len(base_answers)} in the baseline, {shared} are the same"
        )
    pairs = [(answers[question], base_answers[question]) for question in sorted(answers)]
    values = [(answer.number, base_answer.number) for answer, base_answer in pairs]
    if any(None in value for value in values):
        raise NotPaired(f"some questions have no {run.number}")
    differences = [(number or 0.0) - (base_number or 0.0) for number, base_number in values]
    sizes, what, field = [1.0] * len(pairs), "questions", cluster_field(run, base, pairs)
    clusters = clusters_of([(answer.cluster, base_answer.cluster) for answer, base_answer in pairs], field)
    if clusters is not None:
        what = f"families by {field}"
        differences, sizes = cluster_sums(differences, clusters)
    if len(sizes) < MIN_TEXTS:
        shift = math.fsum(differences) / math.fsum(sizes)
        signed = f"{shift:+.4g}".replace("-", "−")
        raise TooFew(f"too few {what} to test: {len(sizes)}, at least {MIN_TEXTS} (Δ {signed} {run.number})")
    sides = [[value[side] or 0.0 for value in values] for side in (0, 1)]
    grouping = "" if clusters is None else f", in {len(sizes):,} {what}"
    return NumberFlips(run.number or "", differences, sizes, better_of(run), sides[0], sides[1], grouping)


def better_of(run: Run) -> Better:
    """Return which direction of a run's number is better."""
    if Chance.named(run.number or "") is not None:
        return Better.higher
    return Better(int(run.facts["better"])) if "better" in run.facts else Better.neither
