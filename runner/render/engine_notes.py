"""Texts of notes that an engine reports while loading and running, such as memory shortages."""

from __future__ import annotations

from runner_engine import EngineReport, EngineStats
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions import SequenceShortage


def render_engine_notes(stats: EngineStats, report: EngineReport | None = None) -> list[str]:
    loaded = [] if report is None else report.notes
    return [
        *map(render_engine_note, [*loaded, *stats.notes]),
        *map(format_memory_limited_batch_note, stats.row_shortages),
    ]


def format_memory_limited_batch_note(shortage: SequenceShortage) -> str:
    rows, asked = shortage.rows, shortage.asked_rows
    if not shortage.ran_out and shortage.kv_tokens is not None:
        tokens = f"{shortage.kv_tokens:,} tokens of KV cache"
        return f"memory limits the batch to {rows} of {asked} sequences. The free memory fits {tokens}"
    if not shortage.ran_out:
        return f"memory limits the batch to {rows} of {asked} requested sequences"
    when = f"with {asked} sequences in the batch" if asked else "during the prefill of a shared prefix"
    return f"memory ran out {when}. The batch is now limited to {rows} sequences"
