"""What a team saves of the tokens of a named graph, in words and as plain data."""

from __future__ import annotations

import math
from typing import Any

from runner_compare.features.cut_offs.render import finding_of
from runner_compare.features.savings.compute import KINDS, graph_kind
from runner_compare.features.token_costs.render import estimate_record
from runner_compare.model.data import Run, TableRow
from runner_compare.render.effects import figures_of, p_value
from runner_compare.render.labels import sides
from runner_compare.statistics.token_costs import Estimate, TokenFinding, TokenSaving


def graph_words(run: Run) -> str:
    """Name a run's graph: `the learned full_connected graph with 7 of 12 spatial edges`."""
    mode = run.value("task.mode") or "unknown"
    if mode == "direct_answer":
        return "one agent, without a graph"
    kind = graph_kind(run)
    method = run.value("task.method") if kind == "learned" else None
    by_method = f" by {method}" if method else ""
    edges = ", ".join(filter(None, (_edges(run, kind) for kind in KINDS)))
    return f"the {kind} {mode} graph{by_method}{f' with {edges} edges' if edges else ''}"


def _edges(run: Run, kind: str) -> str:
    before, after = (run.metrics.get(f"{kind}_edges_{when}") for when in ("before", "after"))
    if after is None:
        return ""
    return f"{after:g} of {before:g} {kind}" if before not in (None, after) else f"{after:g} {kind}"


def saving_sentence(row: TableRow, saving: TokenSaving, keys: list[str]) -> str:
    """Return what a row saves of its baseline's tokens, in words: also that it saves nothing, and
    costs more."""
    assert row.baseline is not None
    name, base_name, shared = sides(row, keys)
    on = f"on the {saving.questions:,} questions that both answered{f', {shared}' if shared else ''}"
    sign = -1 if saving.finding is TokenFinding.costs_more else 1
    more = " more" if sign < 0 else ""
    figures = (
        (
            f"{_amount(saving.both, sign)} tokens a question{more}, {100 * sign * saving.share:.1f} % (prompt "
            f"{_amount(saving.prompt, sign)}, new {_amount(saving.new, sign)}; p={p_value(saving.p)}, "
            f"Holm {p_value(saving.p_holm)})"
        )
        .replace("=<", "<")
        .replace("-", "−")
    )
    found = {
        TokenFinding.saves: "saves",
        TokenFinding.costs_more: "saves nothing, it costs",
        TokenFinding.open: "no saving is shown:",
    }[saving.finding]
    named = f"{_named(name, row.run)} against {_named(base_name, row.baseline.run)}"
    return "; ".join([f"tokens of {named}, {on}: {found} {figures}", _accuracy(row), *_training(saving)])


def _named(name: str, run: Run) -> str:
    """Return a run's graph, and before it what else names the run."""
    mode = run.value("task.mode")
    if mode == "direct_answer" and name != run.job_id:
        return name
    return graph_words(run) if name in (f"task.mode={mode}", run.job_id) else f"{name}, {graph_words(run)}"


def _accuracy(row: TableRow) -> str:
    if row.effect is None:
        return "accuracy was not compared"
    value, interval = figures_of(row.effect)
    return f"accuracy: {finding_of(row.effect)} (Δ {value} points, {interval})"


def _training(saving: TokenSaving) -> list[str]:
    """Say after how many questions training is paid back, if one of the two was trained."""
    if not saving.training_tokens:
        return []
    if saving.training_tokens < 0:
        return [f"training cost {-saving.training_tokens:,.0f} tokens less than the baseline's"]
    cost = f"training cost {saving.training_tokens:,.0f} tokens"
    after = saving.paid_back_after
    if after is None:
        shown = "nothing is saved" if saving.finding is TokenFinding.costs_more else "no saving is shown"
        return [f"{cost}: not paid back, as {shown}"]
    ends = " to ".join("no end" if math.isinf(end) else f"{math.ceil(end):,}" for end in after[1:])
    return [f"{cost}: paid back after {math.ceil(after.value):,} questions ({ends})"]


def _amount(estimate: Estimate, sign: int) -> str:
    value, low, high = (sign * number for number in estimate)
    return f"{value:,.1f} [{min(low, high):,.1f}, {max(low, high):,.1f}]".replace("inf", "∞")


def saving_record(row: TableRow, saving: TokenSaving) -> dict[str, Any]:
    """Return what a row saves as plain data."""
    assert row.baseline is not None
    after = saving.paid_back_after
    return {
        "baseline_job_id": row.baseline.run.job_id,
        "baseline_graph": graph_words(row.baseline.run),
        "questions": saving.questions,
        **estimate_record("tokens_a_question", saving.both),
        **estimate_record("prompt_a_question", saving.prompt),
        **estimate_record("new_a_question", saving.new),
        "share": saving.share,
        "p": saving.p,
        "p_holm": saving.p_holm,
        "finding": saving.finding,
        "training_tokens": saving.training_tokens,
        **estimate_record("paid_back_after", after or Estimate(math.inf, math.inf, math.inf)),
    }
