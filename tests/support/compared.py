"""Rows of a comparison, made from effects."""

from __future__ import annotations

from runner.compare.data import Run, TableRow
from runner.compare.findings import write_findings
from runner.core.effects import Effect, judge

KEYS = ["quantization.name"]


def rows_of(*effects: Effect | str, margins: dict[str, float] | None = None) -> list[TableRow]:
    """One row for each effect, compared with one baseline; a text is the reason why a row was not compared."""
    base = TableRow(Run("base", "base", "any", "1", "", {}, {}), {KEYS[0]: "none"}, is_baseline=True)
    rows = [base]
    for number, it in enumerate(effects):
        row = TableRow(Run(f"run {number}", f"job-{number}", "any", "1", "", {}, {}), {KEYS[0]: f"q{number}"})
        if isinstance(it, str):
            row.note = it
        else:
            row.baseline, row.effects = base, [it]
        rows.append(row)
    judge((it for row in rows for it in row.effects), margins)
    write_findings(rows, KEYS)
    return rows
