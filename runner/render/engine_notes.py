"""Notes about what an engine loaded and did otherwise than requested."""

from __future__ import annotations

from runner_engine import EngineReport, EngineStats
from runner_engine.render.notes import render
from runner_engine.sessions import RowShortage


def engine_notes(stats: EngineStats, report: EngineReport | None = None) -> list[str]:
    """Return the notes of a load, if its report is given, and those of what an engine did."""
    loaded = [] if report is None else report.notes
    return [*map(render, [*loaded, *stats.notes]), *map(row_shortage_note, stats.row_shortages)]


def row_shortage_note(shortage: RowShortage) -> str:
    rows, asked = shortage.rows, shortage.asked_rows
    if not shortage.ran_out and shortage.kv_tokens is not None:
        tokens = f"{shortage.kv_tokens:,} tokens of keys and values"
        return f"memory has room for {tokens}: {rows} rows at once, {asked} were asked for"
    if not shortage.ran_out:
        return f"memory has room for {rows} rows at once, where {asked} would go together"
    when = f"with {asked} rows at once" if asked else "while a shared prefix was read"
    return f"memory ran out {when}: {rows} concurrent rows from now on"
