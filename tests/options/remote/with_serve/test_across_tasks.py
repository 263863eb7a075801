"""A table of profiles, where our own server answers one of the jobs; needs both options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import serving

ENTRY_THAT_REPORTS_TORCH = """
import atexit, sys
atexit.register(lambda: print("torch is", "there" if "torch" in sys.modules else "not there", file=sys.stderr))
from runner.__main__ import entry
entry()
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_one_line_per_profile(runner: Callable[..., Any], tmp_path: Path) -> None:
    small = ("task.limit=2", "generation.max_new_tokens=4")
    local = runner("profile=high_performance", *small)
    assert local.code == 0
    assert "profile=high_performance expects a GPU, but this job runs on the CPU" in local.out
    with serving(tmp_path / "server", "model=stub", "tracking=none") as server:
        arguments = ["profile=teacher_only", f"model.base_url={server.url}/v1", "model.name=stub", *small]
        command = [sys.executable, "-c", ENTRY_THAT_REPORTS_TORCH, *arguments]
        remote = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert remote.returncode == 0, remote.stderr
    assert "torch is not there" in remote.stderr
    lines = runner(module="runner_compare").out.splitlines()
    high, teacher = (line.split() for line in lines if line.startswith(("high_performance", "teacher_only")))
    assert [high[0], teacher[0]] == ["high_performance", "teacher_only"]
    assert float(teacher[1].replace(",", "")) < float(high[1].replace(",", ""))
    assert " ".join(high[4:]) == "a GPU server"
    assert " ".join(teacher[4:]) == "answered no model on this machine"
    one_profile = runner(
        "--format", "markdown", "--where", "profile=teacher_only", module="runner_compare"
    ).out
    assert "### profiles" not in one_profile, "one profile is not a comparison"
