"""What a side measures that runs in an environment without the runner, and it may be without torch: see engines.py."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_job() -> dict[str, Any]:
    """Read what to do from the file that the first argument names."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return job


def answer(job: dict[str, Any], tokens: Sequence[Sequence[int]], **measured: Any) -> None:
    """Write what came out to the file that the second argument names; what cannot be known from here is 0."""
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
    Path(sys.argv[2]).write_text(json.dumps(unknown | outcome | measured))


def resident_mib() -> float:
    """Memory of this process now."""
    return _status("VmRSS")


def peak_mib() -> float:
    """The most since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Start the kernel's high-water mark anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
