"""Compares runs by a metric per question, such as F1, BLEU, Brier score, answer length or tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from runner_base import ConfigError, format_unknown_choice_message
from runner_compare.model.data import Run
from runner_compare.model.repeated_answers import RepeatedAnswerMetric
from runner_compare.reader import Reader
from runner_compare.readers.tool_run import to_finite_number

DEGENERATE = "degenerate"  # a metric of all runs that generated answers, also without verdicts


def select_runs_with_metric(runs: list[Run], metric: str, reader: Reader) -> list[Run]:
    """Return copies of the runs that generated answers, with `metric` in place of accuracy."""
    chance = RepeatedAnswerMetric.from_name(metric)
    if chance is None and metric not in reader.numbers_of_questions:
        known = [*reader.numbers_of_questions, "pass@4", "maj@4", "pass^4"]
        raise ConfigError(
            format_unknown_choice_message("number of a question", metric, known),
            key="--metric",
            value=metric,
            code="unknown_choice",
        )
    scored = [run for run in runs if run.correct_and_total or DEGENERATE in run.metrics]
    if not scored:
        raise ConfigError(
            "none of the selected runs has answered questions", key="--metric", value=metric, code="empty"
        )
    if chance is not None:
        scored = _select_runs_with_k_answers(scored, chance, metric)
    reader.fetch_files(scored)
    numbered = []
    for run_of_verdicts in scored:
        better = {} if chance is not None else {"better": str(reader.numbers_of_questions[metric].value)}
        run = replace(
            run_of_verdicts,
            task=f"{run_of_verdicts.task}:{metric}",
            number=metric,
            facts=run_of_verdicts.facts | better,
        )
        values = (answer.number for answer in reader.load_metric_values(run).values())
        numbered.append(replace(run, metrics=compute_mean_metric(metric, values)))
    return numbered


def _select_runs_with_k_answers(
    runs: list[Run], answer_metric: RepeatedAnswerMetric, metric: str
) -> list[Run]:
    """Return the runs with at least k answers per question. Raises ConfigError if no run has so many."""
    enough = [run for run in runs if run.max_answers_per_question >= answer_metric.k]
    if not enough:
        most = max(runs, key=lambda run: run.max_answers_per_question)
        asked = f"{answer_metric.k} answers per question ({most.job_id}: {most.max_answers_per_question})"
        raise ConfigError(f"no selected run has {asked}", key="--metric", value=metric, code="missing")
    return enough


def compute_mean_metric(metric: str, values: Iterable[float | None]) -> dict[str, float]:
    """Return the mean of a metric over all questions, and the number of questions that have a value."""
    known = [value for value in values if value is not None]
    return {"n": float(len(known))} | ({metric: math.fsum(known) / len(known)} if known else {})


def parse_lm_eval_metric_value(value: Any) -> float | None:
    """Convert the metric value of an lm-eval document to a number, or None.

    A Brier score is stored as the gold choice and all probabilities, from which each document's
    score is computed.
    """
    if (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], int)
        and isinstance(value[1], list)
    ):
        gold, shares = value[0], [to_finite_number(share) for share in value[1]]
        known = [share for share in shares if share is not None]
        if 0 <= gold < len(shares) == len(known):
            return to_finite_number(math.fsum((share - (at == gold)) ** 2 for at, share in enumerate(known)))
    return to_finite_number(value)
