"""A grid makes the job that its jobs name, and a single job says which command does."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.grid.dependencies import merge_overrides
from runner.grid.other_launchers import split_ready_and_dependent_jobs
from runner.grid.plan import PlannedJob
from runner.records.jobs import Job
from runner_base.result import Record

Run = Callable[..., Any]
JOB = ("task=likelihood", "task.limit=4", "task.reference=quantization=none", "tracking=none", "workers=1")
KEPT = (*JOB, "task.exact=false")


def records(folder: Path) -> dict[str, Record]:
    """Return the finished jobs of a folder by their quantization."""
    files = folder.glob("outputs/jobs/*/result.json")
    found = [Record.from_json(file.read_text()) for file in files]
    return {record.params["quantization.name"]: record for record in found}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("grid", ["none,nf4", "nf4", "nf4,none"])
def test_the_reference_is_made_first_with_or_without_a_row_of_its_own(
    runner: Run, tmp_path: Path, grid: str
) -> None:
    plan = runner("-m", *KEPT, f"quantization={grid}", "plan=quick")
    assert plan.code == 0
    assert "2 jobs: 2 to do" in plan.out
    is_added = grid == "nf4"
    assert ("added, because 1 job of this grid is compared with it" in plan.out) is is_added
    done = runner("-m", *KEPT, f"quantization={grid}")
    assert done.code == 0, done.err
    assert ("note: quantization=none: added, because 1 job" in done.err) is is_added
    first = next(line for line in done.err.splitlines() if line.startswith("[1/2]"))
    assert "quantization=none" in first
    found = records(tmp_path)
    assert found["nf4"].result.metrics["kl_nats_per_token"] > 0
    assert found["none"].params["task.keep_top_k"] == "64"
    again = runner("-m", *KEPT, "quantization=nf4")
    assert "1 job: 1 done" in again.err, "a reference that is done is not made again"


@pytest.mark.thorough
def test_whole_distributions_need_no_reference_that_runs_first(runner: Run, tmp_path: Path) -> None:
    done = runner("-m", *JOB, "quantization=none,nf4")
    assert done.code == 0, done.err
    found = records(tmp_path)
    assert "side by side" in found["nf4"].result.facts["reference"]
    assert {record.params["task.exact"] for record in found.values()} == {"true"}
    assert "exact: true" in (Path(found["nf4"].output_dir) / "config.yaml").read_text(), (
        "as the grid has decided"
    )
    assert not list(tmp_path.rglob("top_k.jsonl"))


@pytest.mark.thorough
def test_a_row_that_keeps_nothing_gives_its_place_to_the_reference(
    runner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "runner.tasks.likelihood.comparison_methods._check_memory_for_two_models"
    too_large = lambda config, _second: "large" * (config.quantization.name != "none")  # noqa: E731
    # beside itself the reference would fit, and beside the other one it does not
    monkeypatch.setattr(own, too_large)
    done = runner("-m", *JOB, "quantization=none,nf4")
    assert done.code == 0, done.err
    assert "2 jobs: 2 to do" in done.err
    assert records(tmp_path)["none"].params["task.keep_top_k"] == "64"


def test_a_single_job_names_the_command_that_makes_its_reference(runner: Run, tmp_path: Path) -> None:
    job = (*KEPT, "quantization=nf4")
    planned, failed = runner(*job, "plan=quick"), runner(*job)
    for ended in (planned, failed):
        assert ended.code == 2
        command = ended.err.rpartition(": ")[2]
        assert shlex.split(command) == ["runner", "-m", *job]
    assert runner(*shlex.split(command)[1:]).code == 0
    assert runner(*job, "plan=quick").code == 0
    assert {*records(tmp_path)} == {"none", "nf4"}


def test_a_job_that_only_its_id_names_cannot_be_made(runner: Run) -> None:
    words = "task.reference=likelihood-0123456789ab"
    planned = runner("-m", *KEPT[:2], words, "quantization=none,nf4", "tracking=none", "plan=quick")
    assert planned.code == 2
    assert "this job depends on job likelihood-0123456789ab, but " in planned.out
    single = runner(*KEPT[:2], words, "tracking=none", "plan=quick")
    assert single.code == 2
    assert single.err.rstrip().endswith("Run likelihood-0123456789ab first")


@pytest.mark.thorough
def test_the_baseline_of_an_early_stop_is_made_too(runner: Run, tmp_path: Path) -> None:
    words = ("model=stub", "task.limit=3", "tracking=none", "workers=1")
    stop = "task.early_stop_vs='generation.max_new_tokens=12'"
    done = runner("-m", *words, "generation.max_new_tokens=6,8", stop)
    assert done.code == 0, done.err
    found = [json.loads(file.read_text())["params"] for file in tmp_path.glob("outputs/jobs/*/result.json")]
    assert sorted(int(it["generation.max_new_tokens"]) for it in found) == [6, 8, 12]
    assert "generation.max_new_tokens=12: added, because 2 jobs of this grid are compared with it" in done.err


@pytest.mark.parametrize(
    ("overrides", "changes", "expected"),
    [
        (["quantization=nf4", "seed=1"], ["quantization=none"], ["seed=1", "quantization=none"]),
        (["quantization=nf4", "quantization.skip=[a]"], ["quantization=none"], ["quantization=none"]),
        (["model=auto", "model.name=x", "model.dtype=bfloat16"], ["model.dtype=float32"],
         ["model=auto", "model.name=x", "model.dtype=float32"]),
        (["++quantization=nf4", "task=likelihood"], ["quantization=none"], ["task=likelihood", "quantization=none"]),
        (["quantization.bits=4"], ["quantization.bits=8"], ["quantization.bits=8"]),
    ],
)  # fmt: skip
def test_overrides_on_top_of_a_jobs_own(
    overrides: list[str], changes: list[str], expected: list[str]
) -> None:
    assert merge_overrides(overrides, changes) == expected


def test_a_launcher_of_another_package_gets_the_named_jobs_before_the_others(tmp_path: Path) -> None:
    plan = [PlannedJob([], job=Job(name, tmp_path / name), after=after)
            for name, after in (("a", "c"), ("b", "elsewhere"), ("c", ""), ("d", "c"))]  # fmt: skip
    assert split_ready_and_dependent_jobs(plan, [0, 1, 2, 3]) == ([1, 2], [0, 3])
