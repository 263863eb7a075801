"""Texts of notes on how an engine deviated from the request."""

from __future__ import annotations

from runner_engine import EngineReport, EngineStats
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions import SequenceShortage


def render_engine_notes(stats: EngineStats, report: EngineReport | None = None) -> list[str]:
    """Return the texts of notes from loading the model, if a report is given, and from running it."""
    loaded = [] if report is None else report.notes
    return [*map(render_engine_note, [*loaded, *stats.notes]), *map(shortage_note, stats.row_shortages)]


def shortage_note(shortage: SequenceShortage) -> str:
    rows, asked = shortage.rows, shortage.asked_rows
    if not shortage.ran_out and shortage.kv_tokens is not None:
        tokens = f"{shortage.kv_tokens:,} tokens of KV cache"
        return f"the batch is limited to {rows} sequences ({asked} requested): memory has room for {tokens}"
    if not shortage.ran_out:
        return f"the batch is limited to {rows} sequences ({asked} would be possible): memory has room for no more"
    when = f"with {asked} sequences in the batch" if asked else "during the prefill of a shared prefix"
    return f"memory ran out {when}: the batch is limited to {rows} sequences from now on"
