"""Convert the rows of a comparison to JSON and CSV data."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from runner_compare.features.cut_offs.render import build_cut_off_answers_record
from runner_compare.features.registry import load_comparison_sections
from runner_compare.metrics import ACCURACY, BOUNDS
from runner_compare.model.data import Table, TableRow
from runner_compare.render.effects import build_effect_records_by_key
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import find_quantity

# of the keys of a row in JSON that sections add, and of `note`; further ones follow
ORDER = ("plan", "note", "seeds", "tokens", "thinking", "right_answer_costs", "saved")


def build_row_record(table: Table, row: TableRow) -> dict[str, Any]:
    record = build_common_row_record(table, row)
    added = {"note": record.pop("note")}
    for section in load_comparison_sections():
        added |= section.row_record(table, row)
    first = {key: added.pop(key) for key in ORDER if key in added}
    return record | first | added


def build_common_row_record(table: Table, row: TableRow) -> dict[str, Any]:
    run = row.run
    metrics = dict(sorted(run.metrics.items()))
    if run.accuracy_interval:  # as every table has it
        metrics |= dict(zip(ACCURACY, run.accuracy_interval, strict=True))
        if run.accuracy_bounds:
            metrics |= zip(BOUNDS, run.accuracy_bounds, strict=True)
    return {
        "task": table.task,
        "job_id": run.job_id,
        "run_id": run.run_id,
        "output_dir": run.folder,
        "config": row.config,
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "is_baseline": row.is_baseline,
        **build_effect_and_truncation_records(row),
        "on_front": row.on_front,
        "dominated_by": row.dominated_by,
        "dominated_in": row.dominated_in,
        "standing": {axis: asdict(standing) for axis, standing in row.standing.items()},
        "off_front": render_notes(row.off_front) or None,
        "note": row.note,
    }


def build_effect_and_truncation_records(row: TableRow) -> dict[str, Any]:
    found = build_effect_records_by_key(row)
    if row.effect is not None and (ends := build_cut_off_answers_record(row.effect)):
        found[find_quantity(row.effect).record_key] |= ends
    return found
