"""Rows of a comparison, made from effects."""

from __future__ import annotations

from dataclasses import dataclass

from runner_compare.features.front.compute import mark_pareto_front
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.render.findings import format_finding_sentence_per_row
from runner_compare.statistics import Effect, McNemarTest, Test, decide_comparisons_with_holm

KEYS = ["quantization.name"]


@dataclass(frozen=True)
class Known(Test):
    """A test whose effect is given, and the p of it against any value."""

    known: Effect
    p_against: float = 1.0

    def compute_effect(self) -> Effect:
        return self.known

    def compute_p_value(self, null_value: float) -> float:
        return self.p_against


def rows_of(*effects: Test | str, margins: dict[str, float] | None = None) -> list[TableRow]:
    """One row for each test, compared with one baseline; a text is the reason why a row was not
    compared."""
    base = TableRow(Run("base", "base", "any", "1", "", {}, {}), {KEYS[0]: "none"}, is_baseline=True)
    rows = [base]
    for number, it in enumerate(effects):
        row = TableRow(Run(f"run {number}", f"job-{number}", "any", "1", "", {}, {}), {KEYS[0]: f"q{number}"})
        if isinstance(it, str):
            row.note = it
        else:
            row.baseline = base
        rows.append(row)
    compared = [row for row in rows if row.baseline is not None]
    decisions = decide_comparisons_with_holm([it for it in effects if not isinstance(it, str)], margins)
    for row, decision in zip(compared, decisions, strict=True):
        row.effects = [decision]
    return rows


def sentences_of(rows: list[TableRow]) -> list[str]:
    return format_finding_sentence_per_row(Table("any", KEYS, rows))


EXAMPLE = {"int8": McNemarTest(10, 20, 1000), "nf4": McNemarTest(1, 90, 1000)}


def judge_example(rows: list[TableRow], margins: dict[str, float] | None = None) -> None:
    """Judge the rows of the example, with these margins."""
    compared = [row for row in rows if not row.is_baseline]
    decisions = decide_comparisons_with_holm([EXAMPLE[row.run.job_id] for row in compared], margins)
    for row, decision in zip(compared, decisions, strict=True):
        row.effects = [decision]


def example() -> Table:
    """A baseline and two rows compared with it, as wide as tables get."""
    rows: list[TableRow] = []
    for name, wins, losses in (("none", 0, 0), ("int8", 10, 20), ("nf4", 1, 90)):
        metrics = {"n": 1000.0, "correct": 500.0 + wins - losses, "weight_mib": 6.07, "load_s": 1.5 + wins}
        metrics |= {
            "stored_mib": 3.0 + wins,
            "model_mib": 843.0 + losses,
            "decode_tok_per_s": 21228.0 - losses,
        }
        metrics["new_tokens"] = 34898.0 + losses
        run = Run(name, name, "gsm8k", "1", "", {}, metrics)
        row = TableRow(run, {"quantization.name": name, "task.split": "hard5"})
        row.is_baseline = name == "none"
        row.baseline = rows[0] if rows else None
        rows.append(row)
    judge_example(rows)
    table = Table("gsm8k", ["quantization.name", "task.split"], rows, {"quantization.name": "none"})
    mark_pareto_front(table)
    return table
