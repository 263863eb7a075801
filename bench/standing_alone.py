"""Measurements of a side whose environment has no runner, and perhaps no torch: see engines.py."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_job() -> dict[str, Any]:
    """Read the job from the file that the first argument names."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return job


def answer(job: dict[str, Any], tokens: Sequence[Sequence[int]], **measured: Any) -> None:
    """Write the outcome to the file that the second argument names."""
    write(outcome_of(job, tokens, **measured))


def write(outcome: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write an outcome, or those of several counts, to the file that the second argument names."""
    Path(sys.argv[2]).write_text(json.dumps(outcome))


def outcome_of(job: dict[str, Any], tokens: Sequence[Sequence[int]], **measured: Any) -> dict[str, Any]:
    """Return the outcome of a job; unknown figures are 0."""
    fed = job["prompts"]
    unknown = dict.fromkeys(
        ("prefill_s", "decode_s", "positions", "logit_rows", "layer_parameters", "head_parameters"), 0
    )
    outcome = {
        "threads": job["threads"],
        "done": len(tokens),
        "tokens": [list(row) for row in tokens],
        "texts": [],
        "prompts_sha256": hashlib.sha256(json.dumps(fed, ensure_ascii=False).encode()).hexdigest(),
        "ids_sha256": [hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest() for ids in fed],
        "gflop_per_s": {},
        "notes": [],
    }
    return unknown | outcome | measured


def resident_mib() -> float:
    """Return the memory of this process."""
    return _status("VmRSS")


def peak_mib() -> float:
    """Return the peak since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Reset the kernel's high-water mark."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
