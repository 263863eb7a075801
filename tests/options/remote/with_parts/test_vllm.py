"""vLLM takes the commands that task.explain=vllm prints, and splits nothing itself; needs both
options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_vllm import PAGE, commands, needs_vllm, parsed_by_vllm
from vllm_standin import VllmStandIn, vllm_keys

Run = Callable[..., Any]


@needs_vllm
@pytest.mark.thorough
def test_vllm_parses_every_command_that_is_printed(runner: Run, tmp_path: Path) -> None:
    printed = runner("task=split", "task.num_parts=2", "task.explain=vllm", "tracking=none", cwd=tmp_path).out
    of_page, of_plan = commands(PAGE.read_text(), "vllm serve"), commands(printed, "vllm serve")
    (plan,) = of_plan
    for number, advice in enumerate(("--nnodes 2 --node-rank 1 --master-addr FIRST_MACHINE --headless",
                                     "--distributed-executor-backend ray")):  # fmt: skip
        options = advice.replace("--node-rank 1", "--node-rank RANK").split()
        assert all(word in printed for word in options), number
        of_plan.append([*plan, *advice.split()])
    done = parsed_by_vllm([*of_page, *of_plan])
    assert done.returncode == 0, done.stderr[-3000:]
    *page, own, on_two, with_ray = [line.split() for line in done.stdout.splitlines()[-len(of_page) - 3 :]]
    assert page[:4] == [
        ["1", "2", "0", "False"],
        ["8", "1", "0", "False"],
        ["8", "2", "0", "False"],
        ["8", "2", "1", "True"],
    ]
    assert (own, on_two, with_ray) == (
        ["1", "2", "0", "False"],
        ["1", "2", "1", "True"],
        ["1", "2", "0", "False"],
    )
    for wrong in (["NAME", "--tensor-paralel-size", "8"], ["NAME", "--nnodes", "two"]):
        assert parsed_by_vllm([wrong]).returncode, "the control"


def test_a_split_is_refused_before_anything_starts(runner: Run, tmp_path: Path) -> None:
    standin = VllmStandIn(tmp_path / "env")
    done = runner("tracking=none", *vllm_keys(standin), "task=split", "task.output_dir=x")
    assert done.code == 2, done.err
    assert "task=split needs weights" in done.err
    assert not standin.started
