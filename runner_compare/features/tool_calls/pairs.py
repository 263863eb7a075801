"""Compares the tool calls of two runs at each step, or of one run at two context lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, field
from functools import partial

from runner_base.tool_outcomes import STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.features.tool_calls.compute import Cell, ToolFindings
from runner_compare.model.compared_parts import (
    compare_runs_per_question_subset,
    decide_comparisons_of_all_subsets,
    load_row_answers,
    pair_rows_with_baselines,
)
from runner_compare.model.data import Run, Table, TableRow, TooFewPairs
from runner_compare.model.error_families import ErrorFamily, list_row_error_families
from runner_compare.model.mean_pairs import (
    TOOL_ACCURACY,
    cluster_questions_by_expected_function,
    create_mean_difference_test,
    find_cluster_field,
    needs_mean_test,
)
from runner_compare.model.outcomes import Answers, Question, QuestionOutcome
from runner_compare.reader import Reader
from runner_compare.statistics import Decision, RunComparison
from runner_compare.ways.verdicts import create_mcnemar_test, run_test_with_truncation_bounds

EVERY_STEP = STEPS | {WITHOUT_NEED: frozenset({ToolOutcome.nothing_called})}
OF_NO_NEED = frozenset({ToolOutcome.nothing_called, ToolOutcome.called_without_need})


def split_answers_by_tool_call_step(
    answers: Answers, baseline_answers: Answers
) -> dict[str, tuple[Answers, Answers]]:
    """Return the answers of a run and its baseline for each step of the check of a tool call.

    An answer counts as solved if it passes the step. Only the questions to which a step applies
    count.
    """
    without_need = {
        outcome.tools.category
        for side in (answers, baseline_answers)
        for outcome in side.values()
        if outcome.tools is not None and outcome.tools.outcome in OF_NO_NEED
    }
    found: dict[str, tuple[Answers, Answers]] = {}
    for step in EVERY_STEP:
        own_part, base_part = (
            {
                question: mark_solved_if_step_passed(outcome, step)
                for question, outcome in side.items()
                if outcome.tools is not None
                and (outcome.tools.category in without_need) == (step == WITHOUT_NEED)
            }
            for side in (answers, baseline_answers)
        )
        if own_part and base_part:
            found[step] = own_part, base_part
    return found


def mark_solved_if_step_passed(outcome: QuestionOutcome, step: str) -> QuestionOutcome:
    assert outcome.tools is not None
    return outcome._replace(solved=outcome.tools.outcome in EVERY_STEP[step], right=(0, 0))


def compare_tool_calls_by_context_length(run: Run, answers: Answers) -> dict[int, RunComparison]:
    """Compare a run's answers at each context length with its answers at the shortest length.

    Both sides answered the same questions.
    """
    by_length: dict[int, dict[Question, QuestionOutcome]] = {}
    for question, outcome in _iter_answers_ignoring_context_length(answers):
        if outcome.tools is not None:
            by_length.setdefault(outcome.tools.length, {})[question] = outcome
    shortest, *longer = sorted(by_length) or [0]
    compared: dict[int, RunComparison] = {}
    for length in longer:
        own, base = by_length[length], by_length[shortest]
        shared = [question for question in own if question in base]
        pairs = cluster_questions_by_expected_function(
            shared, [(own[question], base[question]) for question in shared]
        )
        by_means = partial(create_mean_difference_test, cluster_field_name=find_cluster_field(run, run))
        if pairs:
            try:
                compared[length] = run_test_with_truncation_bounds(
                    by_means if needs_mean_test(pairs) else create_mcnemar_test, pairs
                )
            except TooFewPairs:
                continue  # families: nothing is said
    return compared


def _iter_answers_ignoring_context_length(answers: Answers) -> Iterator[tuple[Question, QuestionOutcome]]:
    """Yield each answer with a question key that is independent of the context length.

    Repeated questions at one length get consecutive numbers.
    """
    counts: dict[tuple[int, str, str], int] = {}
    for (_, question, gold), outcome in answers.items():
        length = outcome.tools.length if outcome.tools else 0
        number = counts.get((length, question, gold), 0)
        counts[length, question, gold] = number + 1
        yield (number, question, gold), outcome


@dataclass
class TableToolCalls:
    """Tool-calling results of a table by run id, with all comparisons."""

    findings: dict[str, ToolFindings] = field(default_factory=dict)
    compared: dict[str, dict[Cell, Decision]] = field(default_factory=dict)
    steps: dict[str, dict[str, Decision]] = field(default_factory=dict)  # against the baseline
    lengths: dict[str, dict[int, Decision]] = field(default_factory=dict)  # against the shortest


def compare_tool_calls_with_baselines(table: Table, reader: Reader) -> None:
    kept = table.get_section_data(TableToolCalls)
    if not table.has_accuracies or not any(TOOL_ACCURACY in row.run.metrics for row in table.rows):
        return
    answers = load_row_answers(table, reader, lambda outcome: outcome.tools is not None)
    for run_id, own in answers.items():
        if own:
            kept.findings[run_id] = ToolFindings(tuple(own.values()))
    of_cells, of_steps = dict[str, dict[Cell, RunComparison]](), dict[str, dict[str, RunComparison]]()
    for run, base in pair_rows_with_baselines(table, answers):
        own, other = answers[run.run_id], answers[base.run_id]
        cells, other_cells = (
            _group_answers_by_category_and_length(own),
            _group_answers_by_category_and_length(other),
        )
        shared = {cell: (cells[cell], other_cells[cell]) for cell in cells if cell in other_cells}
        of_cells[run.run_id] = compare_runs_per_question_subset(run, base, shared, reader)
        of_steps[run.run_id] = compare_runs_per_question_subset(
            run, base, split_answers_by_tool_call_step(own, other), reader
        )
    kept.compared, kept.steps = (
        decide_comparisons_of_all_subsets(of_cells),
        decide_comparisons_of_all_subsets(of_steps),
    )
    kept.lengths = decide_comparisons_of_all_subsets(
        {
            row.run.run_id: compare_tool_calls_by_context_length(row.run, answers[row.run.run_id])
            for row in list_tool_rows(table)
        }
    )


def list_tool_call_error_families(table: Table) -> list[ErrorFamily]:
    kept = table.get_section_data(TableToolCalls)
    if not kept.findings:
        return []
    groups: dict[str, Mapping[str, Sized]] = {
        "categories and lengths": kept.compared,
        "steps": kept.steps,
        "longer contexts": kept.lengths,
    }
    counts = {what: sum(map(len, of_rows.values())) for what, of_rows in groups.items()}
    shared = [ErrorFamily(what, count) for what, count in counts.items() if count]
    return [*list_row_error_families(table), *shared]


def _group_answers_by_category_and_length(answers: Answers) -> dict[Cell, Answers]:
    """Group answers by category and context length. Each question occurs once per group."""
    by_cell: dict[Cell, Answers] = {}
    for question, outcome in answers.items():
        if outcome.tools is not None:
            cell = outcome.tools.category, outcome.tools.length
            by_cell.setdefault(cell, {})[question] = outcome
    return by_cell


def list_tool_rows(table: Table) -> list[TableRow]:
    findings = table.get_section_data(TableToolCalls).findings
    return [row for row in table.rows if row.run.run_id in findings]
