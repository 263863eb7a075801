"""Comparisons of two rows in parts of their answers, such as lengths and categories."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from runner_compare.model.data import NotPaired, Run, Table
from runner_compare.model.outcomes import Answers, QuestionOutcome
from runner_compare.reader import Reader
from runner_compare.statistics import Compared, Decision, judge
from runner_compare.ways import Asked
from runner_compare.ways.verdicts import compare_answers

Part = TypeVar("Part", bound=Hashable)


def answers_of_rows(
    table: Table, reader: Reader, counts: Callable[[QuestionOutcome], bool]
) -> dict[str, Answers]:
    """Return the answers that count of each row whose samples are there, by run id."""
    answers: dict[str, Answers] = {}
    for row in table.rows:
        try:
            own = reader.of(row.run)
        except NotPaired:
            continue
        answers[row.run.run_id] = {question: outcome for question, outcome in own.items() if counts(outcome)}
    return answers


def pairs_of_rows(table: Table, answers: Mapping[str, Answers]) -> list[tuple[Run, Run]]:
    """Return the rows whose answers and whose baseline's are there, each with its baseline."""
    return [
        (row.run, row.baseline.run)
        for row in table.settings
        if row.run.run_id in answers and row.baseline is not None and row.baseline.run.run_id in answers
    ]


def compare_parts(
    run: Run, base: Run, answers: Mapping[Part, tuple[Answers, Answers]], reader: Reader
) -> dict[Part, Compared]:
    """Compare two rows in each part of their answers."""
    compared: dict[Part, Compared] = {}
    for part, sides in answers.items():
        try:
            compared[part] = compare_answers(run, base, sides, reader, Asked())
        except NotPaired:
            continue  # other questions, prompts or rules: the note of the row says so
    return compared


def judge_parts(compared: Mapping[str, Mapping[Part, Compared]]) -> dict[str, dict[Part, Decision]]:
    """Decide about all comparisons, with one error; rows without any are left out."""
    places = [(run_id, part) for run_id, own in compared.items() for part in own]
    decided: dict[str, dict[Part, Decision]] = {}
    decisions = judge([compared[run_id][part] for run_id, part in places])
    for (run_id, part), decision in zip(places, decisions, strict=True):
        decided.setdefault(run_id, {})[part] = decision
    return decided
