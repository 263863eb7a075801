"""Compares two runs on subsets of their answers, such as the answers for each context length or category."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from runner_compare.model.data import NotPaired, Run, Table
from runner_compare.model.outcomes import Answers, QuestionOutcome
from runner_compare.reader import Reader
from runner_compare.statistics import Decision, RunComparison, decide_comparisons_with_holm
from runner_compare.ways import PairingOptions
from runner_compare.ways.verdicts import compare_answers

Subset = TypeVar("Subset", bound=Hashable)


def load_row_answers(
    table: Table, reader: Reader, should_include: Callable[[QuestionOutcome], bool]
) -> dict[str, Answers]:
    """Return the answers of each table row by run id. `should_include` selects the questions.

    Rows without samples are skipped.
    """
    answers: dict[str, Answers] = {}
    for row in table.rows:
        try:
            own = reader.load_answers(row.run)
        except NotPaired:
            continue
        answers[row.run.run_id] = {
            question: outcome for question, outcome in own.items() if should_include(outcome)
        }
    return answers


def pair_rows_with_baselines(table: Table, answers: Mapping[str, Answers]) -> list[tuple[Run, Run]]:
    return [
        (row.run, row.baseline.run)
        for row in table.candidate_rows
        if row.run.run_id in answers and row.baseline is not None and row.baseline.run.run_id in answers
    ]


def compare_runs_per_question_subset(
    run: Run, base: Run, answers: Mapping[Subset, tuple[Answers, Answers]], reader: Reader
) -> dict[Subset, RunComparison]:
    compared: dict[Subset, RunComparison] = {}
    for part, sides in answers.items():
        try:
            compared[part] = compare_answers(run, base, sides, reader, PairingOptions())
        except NotPaired:
            continue  # other questions, prompts or rules: the note of the row says so
    return compared


def decide_comparisons_of_all_subsets(
    comparisons: Mapping[str, Mapping[Subset, RunComparison]],
) -> dict[str, dict[Subset, Decision]]:
    """Decide the comparisons of all subsets together, with one family-wise error rate."""
    places = [(run_id, part) for run_id, own in comparisons.items() for part in own]
    decided: dict[str, dict[Subset, Decision]] = {}
    decisions = decide_comparisons_with_holm([comparisons[run_id][part] for run_id, part in places])
    for (run_id, part), decision in zip(places, decisions, strict=True):
        decided.setdefault(run_id, {})[part] = decision
    return decided
