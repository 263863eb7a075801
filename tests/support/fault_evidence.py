"""What a grid of bench/faults.py has left on disk and in MLflow, in a form in which two folders can
be compared."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from grids import mlflow_runs, results, samples

TIMES = {"seconds", "checksum", "first_token_s"}
WHOSE = {"reused_from"}  # which of two sibling jobs ran first depends on the faults
# a job's results, without times and memory
FOUND = ("accuracy", "n", "correct", "wrong", "no_answer", "cut_off", "questions_asked", "questions_left", "early_stop_wins",
         "early_stop_losses", "early_stop_p", "early_stop_difference_points", "early_stop_difference_points_low", "nats", "tokens",
         "spatial_edges_before", "spatial_edges_after", "train_solved", "train_questions", "calls")  # fmt: skip
CLOSE = 1e-4  # the last digits of likelihoods in float32 depend on the rest of the batch


def evidence(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results of each job in a folder that must be the same without any fault."""
    results_by_job = {}
    lines = samples(folder)
    for job_id, result in results(folder).items():
        job_folder = folder / "outputs" / "jobs" / job_id
        metrics, facts = result["result"]["metrics"], result["result"]["facts"]
        # questions under way after the end do not count
        asked = metrics.get("questions_asked", math.inf)
        results_by_job[job_id] = {
            "status": result["status"],
            "metrics": {name: metrics[name] for name in FOUND if name in metrics},
            "early_stop_verdict": facts.get("early_stop_verdict"),
            "samples": {
                line["index"]: plain(line) for line in lines.get(job_id, []) if line["index"] < asked
            },
            "top_k": {
                line["index"]: (line["width"], line["places"]) for line in read(job_folder / "top_k.jsonl")
            },
            "calls": {
                line["id"]: plain(line) for line in read(job_folder / "calls.jsonl") if "code" not in line
            },
            "programs": {
                line["id"]: plain(line) for line in read(job_folder / "calls.jsonl") if "code" in line
            },
            "graph": json.loads((job_folder / "graph.json").read_text())
            if (job_folder / "graph.json").exists()
            else None,
        }
    return results_by_job


def doubled(folder: Path) -> list[str]:
    """Return the jobs with two answers for one index."""
    job_ids = []
    for job_id, lines in samples(folder).items():
        answered = Counter(line["index"] for line in lines if line["finish_reason"] != "error")
        job_ids += [job_id] * any(number > 1 for number in answered.values())
    return job_ids


def read(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file; none if there is no such file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def plain(value: Any) -> Any:
    """Return a value without the times in it."""
    if isinstance(value, dict):
        return {key: plain(it) for key, it in value.items() if key not in TIMES | WHOSE}
    return [plain(it) for it in value] if isinstance(value, list) else value


def differences(truth: Any, found: Any, where: str = "") -> list[str]:
    """Return the paths at which two values differ."""
    if isinstance(truth, dict) and isinstance(found, dict):
        keys = [*truth, *(key for key in found if key not in truth)]
        return [
            one
            for key in keys
            for one in (
                differences(truth[key], found[key], f"{where}/{key}")
                if key in truth and key in found
                else [f"{where}/{key} is {'lost' if key in truth else 'new'}"]
            )
        ]
    if isinstance(truth, float) and isinstance(found, float) and math.isclose(truth, found, rel_tol=CLOSE):
        return []
    return [] if truth == found else [f"{where}: {str(truth)[:200]} is now {str(found)[:200]}"]


def check(folder: Path, truth: dict[str, dict[str, Any]]) -> Counter[str]:
    """Compare a folder with the undisturbed one; return the statuses of its runs in MLflow."""
    different = differences(truth, evidence(folder))
    assert not different, f"{folder}: {len(different)} differences:\n" + "\n".join(different[:20])
    assert not (twice := doubled(folder)), f"{folder}: answers are duplicated in {twice}"
    runs = mlflow_runs(folder)
    ended = Counter(run.status for run in runs if not run.is_grid)
    assert "RUNNING" not in Counter(run.status for run in runs), f"{folder}: a run is left RUNNING"
    finished = Counter(run.job_id for run in runs if run.status == "FINISHED" and not run.is_grid)
    assert finished.keys() == truth.keys(), (
        f"{folder}: {len(finished)} of {len(truth)} jobs are FINISHED in MLflow"
    )
    assert set(finished.values()) == {1}, f"{folder}: a job is FINISHED twice in MLflow"
    without_artifacts = [
        run.run_id
        for run in runs
        if run.status == "FINISHED" and not list(folder.glob(f"**/{run.run_id}/artifacts"))
    ]
    assert not without_artifacts, f"{folder}: the artifacts of {without_artifacts} are not in the folder"
    return ended
