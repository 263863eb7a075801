"""Jobs that stop when their comparison with a baseline is decided, and after which question they must."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import warm_process
from grids import results, wait_for

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner_compare import InterimComparison

POLICY = "gate.policy={must:[{margin:5}]}"


def find_stop(pairs: Iterable[tuple[bool, bool]], **settings: Any) -> int:
    """Return after how many pairs of verdicts a comparison is decided."""
    comparison = InterimComparison(**settings)
    for number, (is_solved, is_baseline_solved) in enumerate(pairs, 1):
        comparison.add_pair(is_solved, is_baseline_solved, False, False)
        if comparison.is_decided:
            return number
    raise AssertionError("it stays open")


def compose_gate_keys(*words: str) -> tuple[str | None, float | None]:
    """Return the baseline and the margin with which a task stops, in a job with a gate."""
    gate = ("gate.baseline='lora=none'", "gate.margin=5")
    task: Any = to_runner_config(*compose_job((*gate, *words))).task
    return task.early_stop_vs, task.early_stop_margin


def find_jobs(folder: Path, key: str) -> dict[str, dict[str, Any]]:
    """Return the results of the jobs in a folder by the value of a key."""
    return {job["params"][key]: job["result"] for job in results(folder).values()}


def resume_killed_job(
    runner: Callable[..., Any], words: Sequence[str], baseline: Mapping[str, Any], count: int
) -> Any:
    """End a job by SIGKILL once it has so many answers, run it again, and return its result.

    Its folder has only one other job, the baseline.
    """
    jobs = Path(baseline["output_dir"]).parent

    def is_reached() -> bool:
        samples = [path for path in jobs.glob("*/samples.jsonl") if path.parent.name != baseline["job_id"]]
        return any(path.read_bytes().count(b"\n") >= count for path in samples)

    process = warm_process.popen(
        [sys.executable, "-m", "runner", *words],
        cwd=jobs.parent.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(is_reached)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
    assert len([*jobs.glob("*/result.json")]) == 1, "it was quicker than the signal"
    return runner(*words).json()
