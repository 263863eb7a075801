"""The rows of a comparison as plain data, for JSON and CSV."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from runner_compare.cut_offs import bounds_record, ends_record
from runner_compare.data import Table, TableRow
from runner_compare.effect_words import quantity, records
from runner_compare.metrics import ACCURACY
from runner_compare.pooled import PooledTable
from runner_compare.quantities import REPEATS
from runner_compare.seeds import seed_records
from runner_compare.thinking import has_thinking, right_answer_record, thinking_record
from runner_compare.token_costs import cost_record
from runner_compare.token_savings import saving_record


def row_record(table: Table, row: TableRow) -> dict[str, Any]:
    """Return a row as plain data: its ids, config, metrics and comparisons."""
    run = row.run
    metrics = dict(sorted(run.metrics.items()))
    if run.interval:  # as every table has it
        metrics |= dict(zip(ACCURACY, run.interval, strict=True)) | bounds_record(row)
    return {
        "task": table.task,
        "job_id": run.job_id,
        "run_id": run.run_id,
        "output_dir": run.folder,
        "config": row.config,
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "is_baseline": row.is_baseline,
        **effect_records(row),
        "on_front": row.on_front,
        "dominated_by": row.dominated_by,
        "dominated_in": row.dominated_in,
        "standing": {axis: asdict(it) for axis, it in row.standing.items()},
        "off_front": row.off_front,
        "plan": asdict(row.plan) if row.plan else None,
        "note": row.note,
        **({"seeds": seed_records(run)} if run.over_seeds else {}),
        **({"tokens": cost_record(row.tokens)} if row.tokens else {}),
        **({"thinking": thinking_record(row.thinking)} if row.thinking else {}),
        **({"right_answer_costs": right_answer_record(row)} if has_thinking(table) else {}),
        **({"saved": saving_record(row, row.saving)} if row.saving else {}),
    }


def effect_records(row: TableRow) -> dict[str, Any]:
    """Return a row's comparisons, each under its key, with both ends where answers were cut off."""
    found = records(row)
    if row.effect is not None and (ends := ends_record(row.effect)):
        found[quantity(row.effect).record_key] |= ends
    return found


def pooled_record(table: PooledTable) -> dict[str, Any]:
    """Return a pooled table as plain data: for each setting the difference on each set, and the pooled one."""
    return {
        "unit": table.unit,
        "weights": table.weights.value,
        "baseline": table.baseline,
        "setting_keys": table.keys,
        "sets": table.sets,
        "rows": [
            {
                "config": row.config,
                "differences": {
                    name: {"job_id": it.run.job_id, "difference": it.effect.value, "finding": it.effect.finding}
                    for name, it in zip(table.sets, table.cells[row.run.job_id], strict=True)
                    if it is not None and it.effect is not None
                },
                **{key: value for key, value in effect_records(row).items() if key != REPEATS.record_key},
                "note": row.note,
            }
            for row in table.rows
        ],
        "sentences": table.sentences,
    }
