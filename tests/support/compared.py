"""Rows of a comparison, made from effects."""

from __future__ import annotations

from runner_compare.data import Run, Table, TableRow
from runner_compare.findings import write_findings
from runner_compare.front import mark_front
from runner_compare.statistics.effects import Effect, judge, paired_accuracies

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


def example() -> Table:
    """A baseline and two rows compared with it, as wide as tables get."""
    rows = []
    for name, wins, losses in (("none", 0, 0), ("int8", 10, 20), ("nf4", 1, 90)):
        metrics = {"n": 1000.0, "correct": 500.0 + wins - losses, "weight_mib": 6.07, "load_s": 1.5 + wins}
        metrics |= {"stored_mib": 3.0 + wins, "model_mib": 843.0 + losses, "decode_tok_per_s": 21228.0 - losses}
        metrics["new_tokens"] = 34898.0 + losses
        run = Run(name, name, "gsm8k", "1", "", {}, metrics)
        row = TableRow(run, {"quantization.name": name, "task.split": "hard5"})
        row.is_baseline = name == "none"
        row.effects = [] if row.is_baseline else [paired_accuracies(wins, losses, 1000)]
        rows.append(row)
    judge(it for row in rows for it in row.effects)
    table = Table("gsm8k", ["quantization.name", "task.split"], rows, {"quantization.name": "none"})
    mark_front(table)
    return table
