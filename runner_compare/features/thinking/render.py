"""How long rows think, and what a right answer costs: a table, a sentence and plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner_base import Column, Use
from runner_compare.features.thinking.compute import (
    THINKING,
    ThinkingOfRows,
    compared_rows,
    right_answer_costs,
    tokens_of_question,
)
from runner_compare.features.token_costs.render import estimate_record
from runner_compare.metrics import BY_ANSWERS, described
from runner_compare.model.data import ABSENT, Table, TableRow
from runner_compare.render.columns import accuracy_of, naming
from runner_compare.render.effects import interval_words, p_value
from runner_compare.render.labels import versus
from runner_compare.statistics import Decision, Finding
from runner_compare.statistics.token_costs import Estimate

MAX_ROWS = 8  # with a finding that the sentence names
TITLE = "thinking, and what a right answer costs: the tokens and seconds of all answers for each right one"


def sentence(table: Table) -> str:
    """Say which rows think longer or shorter than their baselines, and of which that is not
    shown."""
    compared = compared_rows(table)
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
