"""Compares a number that each question has: F1, BLEU, a Brier score, the length of an answer, the tokens it took."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from runner_base import ConfigError, unknown
from runner_compare.answer_votes import Chance
from runner_compare.data import NotPaired, Run, TooFew
from runner_compare.mean_pairs import cluster_field, clusters_of
from runner_compare.metrics import Better
from runner_compare.reader import Reader
from runner_compare.readers.tool_run import as_number
from runner_compare.statistics.effects import Effect
from runner_compare.statistics.number_effects import paired_numbers
from runner_compare.statistics.ratios import MIN_TEXTS, cluster_sums


def with_number(runs: list[Run], name: str, reader: Reader) -> list[Run]:
    """Return the runs that have verdicts, to be compared by this number of each question."""
    chance = Chance.named(name)
    if chance is None and name not in reader.numbers_of_questions:
        known = [*reader.numbers_of_questions, "pass@4", "maj@4", "pass^4"]
        raise ConfigError(f"--metric {name}: {unknown('number of a question', name, known)}")
    scored = [run for run in runs if run.score]
    if not scored:
        raise ConfigError(f"--metric {name}: none of these runs has answers to questions")
    if chance is not None:
        scored = _with_answers(scored, chance, name)
    reader.fetch(scored)
    numbered = []
    for one in scored:
        better = {} if chance is not None else {"better": str(reader.numbers_of_questions[name].value)}
        run = replace(one, task=f"{one.task}:{name}", number=name, facts=one.facts | better)
        values = (it.number for it in reader.numbers(run).values())
        numbered.append(replace(run, metrics=mean_of(name, values)))
    return numbered


def _with_answers(runs: list[Run], chance: Chance, name: str) -> list[Run]:
    """Return the runs that have so many answers to each question; ConfigError if none has."""
    enough = [run for run in runs if run.answers_each >= chance.k]
    if not enough:
        most = max(runs, key=lambda run: run.answers_each)
        asked = f"{chance.k} answers to each question: {most.job_id} has {most.answers_each}"
        raise ConfigError(f"--metric {name}: none of these runs has {asked}")
    return enough


def mean_of(name: str, values: Iterable[float | None]) -> dict[str, float]:
    """Return the metrics of a run that is compared by a number: how many questions have it, and its mean."""
    known = [it for it in values if it is not None]
    return {"n": float(len(known))} | ({name: math.fsum(known) / len(known)} if known else {})


def number_of(value: Any) -> float | None:
    """Return what lm-eval has written for a document as a number; None if it is none.

    A Brier score is written as the gold choice and the probabilities of all: each document has a score of its own.
    """
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], int) and isinstance(value[1], list):
        gold, shares = value[0], [as_number(share) for share in value[1]]
        known = [share for share in shares if share is not None]
        if 0 <= gold < len(shares) == len(known):
            return as_number(math.fsum((share - (at == gold)) ** 2 for at, share in enumerate(known)))
    return as_number(value)


def compare_numbers(run: Run, base: Run, reader: Reader) -> Effect:
    """Compare two runs by the number of each question."""
    ours, theirs = reader.numbers(run), reader.numbers(base)
    if ours.keys() != theirs.keys():
        shared = len(ours.keys() & theirs.keys())
        raise NotPaired(f"different questions: {len(ours)} here, {len(theirs)} in the baseline, {shared} are the same")
    pairs = [(ours[question], theirs[question]) for question in sorted(ours)]
    values = [(one.number, other.number) for one, other in pairs]
    if any(None in it for it in values):
        raise NotPaired(f"some questions have no {run.number}")
    differences = [(one or 0.0) - (other or 0.0) for one, other in values]
    sizes, what, field = [1.0] * len(pairs), "questions", cluster_field(run, base)
    clusters = clusters_of([(one.cluster, other.cluster) for one, other in pairs], field)
    if clusters is not None:
        what = f"families by {field}"
        differences, sizes = cluster_sums(differences, clusters)
    if len(sizes) < MIN_TEXTS:
        shift = math.fsum(differences) / math.fsum(sizes)
        signed = f"{shift:+.4g}".replace("-", "−")
        raise TooFew(f"too few {what} to test: {len(sizes)}, at least {MIN_TEXTS} (Δ {signed} {run.number})")
    sides = ([it[side] or 0.0 for it in values] for side in (0, 1))
    effect = paired_numbers(run.number or "", differences, sizes, better_of(run), *sides)
    if clusters is not None:
        effect.counts["grouping"] = f", in {len(sizes):,} {what}"
    return effect


def better_of(run: Run) -> Better:
    """Return which direction of a run's number is better."""
    if Chance.named(run.number or "") is not None:
        return Better.higher
    return Better(int(run.facts["better"])) if "better" in run.facts else Better.neither
