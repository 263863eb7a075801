"""Records of grids in an output folder: `grids/DIGEST.json` lists a grid's jobs and their outcomes.

They exist without MLflow too: runner-compare reads from them which jobs of a grid have no
result, and runner-sync creates the grid's run in another store.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.records.flat_config import flatten_config
from runner_base import parse_json, replace_text_file_atomically

log = logging.getLogger(__name__)

FOLDER = "grids"  # in the output folder


@dataclass
class GridRecord:
    """Record of a grid: title, jobs, config, metrics and status."""

    grid: str  # the digest of its jobs
    title: str
    started_ms: int  # when it was started last
    status: str  # RUNNING until it has ended
    jobs: list[dict[str, Any]]  # as in plan.json
    config: dict[str, str] = field(default_factory=dict)  # keys in which all jobs agree
    params: dict[str, str] = field(default_factory=dict)  # of its run in MLflow
    tags: dict[str, str] = field(default_factory=dict)  # its start: host, machine, versions
    metrics: dict[str, float] = field(default_factory=dict)  # its best results
    notes: dict[str, str] = field(default_factory=dict)  # tags: the verdict, the best job
    description: str = ""  # Markdown
    first_metric: str = ""
    runs: list[str] = field(default_factory=list)  # its runs in MLflow

    @property
    def job_ids(self) -> list[str]:
        """The ids of the grid's jobs, without duplicates."""
        return list(dict.fromkeys(job["job_id"] for job in self.jobs if job.get("job_id")))


def write_grid_record(output_dir: Path, record: GridRecord) -> None:
    """Write a grid's record atomically. Errors are logged and not raised, so that they do not end the
    grid.
    """
    try:
        replace_text_file_atomically(
            _record_path(output_dir, record.grid), json.dumps(asdict(record), indent=1) + "\n"
        )
    except OSError as error:
        log.warning("cannot write the grid's record: %s", error)


def has_grid_record(output_dir: Path, grid: str) -> bool:
    return _record_path(output_dir, grid).is_file()


def read_grid_records(output_dir: Path) -> list[GridRecord]:
    """Return all grid records of a folder, the most recently started first. Logs a warning for
    each damaged record.
    """
    records = []
    for path in (output_dir / FOLDER).glob("*.json"):
        if not path.is_file():  # a pipe would wait for its reader
            continue
        try:
            record = _require_valid_field_types(GridRecord(**parse_json(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            log.warning("ignored: %s is damaged (%s)", path, error)
        else:
            records.append(record)
    return sorted(records, key=lambda record: -record.started_ms)


def _require_valid_field_types(record: GridRecord) -> GridRecord:
    """Raise TypeError if a value of the record has the wrong type."""
    kinds = {"grid": str, "started_ms": int, "status": str, "jobs": list, "config": dict}
    kinds |= {"params": dict, "tags": dict, "metrics": dict, "notes": dict, "runs": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(record, name), kind)]
    wrong += ["jobs"] * any(not isinstance(job, dict) or "job_id" not in job for job in record.jobs)
    if wrong:
        raise TypeError(f"wrong type: {', '.join(wrong)}")
    return record


def separate_common_config_keys(
    configs: Sequence[object | None],
) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the keys with the same value in all configs, and separately the other keys of each config.

    A config of None has no other keys.
    """
    flat: list[Mapping[str, str]] = [dict(flatten_config(config)) if config else {} for config in configs]
    known = [keys for keys in flat if keys]
    first = known[0] if known else {}
    common = {key: value for key, value in first.items() if all(keys.get(key) == value for keys in known)}
    return common, [{key: value for key, value in keys.items() if key not in common} for keys in flat]


def _record_path(output_dir: Path, grid: str) -> Path:
    return output_dir / FOLDER / f"{grid}.json"
