"""Renders recoveries as table columns, sentences and JSON data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from runner_base import Column, ColumnUse
from runner_compare.features.recovery.compute import (
    CandidateRecovery,
    JobFacts,
    QuestionSetFacts,
    RecoveryCell,
    RecoveryTable,
)
from runner_compare.model.comparison import ReportPart, TableGrid
from runner_compare.model.data import ABSENT, Run, TableRow, key_label
from runner_compare.render.labels import is_self_explanatory, shorten_row_names
from runner_compare.render.short_table import format_short_verdict
from runner_compare.statistics.pooling import PoolingWeights

TITLE = "recovery: accuracy divided by the baseline's accuracy"
POOLED = "pooled"
MAX_NAME = 40
HASH_DIGITS = 12
CUT_OFFS = "Some answers were cut off. Their intervals cover both outcomes, right and wrong."
COMMIT, CLEAN = "git.commit", ("git.dirty", "false")
WEIGHTS = {
    PoolingWeights.tasks: "Pooled recovery: mean accuracy over the sets divided by the baseline's mean accuracy.",
    PoolingWeights.questions: "Pooled recovery: accuracy over all questions divided by the baseline's accuracy.",
}
METHOD = (
    "The intervals are simultaneous 95 % intervals for all candidates of a question set, from paired questions "
    "and clusters. An interval includes a recovery of 100 % unless the verdict shows a difference."
)


@dataclass(frozen=True)
class CardSection:
    """Further table of a card, e.g. the verdicts of a gate."""

    title: str
    columns: list[Column]

    def format_rows_as_lines(self) -> list[str]:
        """Return each table row as one line."""
        rows = zip(*(column.cells for column in self.columns), strict=True)
        return [" · ".join(filter(None, row)) for row in rows]


def format_recovery(cell: RecoveryCell) -> str:
    """Format a recovery as a percentage, e.g. `97.6 %`."""
    return ABSENT if cell.recovery is None else f"{100 * cell.recovery.value:.1f} %"


def format_recovery_with_interval(cell: RecoveryCell) -> str:
    if cell.recovery is None:
        return ABSENT
    return f"{format_recovery(cell)} [{_format_end(cell.recovery.low)}, {_format_end(cell.recovery.high)}]"


def _format_end(end: float) -> str:
    return "∞" if math.isinf(end) else f"{100 * end:.1f}"


def format_cell_verdict(cell: RecoveryCell) -> str:
    if cell.recovery is None or cell.decision is None:
        return "not compared"
    return format_short_verdict(cell.decision)


def name_candidates(table: RecoveryTable) -> list[str]:
    rows = [
        TableRow(Run("", " ".join(candidate.facts.job_ids), "", "", "", {}, {}), candidate.config)
        for candidate in table.candidates
    ]
    return shorten_row_names(rows, table.keys, MAX_NAME)


def name_baseline(table: RecoveryTable) -> str:
    parts = [
        shorten_path(value) if is_self_explanatory(key) else f"{key_label(key)}={value}"
        for key, value in table.baseline.items()
        if value is not None
    ]
    return " ".join(parts) or shorten_path(table.model)


def shorten_path(name: str) -> str:
    """Return the last part of a path on this machine, because a card is published. Other names stay."""
    return PurePath(name).name if name.startswith(("/", "~", ".")) else name


def format_size(size_bytes: int | None) -> str:
    """Format a size in bytes, with the unit MiB: `3,451,648 (3.29 MiB)`."""
    return ABSENT if size_bytes is None else f"{size_bytes:,} ({size_bytes / (1 << 20):,.2f} MiB)"


def summarize_question_set(facts: QuestionSetFacts) -> str:
    clusters = f" in {facts.clusters} clusters" if facts.clusters is not None else ""
    questions = f"{shorten_path(facts.data)}, {facts.questions:,} questions{clusters}"
    return f"{questions}, baseline {100 * facts.baseline_accuracy:.1f} %"


def format_settings(table: RecoveryTable) -> str:
    settings = [
        f"{key_label(key)}={shorten_path(value)}"
        for key, value in table.baseline.items()
        if value is not None
    ]
    margin = "" if table.margin is None else f" · margin {100 * table.margin:g} points"
    return f"model {shorten_path(table.model)} · baseline {' '.join(settings)}{margin}"


def list_cells(candidate: CandidateRecovery) -> list[RecoveryCell]:
    """Return the cells of all sets, followed by the pooled cell if there is one."""
    return [*candidate.cells, *([] if candidate.pooled is None else [candidate.pooled])]


def list_column_names(table: RecoveryTable) -> list[str]:
    return [*(facts.name for facts in table.sets), *([POOLED] if len(table.sets) > 1 else [])]


def build_recovery_part(table: RecoveryTable) -> ReportPart:
    notes = [
        f"{name} on {column}: no recovery, {cell.note}"
        for name, candidate in zip(name_candidates(table), table.candidates, strict=True)
        for column, cell in zip(list_column_names(table), list_cells(candidate), strict=True)
        if cell.note
    ]
    return ReportPart(
        TITLE,
        [TableGrid(build_recovery_columns(table, is_long=True))],
        [(note, None) for note in notes],
        [TableGrid(build_recovery_columns(table, is_long=False))],
        notes,
        legend=format_recovery_legend(table),
    )


def format_recovery_legend(table: RecoveryTable) -> str:
    decisions = [cell.decision for candidate in table.candidates for cell in list_cells(candidate)]
    has_cut_offs = any(decision is not None and any(decision.cut_off) for decision in decisions)
    sentences = [WEIGHTS[table.weights]] * (len(table.sets) > 1) + [METHOD] + [CUT_OFFS] * has_cut_offs
    return " ".join(sentences)


def build_recovery_columns(table: RecoveryTable, is_long: bool) -> list[Column]:
    """Return one column per set and the pooled one. The long form has each interval and verdict."""
    columns = [Column("candidate", name_candidates(table), False, use=ColumnUse.setting)]
    names = list_column_names(table)
    for number, name in enumerate(names):
        cells = [list_cells(candidate)[number] for candidate in table.candidates]
        if is_long or number == len(names) - 1:
            values = [*map(format_recovery_with_interval, cells)]
            columns.append(Column(f"{name} [95 %]", values, use=ColumnUse.difference))
            verdicts = [*map(format_cell_verdict, cells)]
            head = f"{name} verdict" if is_long else "verdict"
            columns.append(Column(head, verdicts, False, use=ColumnUse.difference))
        else:
            columns.append(Column(name, [*map(format_recovery, cells)], use=ColumnUse.difference))
    sizes = [candidate.facts.size_bytes.get("weights") for candidate in table.candidates]
    if any(size is not None for size in sizes):
        shown = [ABSENT if size is None else f"{size:,}" for size in sizes]
        columns.append(Column("weights, bytes", shown, use=ColumnUse.memory))
    return columns


def recovery_record(table: RecoveryTable) -> dict[str, Any]:
    return {
        "model": table.model,
        "baseline": table.baseline,
        "weights": table.weights.value,
        "margin": table.margin,
        "sets": [asdict(facts) for facts in table.sets],
        "baseline_jobs": _build_facts_record(table.baseline_facts),
        "candidates": [
            {
                "config": candidate.config,
                "recoveries": {
                    facts.name: _build_recovery_record(cell)
                    for facts, cell in zip(table.sets, candidate.cells, strict=True)
                },
                "pooled": None if candidate.pooled is None else _build_recovery_record(candidate.pooled),
                "jobs": _build_facts_record(candidate.facts),
            }
            for candidate in table.candidates
        ],
    }


def _build_recovery_record(cell: RecoveryCell) -> dict[str, Any]:
    found, decision = cell.recovery, cell.decision
    is_bounded = found is not None and math.isfinite(found.high)
    return {
        "recovery": found.value if found else None,
        "recovery_low": found.low if found else None,
        "recovery_high": found.high if found and is_bounded else None,
        "accuracy": found.candidate if found else None,
        "baseline_accuracy": found.baseline if found else None,
        "n": found.n if found else None,
        "finding": decision.finding.value if decision else None,
        "verdict": decision.verdict.value if decision and decision.verdict else None,
        "note": cell.note,
    }


def _build_facts_record(facts: JobFacts) -> dict[str, Any]:
    return {
        "job_ids": [*facts.job_ids],
        "weight_bytes": facts.size_bytes.get("weights"),
        "file_bytes": facts.size_bytes.get("files"),
        "model_sha256": facts.model_sha256,
        "versions": dict(facts.versions),
    }


def shorten_hash(digest: str | None) -> str:
    return ABSENT if digest is None else digest[:HASH_DIGITS]


def list_library_versions(facts: Sequence[JobFacts]) -> list[str]:
    """Return all versions of packages that the jobs used, each once. A commit is shortened."""
    found = dict.fromkeys(version for of_jobs in facts for version in of_jobs.versions)
    return [
        f"{name} {shorten_hash(version) if name == COMMIT else version}"
        for name, version in found
        if (name, version) != CLEAN
    ]
