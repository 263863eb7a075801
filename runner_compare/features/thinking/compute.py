"""Compares the numbers of thinking tokens of runs, and computes each run's cost per correct answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from runner_compare.features.right_answers.intervals import estimate_costs_per_correct_answer
from runner_compare.model.data import NotPaired, Run, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.statistics import Decision, Test, create_undecided_decision, decide_comparisons_with_holm
from runner_compare.statistics.answer_times import estimate_answer_times
from runner_compare.statistics.token_costs import Estimate
from runner_compare.ways.numbers import create_metric_test

TOKENS = "thinking_tokens"  # the number of a question
THINKING = "thinking_tokens_per_answer"  # a metric that only jobs have whose model thought
BUDGET = "generation.thinking_tokens"


@dataclass
class TableThinking:
    """Comparisons of thinking tokens and costs per correct answer, by run id."""

    # how many tokens more than its baseline a row thinks
    effects: dict[str, Decision] = field(default_factory=dict)
    # what a right answer costs, with wrong ones, by cost
    right_answers: dict[str, dict[str, Estimate]] = field(default_factory=dict)


def should_show_thinking(table: Table) -> bool:
    """Return True if any run generated thinking tokens, or if the thinking budgets of runs differ."""
    return table.has_accuracies and (
        BUDGET in table.keys or any(THINKING in row.run.metrics for row in table.rows)
    )


def compare_thinking_tokens(table: Table, reader: Reader) -> None:
    """Compare the number of thinking tokens of each run with its baseline's on the same questions."""
    kept = table.get_section_data(TableThinking)
    for row in table.rows if should_show_thinking(table) else ():
        kept.right_answers[row.run.run_id] = estimate_costs_per_correct_answer(
            row.run, reader, compute_usage_costs_per_correct_answer(row.run)
        )
    tests = [
        (row, test)
        for row in table.rows
        if (test := _create_thinking_token_count_test(row, reader)) is not None
    ]
    decisions = iter(decide_comparisons_with_holm([test for row, test in tests if not row.is_repeat]))
    for row, test in tests:
        kept.effects[row.run.run_id] = create_undecided_decision(test) if row.is_repeat else next(decisions)


def list_rows_with_thinking_comparison(table: Table) -> list[tuple[TableRow, Decision]]:
    """Return the rows whose thinking tokens were compared with a baseline, except repeats of the baseline."""
    effects = table.get_section_data(TableThinking).effects
    return [
        (row, effects[row.run.run_id])
        for row in table.rows
        if row.run.run_id in effects and not row.is_repeat
    ]


def _create_thinking_token_count_test(row: TableRow, reader: Reader) -> Test | None:
    """Create a test of a run's thinking tokens against the baseline's; None if they are not comparable."""
    if row.baseline is None or row.effect is None or _thinking_budget(row) != _thinking_budget(row.baseline):
        return None  # of unlike budgets one knows who thinks longer
    run, base = (replace(side, number=TOKENS) for side in (row.run, row.baseline.run))
    if run.over_seeds or base.over_seeds or (THINKING not in run.metrics and THINKING not in base.metrics):
        return None
    try:
        test = create_metric_test(run, base, reader)
    except NotPaired:
        return None  # few questions, or nobody counted the tokens: the rows have their means, and no test
    counts = test.effect.counts
    return test if counts["mean"] or counts["baseline_mean"] else None


def _thinking_budget(row: TableRow) -> str:
    return row.run.get_value(BUDGET) or "null"  # which jobs of before the key lack


def compute_mean_tokens_per_question(run: Run) -> float | None:
    """Return the mean number of tokens per question, including prompt, thinking and answer."""
    n = run.metrics.get("n_all", run.metrics.get("n"))
    tokens = [run.metrics.get(key) for key in ("prompt_tokens", "new_tokens")]
    return sum(token or 0.0 for token in tokens) / n if n and None not in tokens else None


def compute_usage_costs_per_correct_answer(run: Run) -> dict[str, float]:
    right = count_correct_answers(run)
    tokens, n = compute_mean_tokens_per_question(run), run.metrics.get("n_all", run.metrics.get("n"))
    times = estimate_answer_times(run.metrics)
    costs = {
        "tokens": tokens * n if tokens is not None and n else None,
        "seconds": times.total_seconds if times else None,
        "usd": run.metrics.get("cost_usd"),
    }
    return {key: cost / right for key, cost in costs.items() if right and cost is not None}


def count_correct_answers(run: Run) -> float | None:
    """Return the number of correct answers; None if answers have no verdicts.

    A question with several answers may count several times.
    """
    metrics = run.metrics
    if run.max_answers_per_question > 1 and run.accuracy_interval:
        share, n = metrics.get("accuracy_all", run.accuracy_interval[0]), metrics.get("n_all", metrics["n"])
        return share * n * run.max_answers_per_question
    return metrics.get("correct_all", metrics.get("correct"))
