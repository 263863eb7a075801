"""How much longer each row thinks than its baseline, and what a right answer costs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runner_base import Column, Use
from runner_compare.features.right_answers.intervals import estimate_costs
from runner_compare.features.token_costs.section import estimate_record
from runner_compare.metrics import BY_ANSWERS, described
from runner_compare.model.data import ABSENT, NotPaired, Run, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.columns import accuracy_of, naming
from runner_compare.render.effects import interval_words, p_value
from runner_compare.render.labels import versus
from runner_compare.section import Section
from runner_compare.statistics import Decision, Finding, Test, judge, undecided
from runner_compare.statistics.answer_times import answer_times
from runner_compare.statistics.token_costs import Estimate
from runner_compare.ways.numbers import compare_numbers

TOKENS = "thinking_tokens"  # the number of a question
THINKING = "thinking_tokens_per_answer"  # a metric that only jobs have whose model thought
BUDGET = "generation.thinking_tokens"
MAX_ROWS = 8  # with a finding that the sentence names
TITLE = "thinking, and what a right answer costs: the tokens and seconds of all answers for each right one"


@dataclass
class ThinkingOfRows:
    """What is known of the rows of models that think, by run id."""

    # how many tokens more than its baseline a row thinks
    effects: dict[str, Decision] = field(default_factory=dict)
    # what a right answer costs, with wrong ones, by cost
    right_answers: dict[str, dict[str, Estimate]] = field(default_factory=dict)


class Thinking(Section):
    """How long rows think, and what a right answer costs."""

    def add(self, table: Table, reader: Reader) -> None:
        """Compare the thinking tokens of the rows, and count those of a right answer."""
        add_thinking(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return {TITLE: thinking_columns(table)} if has_thinking(table) else {}

    def sentences(self, table: Table) -> list[str]:
        """Say who thinks longer."""
        return [sentence(table)] if table.of(ThinkingOfRows).effects else []

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return a row's difference in thinking tokens, and what a right answer costs it."""
        record: dict[str, Any] = {}
        effect = table.of(ThinkingOfRows).effects.get(row.run.run_id)
        if effect is not None:
            record["thinking"] = thinking_record(effect)
        if has_thinking(table):
            record["right_answer_costs"] = right_answer_record(table, row)
        return record


def has_thinking(table: Table) -> bool:
    """Whether thinking is shown: a model of the table thought, or its rows differ in the budget."""
    return table.scored and (BUDGET in table.keys or any(THINKING in row.run.metrics for row in table.rows))


def add_thinking(table: Table, reader: Reader) -> None:
    """Compare the thinking tokens of each row with its baseline's on the same questions."""
    kept = table.of(ThinkingOfRows)
    for row in table.rows if has_thinking(table) else ():
        kept.right_answers[row.run.run_id] = estimate_costs(row.run, reader, right_answer_costs(row.run))
    tests = [(row, test) for row in table.rows if (test := _thinking_test(row, reader)) is not None]
    decisions = iter(judge([test for row, test in tests if not row.is_repeat]))
    for row, test in tests:
        kept.effects[row.run.run_id] = undecided(test) if row.is_repeat else next(decisions)


def _compared(table: Table) -> list[tuple[TableRow, Decision]]:
    """Return the rows whose thinking was compared, without repeats of a baseline."""
    effects = table.of(ThinkingOfRows).effects
    return [
        (row, effects[row.run.run_id])
        for row in table.rows
        if row.run.run_id in effects and not row.is_repeat
    ]


def _thinking_test(row: TableRow, reader: Reader) -> Test | None:
    """Return the test of a row's thinking tokens against its baseline's; None if there is nothing
    to compare."""
    if row.baseline is None or row.effect is None or _budget(row) != _budget(row.baseline):
        return None  # of unlike budgets one knows who thinks longer
    run, base = (replace(side, number=TOKENS) for side in (row.run, row.baseline.run))
    if run.over_seeds or base.over_seeds or (THINKING not in run.metrics and THINKING not in base.metrics):
        return None
    try:
        test = compare_numbers(run, base, reader)
    except NotPaired:
        return None  # few questions, or nobody counted the tokens: the rows have their means, and no test
    counts = test.effect.counts
    return test if counts["mean"] or counts["baseline_mean"] else None


def _budget(row: TableRow) -> str:
    return row.run.value(BUDGET) or "null"  # which jobs of before the key lack


def sentence(table: Table) -> str:
    """Say which rows think longer or shorter than their baselines, and of which that is not
    shown."""
    compared = _compared(table)
    found = [(row, effect) for row, effect in compared if effect.finding is not Finding.open]
    still_open = [(row, effect) for row, effect in compared if effect.finding is Finding.open]
    parts = [f"{versus(row, table.keys)}: {_difference(effect)}" for row, effect in found[:MAX_ROWS]]
    if len(found) > MAX_ROWS:
        parts.append(f"{len(found) - MAX_ROWS} more differ")
    if still_open:
        row, largest = max(still_open, key=lambda pair: abs(pair[1].value))
        several = f" in {len(still_open)} comparisons, the largest" if len(still_open) > 1 else ""
        parts.append(f"{Finding.open}{several}: {versus(row, table.keys)} ({_difference(largest)})")
    return f"thinking tokens of an answer: {'; '.join(parts)}"


