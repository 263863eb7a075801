"""Commands of the product in processes of their own, and what their jobs have written."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def printed(
    module: str, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a module to its end, and return what it prints; an error ends the benchmark with the end
    of its message."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def jobs(
    *overrides: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Run a job or a grid, and return the record of each job."""
    return [
        json.loads(line)
        for line in printed("runner", *overrides, "print=json", cwd=cwd, env=env).splitlines()
    ]


def samples_of(overrides: str) -> list[list[dict[str, Any]]]:
    """Run a grid of the embedded model in a folder of its own; return the samples of each job, by
    question."""
    with tempfile.TemporaryDirectory() as folder:
        done = jobs("-m", *overrides.split(), "tracking=none", cwd=Path(folder))
        files = (Path(one["output_dir"]) / "samples.jsonl" for one in done)
        return [
            sorted(map(json.loads, file.read_text().splitlines()), key=lambda sample: int(sample["index"]))
            for file in files
        ]
