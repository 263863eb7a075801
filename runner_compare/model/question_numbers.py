"""Compares a number that each question has: F1, BLEU, a Brier score, the length of an answer, the
tokens it took."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from runner_base import ConfigError, unknown
from runner_compare.model.answer_votes import Chance
from runner_compare.model.data import Run
from runner_compare.reader import Reader
from runner_compare.readers.tool_run import as_number


def with_number(runs: list[Run], name: str, reader: Reader) -> list[Run]:
    """Return the runs that have verdicts, to be compared by this number of each question."""
    chance = Chance.named(name)
    if chance is None and name not in reader.numbers_of_questions:
        known = [*reader.numbers_of_questions, "pass@4", "maj@4", "pass^4"]
        raise ConfigError(
            unknown("number of a question", name, known), key="--metric", value=name, code="unknown_choice"
        )
    scored = [run for run in runs if run.score]
    if not scored:
        raise ConfigError(
            "none of these runs has answers to questions", key="--metric", value=name, code="empty"
        )
    if chance is not None:
        scored = _with_answers(scored, chance, name)
    reader.fetch(scored)
    numbered = []
    for run_of_verdicts in scored:
        better = {} if chance is not None else {"better": str(reader.numbers_of_questions[name].value)}
        run = replace(
            run_of_verdicts,
            task=f"{run_of_verdicts.task}:{name}",
            number=name,
            facts=run_of_verdicts.facts | better,
        )
        values = (answer.number for answer in reader.numbers(run).values())
        numbered.append(replace(run, metrics=mean_of(name, values)))
    return numbered


def _with_answers(runs: list[Run], chance: Chance, name: str) -> list[Run]:
    """Return the runs that have so many answers to each question; ConfigError if none has."""
    enough = [run for run in runs if run.answers_each >= chance.k]
    if not enough:
        most = max(runs, key=lambda run: run.answers_each)
        asked = f"{chance.k} answers to each question: {most.job_id} has {most.answers_each}"
        raise ConfigError(f"none of these runs has {asked}", key="--metric", value=name, code="missing")
    return enough


def mean_of(name: str, values: Iterable[float | None]) -> dict[str, float]:
    """Return the metrics of a run that is compared by a number: how many questions have it, and its
    mean."""
    known = [value for value in values if value is not None]
    return {"n": float(len(known))} | ({name: math.fsum(known) / len(known)} if known else {})


def number_of(value: Any) -> float | None:
    """Return what lm-eval has written for a document as a number; None if it is none.

    A Brier score is written as the gold choice and the probabilities of all: each document has a
    score of its own.
    """
    if (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], int)
        and isinstance(value[1], list)
    ):
        gold, shares = value[0], [as_number(share) for share in value[1]]
        known = [share for share in shares if share is not None]
        if 0 <= gold < len(shares) == len(known):
            return as_number(math.fsum((share - (at == gold)) ** 2 for at, share in enumerate(known)))
    return as_number(value)
