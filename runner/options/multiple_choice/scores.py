"""Accuracies of task=multiple_choice by each metric and by subject, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from runner.options.multiple_choice.extraction import LetterRule
from runner.options.multiple_choice.judging import RULE
from runner.options.multiple_choice.keys import ChoiceMetric
from runner.options.multiple_choice.questions import ChoiceQuestion
from runner_base import Sample
from runner_base.scored_choices import compute_gold_probability, select_choice
from runner_compare.statistics import accuracy_interval


def compute_choice_metrics(
    samples: Sequence[Sample], questions: Mapping[int, ChoiceQuestion]
) -> dict[str, float]:
    """Return the accuracy of a random choice, and of likelihoods by each metric. Errors count as wrong."""
    metrics = {"chance": fmean(questions[sample.index].chance for sample in samples)}
    if any(sample.choice_likelihoods for sample in samples):
        clusters = [sample.cluster for sample in samples]
        scored = [sample.choice_likelihoods or [] for sample in samples]
        for metric in ChoiceMetric:
            right = [
                float(bool(each) and not each[select_choice(each, metric.value)].is_other) for each in scored
            ]
            metrics |= _compute_share(metric.value, right, clusters)
        masses = [compute_gold_probability(each) if each else 0.0 for each in scored]
        metrics |= _compute_share("gold_probability", masses, clusters)
    return metrics


def count_letter_rules(samples: Sequence[Sample]) -> dict[str, float]:
    rules = [(sample.answer.extracted or {}).get(RULE) for sample in samples if not sample.failed]
    return {f"letters/{rule.value}": float(rules.count(rule.value)) for rule in LetterRule}


def build_accuracy_rows_by_subject(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return the accuracy of each subject with its interval, lowest first. Empty for a single subject."""
    by_subject: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.category is not None:
            by_subject.setdefault(sample.category, []).append(sample)
    if len(by_subject) < 2:
        return []
    rows = [_build_subject_accuracy_row(subject, some) for subject, some in by_subject.items()]
    return sorted(rows, key=lambda row: (row["accuracy_percent"], row["subject"]))


def _build_subject_accuracy_row(subject: str, samples: Sequence[Sample]) -> dict[str, Any]:
    right = [float(sample.solved) for sample in samples]
    low, high = accuracy_interval(right, [None] * len(right))
    return {
        "subject": subject,
        "n": len(samples),
        **{
            f"{name}_percent": round(100 * value, 1)
            for name, value in (("accuracy", fmean(right)), ("low", low), ("high", high))
        },
    }


def _compute_share(name: str, values: Sequence[float], clusters: Sequence[str | None]) -> dict[str, float]:
    low, high = accuracy_interval(values, clusters)
    return {name: fmean(values), f"{name}_low": low, f"{name}_high": high}
