"""Speeds of vLLM's perf-eval: each shape is a setting, and repetitions are repeats of one run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from other_logs import DATA

PERF_EVAL = DATA / "perf_eval"
WORKLOAD = PERF_EVAL / "embedded-cpu"
MEDIANS = "bench-32-in-16-out-conc-1.json"
RUNS = [f"bench-32-in-16-out-conc-1-run-{number}.json" for number in (1, 2, 3)]


def copy_workload(tmp_path: Path) -> Path:
    return shutil.copytree(WORKLOAD, tmp_path / "results" / WORKLOAD.name)


def test_shapes_are_settings_and_repetitions_are_repeats(tables: Any, run: Any) -> None:
    """vLLM's own files have no lengths, so two shapes would else be one setting."""
    (table,) = tables(WORKLOAD)
    rows = {row["config"]["task.shape"]: row for row in table["rows"]}
    assert set(rows) == {"32-in-16-out", "64-in-16-out"}
    repeated = rows["32-in-16-out"]
    speeds = sorted(json.loads((WORKLOAD / name).read_text())["output_throughput"] for name in RUNS)
    medians = json.loads((WORKLOAD / MEDIANS).read_text())
    assert repeated["config"]["task.repeats"] == "3"
    assert repeated["metrics"]["output_tok_per_s"] == speeds[1] == medians["output_throughput"]
    assert repeated["metrics"]["ttft_s"] == pytest.approx(medians["median_ttft_ms"] / 1000)
    assert rows["64-in-16-out"]["config"]["task.repeats"] == "1"
    assert "task.aggregation_method" not in repeated["config"]
    _, _, err = run(WORKLOAD)
    assert "bfcl-simple_python accuracy" in " ".join(err.split())


def test_medians_are_read_without_their_repetitions(tables: Any, tmp_path: Path) -> None:
    folder = copy_workload(tmp_path)
    for name in RUNS:
        (folder / name).unlink()
    (table,) = tables(folder / MEDIANS)
    (row,) = table["rows"]
    medians = json.loads((folder / MEDIANS).read_text())
    assert row["metrics"]["output_tok_per_s"] == medians["output_throughput"]
    shutil.copy(WORKLOAD / RUNS[1], folder)
    (folder / MEDIANS).unlink()
    (table,) = tables(folder / RUNS[1], folder / "bench-64-in-16-out-conc-1.json")
    assert [row["config"]["task.shape"] for row in table["rows"]] == ["32-in-16-out", "64-in-16-out"]


def test_two_workloads_of_one_model_stay_apart(tables: Any, tmp_path: Path) -> None:
    folder = copy_workload(tmp_path)
    shutil.copytree(folder, folder.with_name("embedded-gpu"))
    (table,) = tables(folder.parent)
    assert {row["config"]["task.workload"] for row in table["rows"]} == {"embedded-cpu", "embedded-gpu"}
    assert len(table["rows"]) == 4


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (RUNS[0], None, f"{MEDIANS}: the repetitions {RUNS[0]} are not there"),
        (MEDIANS, {"output_throughput": 5.0}, f"{MEDIANS}: output_tok_per_s is .* in the median .* has 5"),
        (MEDIANS, {"individual_result_files": ["../x.json"]}, f"{MEDIANS}: no file is named '../x.json'"),
        (RUNS[2], {"output_throughput": float("nan")}, f"{RUNS[2]}: output_throughput is no number"),
        (RUNS[2], {"completed": 5}, f"{RUNS[2]}: 1 of 6 requests failed"),
    ],
)
def test_damaged_files_are_refused_by_name(
    rejected: Any, tmp_path: Path, file: str, changes: dict[str, Any] | None, message: str
) -> None:
    folder = copy_workload(tmp_path)
    if changes is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    error = "".join(rejected(folder).split())
    assert re.search("".join(message.split()), error), error
