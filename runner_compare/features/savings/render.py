"""Formats the token savings of agent teams as sentences and JSON data."""

from __future__ import annotations

import math
from typing import Any

from runner_compare.features.cut_offs.render import format_cut_off_finding
from runner_compare.features.savings.compute import KINDS, get_agent_graph_origin
from runner_compare.features.token_costs.render import build_estimate_record
from runner_compare.model.data import Run, TableRow
from runner_compare.render.effects import format_effect_and_interval, format_p_value
from runner_compare.render.labels import format_row_and_baseline_names, get_row_and_baseline_names
from runner_compare.statistics.token_costs import Estimate, TokenFinding, TokenSaving


def describe_agent_graph(run: Run) -> str:
    """Describe a run's agent graph, e.g. `the learned mesh graph with 7 of 12 spatial edges`."""
    mode = run.get_value("task.mode") or "unknown"
    if mode == "direct_answer":
        return "one agent, without a graph"
    kind = get_agent_graph_origin(run)
    method = run.get_value("task.method") if kind == "learned" else None
    by_method = f" by {method}" if method else ""
    edges = ", ".join(filter(None, (_describe_graph_edge_counts(run, kind) for kind in KINDS)))
    return f"the {kind} {mode} graph{by_method}{f' with {edges} edges' if edges else ''}"


def _describe_graph_edge_counts(run: Run, kind: str) -> str:
    before, after = (run.metrics.get(f"{kind}_edges_{when}") for when in ("before", "after"))
    if after is None:
        return ""
    return f"{after:g} of {before:g} {kind}" if before not in (None, after) else f"{after:g} {kind}"


def format_saving_sentence(row: TableRow, saving: TokenSaving, keys: list[str]) -> str:
    assert row.baseline is not None
    name, base_name, shared = get_row_and_baseline_names(row, keys)
    on = f"on {saving.questions:,} questions that both runs answered{f', {shared}' if shared else ''}"
    sign = -1 if saving.finding is TokenFinding.costs_more else 1
    more = " more" if sign < 0 else ""
    figures = (
        (
            f"{_format_amount(saving.both, sign)} tokens per question{more}, {100 * sign * saving.share:.1f} % "
            f"(prompt {_format_amount(saving.prompt, sign)}, generated "
            f"{_format_amount(saving.new, sign)}; p={format_p_value(saving.p)}, "
            f"Holm {format_p_value(saving.p_holm)})"
        )
        .replace("=<", "<")
        .replace("-", "−")
    )
    found = {
        TokenFinding.saves: "saves",
        TokenFinding.costs_more: "saves no tokens and costs",
        TokenFinding.open: "no saving is shown:",
    }[saving.finding]
    own = _describe_run_with_agent_graph(name, row.run)
    named = f"{own} against {_describe_run_with_agent_graph(base_name, row.baseline.run)}"
    return "; ".join(
        [
            f"tokens of {named}, {on}: {found} {figures}",
            _format_accuracy_sentence(row),
            *_format_training_break_even_sentences(saving),
        ]
    )


def format_short_token_saving_sentence(row: TableRow, saving: TokenSaving, keys: list[str]) -> str:
    """Return a one-line sentence on how many tokens a run saves compared with its baseline."""
    sign = -1 if saving.finding is TokenFinding.costs_more else 1
    tokens = f"{_format_amount(saving.both, sign)} tokens per question, {100 * sign * saving.share:.1f} %"
    found = {
        TokenFinding.saves: "saves",
        TokenFinding.costs_more: "costs more:",
        TokenFinding.open: "shows no saving:",
    }[saving.finding]
    return f"{format_row_and_baseline_names(row, keys)} {found} {tokens.replace('-', '−')}."


def _describe_run_with_agent_graph(name: str, run: Run) -> str:
    """Describe a run by the config values that distinguish it and by its agent graph."""
    mode = run.get_value("task.mode")
    if mode == "direct_answer" and name != run.job_id:
        return name
    return (
        describe_agent_graph(run)
        if name in (f"task.mode={mode}", run.job_id)
        else f"{name}, {describe_agent_graph(run)}"
    )


def _format_accuracy_sentence(row: TableRow) -> str:
    if row.effect is None:
        return "accuracy was not compared"
    value, interval = format_effect_and_interval(row.effect)
    return f"accuracy: {format_cut_off_finding(row.effect)} (Δ {value} points, {interval})"


def _format_training_break_even_sentences(saving: TokenSaving) -> list[str]:
    """Return a sentence on the number of questions after which training pays off; [] without training.

    Training pays off when the saved tokens exceed the training tokens.
    """
    if not saving.training_tokens:
        return []
    if saving.training_tokens < 0:
        return [f"training used {-saving.training_tokens:,.0f} fewer tokens than the baseline's training"]
    cost = f"training used {saving.training_tokens:,.0f} tokens"
    after = saving.break_even_question_count
    if after is None:
        shown = "nothing is saved" if saving.finding is TokenFinding.costs_more else "no saving is shown"
        return [f"{cost}. These do not pay off, because {shown}"]
    ends = " to ".join("no end" if math.isinf(end) else f"{math.ceil(end):,}" for end in after[1:])
    return [f"{cost}. These pay off after {math.ceil(after.value):,} questions (95 % interval {ends})"]


def _format_amount(estimate: Estimate, sign: int) -> str:
    value, low, high = (sign * number for number in estimate)
    return f"{value:,.1f} [{min(low, high):,.1f}, {max(low, high):,.1f}]".replace("inf", "∞")


def build_saving_record(row: TableRow, saving: TokenSaving) -> dict[str, Any]:
    assert row.baseline is not None
    after = saving.break_even_question_count
    return {
        "baseline_job_id": row.baseline.run.job_id,
        "baseline_graph": describe_agent_graph(row.baseline.run),
        "questions": saving.questions,
        **build_estimate_record("tokens_a_question", saving.both),
        **build_estimate_record("prompt_a_question", saving.prompt),
        **build_estimate_record("new_a_question", saving.new),
        "share": saving.share,
        "p": saving.p,
        "p_holm": saving.p_holm,
        "finding": saving.finding,
        "training_tokens": saving.training_tokens,
        **build_estimate_record("paid_back_after", after or Estimate(math.inf, math.inf, math.inf)),
    }