def _difference(decision: Decision) -> str:
    mean = decision.counts["baseline_mean"]
    thinks = {Finding.larger: "thinks longer, ", Finding.smaller: "thinks shorter, "}.get(
        decision.finding, ""
    )
    share = f", {100 * decision.value / mean:+.0f} % of {mean:,.1f}".replace("-", "−") if mean else ""
    value, low, high = (
        f"{end:+,.1f}".replace("-0.0", "+0.0").replace("+0.0", "0.0").replace("-", "−")
        for end in (decision.value, *decision.simultaneous)
    )
    return f"{thinks}Δ {value}{share}, {interval_words(decision)} [{low}, {high}], Holm {p_value(decision.p_holm)}"


def thinking_record(decision: Decision) -> dict[str, Any]:
    """Return the difference in thinking tokens as plain data."""
    return {
        "mean": decision.counts["mean"],
        "baseline_mean": decision.counts["baseline_mean"],
        "difference": decision.value,
        "difference_low": decision.low,
        "difference_high": decision.high,
        "simultaneous_low": decision.simultaneous_low,
        "simultaneous_high": decision.simultaneous_high,
        "questions": decision.counts["questions"],
        "p": decision.p,
        "p_holm": decision.p_holm,
        "finding": decision.finding,
    }


def tokens_of_question(run: Run) -> float | None:
    """Return the tokens of a question in the mean: of the prompt, and of thinking and text of all
    its answers."""
    n = run.metrics.get("n_all", run.metrics.get("n"))
    tokens = [run.metrics.get(key) for key in ("prompt_tokens", "new_tokens")]
    return sum(token or 0.0 for token in tokens) / n if n and None not in tokens else None


def right_answer_costs(run: Run) -> dict[str, float]:
    """Return the tokens, the seconds and the USD that a right answer costs, as far as they are
    known."""
    right = right_answers(run)
    tokens, n = tokens_of_question(run), run.metrics.get("n_all", run.metrics.get("n"))
    times = answer_times(run.metrics)
    costs = {
        "tokens": tokens * n if tokens is not None and n else None,
        "seconds": times.total_s if times else None,
        "usd": run.metrics.get("cost_usd"),
    }
    return {key: cost / right for key, cost in costs.items() if right and cost is not None}


def right_answers(run: Run) -> float | None:
    """Return how many answers are right, of several to a question each that is; None without
    verdicts."""
    metrics = run.metrics
    if run.answers_each > 1 and run.interval:
        share, n = metrics.get("accuracy_all", run.interval[0]), metrics.get("n_all", metrics["n"])
        return share * n * run.answers_each
    return metrics.get("correct_all", metrics.get("correct"))


def right_answer_record(table: Table, row: TableRow) -> dict[str, float | None]:
    """Return what a right answer costs as plain data, with intervals where they are known."""
    estimates = table.of(ThinkingOfRows).right_answers.get(row.run.run_id, {})
    return costs_record(right_answer_costs(row.run), estimates)


def costs_record(costs: Mapping[str, float], estimates: Mapping[str, Estimate]) -> dict[str, float | None]:
    """Return costs as plain data, with the ends of their intervals where they are known."""
    record: dict[str, float | None] = {**costs}
    for key in costs.keys() & estimates.keys():
        record |= estimate_record(key, estimates[key])
    return record


def written_cost(value: float | None, estimate: Estimate | None, form: str) -> str:
    """Return a cost with its interval if that is known."""
    written = _written(value, form)
    if estimate is None or value is None:
        return written
    return f"{written} [{estimate.low:{form}}, {estimate.high:{form}}]".replace("inf", "∞")


def thinking_columns(table: Table) -> list[Column]:
    """Return the columns of the table of thinking: what it takes, and what a right answer costs."""
    rows = table.rows
    shown = [
        *naming(table),
        Column("accuracy", list(map(accuracy_of, rows)), use=Use.result),
        metric_column(rows, THINKING),
        Column(
            "tokens\n/question",
            [_written(tokens_of_question(row.run), ",.1f") for row in rows],
            use=Use.result,
        ),
    ]
    shown += cost_columns(rows, table.of(ThinkingOfRows).right_answers).values()
    ks = sorted({int(row.run.metrics["answers_each"]) for row in rows if "answers_each" in row.run.metrics})
    for key in BY_ANSWERS:
        shown += [metric_column(rows, f"{key}/{k}") for k in ks]
    return shown


def cost_columns(
    rows: Sequence[TableRow], estimates: Mapping[str, Mapping[str, Estimate]] | None = None
) -> dict[str, Column]:
    """Return the columns of what a right answer costs, as far as it is known of any row: tokens,
    seconds and USD.

    `estimates` has the intervals of a run, by its id.
    """
    costs = [right_answer_costs(row.run) for row in rows]
    of_rows = [(estimates or {}).get(row.run.run_id, {}) for row in rows]
    return {
        key: Column(
            f"{head} /right\nanswer",
            [
                written_cost(cost.get(key), ends.get(key), form)
                for cost, ends in zip(costs, of_rows, strict=True)
            ],
            use=Use.result,
        )
        for key, head, form in (("tokens", "tokens", ",.1f"), ("seconds", "s", ".3g"), ("usd", "USD", ".3g"))
        if any(key in cost for cost in costs)
    }


def metric_column(rows: Sequence[TableRow], key: str) -> Column:
    about = described(key)
    cells = [ABSENT if key not in row.run.metrics else about.write(row.run.metrics[key]) for row in rows]
    return Column(about.head, cells, use=Use.result)


def _written(value: float | None, form: str) -> str:
    return ABSENT if value is None else format(value, form)


SECTION = Thinking()
