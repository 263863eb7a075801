"""A comparison for programs: JSON with everything, CSV as one sheet."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from typing import Any, TextIO

from runner.compare.data import Comparison, Flips, Row, Table
from runner.core.stats import wilson_interval


def record(table: Table, row: Row) -> dict[str, Any]:
    """Return a row as plain data: what it is, its config, its metrics, how it compares."""
    metrics = dict(sorted(row.metrics.items()))
    if row.scored and row.metrics["n"]:  # from the counts, so that every table has the same interval
        low, high = wilson_interval(int(row.metrics["correct"]), int(row.metrics["n"]))
        metrics |= {"accuracy_low": low, "accuracy_high": high}
    return {
        "task": table.task,
        "job_id": row.job_id,
        "run_id": row.run_id,
        "output_dir": row.folder,
        "config": row.config,
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "is_baseline": row.is_baseline,
        "comparison": asdict(row.comparison) if row.comparison else None,
        "ratios": [asdict(it) for it in row.ratios],
        "on_front": row.on_front,
        "dominated_by": row.dominated_by,
        "note": row.note,
    }


def write_json(tables: list[Table], out: TextIO) -> None:
    """Write everything as JSON."""
    content = [
        {
            "task": table.task,
            "baseline": table.baseline,
            "differing_keys": table.keys,
            "pareto_axes": ["accuracy", *table.axes] if table.axes else [],
            "rows": [record(table, row) for row in table.rows],
            "sentences": table.sentences,
            **({"flips": [_flips(it) for it in table.flips]} if table.flips else {}),
        }
        for table in tables
    ]
    json.dump({"tables": content}, out, indent=2, ensure_ascii=False)
    out.write("\n")


def _flips(flips: Flips) -> dict[str, Any]:
    return {
        "job_id": flips.job_id,
        "baseline_job_id": flips.baseline_job_id,
        "won": flips.won,
        "lost": flips.lost,
        "both_right": flips.both_right,
        "both_wrong": flips.both_wrong,
        "questions": [{**asdict(flip), "won": flip.won} for flip in flips.questions],
    }


def write_csv(tables: list[Table], out: TextIO) -> None:
    """Write one sheet for all tables: the columns of every task, empty where a run has no such number."""
    lines: list[dict[str, Any]] = []
    for table in tables:
        for row in table.rows:
            line = record(table, row)
            config, metrics, comparison = (line.pop(part) or {} for part in ("config", "metrics", "comparison"))
            ratios = {f"{name}/{it['measure']}": it[name] for it in line.pop("ratios") for name in RATIO}
            lines.append({**line, **config, **metrics, **ratios, **comparison})
    first = ["task", "job_id", *(key for table in tables for key in table.keys)]
    last = [*Comparison.__dataclass_fields__, "is_baseline", "note", "on_front", "dominated_by", "run_id", "output_dir"]
    middle = sorted({name for line in lines for name in line} - set(first) - set(last))
    if not any(table.baseline for table in tables):
        last = ["on_front", "dominated_by", "run_id", "output_dir"]
    writer = csv.DictWriter(
        out, list(dict.fromkeys([*first, *middle, *last])), extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)


RATIO = ("ratio", "ratio_low", "ratio_high", "p_holm", "finding")
