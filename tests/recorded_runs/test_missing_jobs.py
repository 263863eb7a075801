"""Jobs of a grid without a result: each is named with its state, and --require does not pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from grid_fixture import grid as grid
from grids import Grid, kill, mlflow_runs, wait_for

from runner import compare
from runner.records.jobs import LOCK
from runner_base.files import is_locked

pytestmark = [
    pytest.mark.slow,  # grids are processes
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
STUB = (
    *("model=stub", "task.extractor=flexible", "task.limit=60", "print=none"),
    *("generation.max_new_tokens=256", "seed=0,1,2,3,4", "workers=5"),
)
GATE = ("--baseline", "seed=0", "--require", "n>=60")  # the stub solves nothing
Compared = Callable[..., tuple[int, dict[str, str], str]]


@pytest.fixture
def compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Compared:
    """Return a function that compares the jobs of a folder, and returns the exit code, the states
    of the missing jobs by their names, and stderr."""

    def run(output_dir: Path, *arguments: str) -> tuple[int, dict[str, str], str]:
        capsys.readouterr()
        code = compare.main(["--output-dir", str(output_dir), "--format", "json", *arguments])
        out, err = capsys.readouterr()
        jobs = json.loads(out).get("missing_jobs", []) if out else []
        return code, {job["name"]: job["state"] for job in jobs}, err

    return run


@pytest.mark.sampled(1)
@pytest.mark.parametrize("tracking", ["none", "sqlite"])
def test_each_missing_job_is_named_and_no_requirement_passes(
    grid: Callable[..., Grid],
    compared: Compared,
    tmp_path: Path,
    tracking: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults = {1: "raise", 2: "interrupt", 3: "hang"}
    started = grid(*STUB, f"tracking={tracking}", faults=faults)
    folder = started.folder / "outputs"
    wait_for(
        lambda: len([*folder.glob("jobs/*/result.json")]) == 4 and started.err.read_text().count("[4/5]")
    )
    now = {"seed=1": "failed", "seed=2": "interrupted", "seed=3": "running"}
    for choice in (("--grid", "last"), ()):
        assert compared(folder, *choice, "--baseline", "seed=0")[:2] == (0, now)
        code, missing, err = compared(folder, *choice, *GATE)
        assert (code, missing) == (1, now)
        capsys.readouterr()
        words = ["gate", "seed=0", "--output-dir", str(folder), *choice, "--margin", "5", "--json"]
        assert compare.main(words) == 1
        found = {it["name"]: it["verdict"] for it in json.loads(capsys.readouterr().out)["candidates"]}
        assert {name for name, verdict in found.items() if verdict == "NO-GO"} == {*now}
        assert err.splitlines() == [
            "requirement failed: seed=1: failed",
            "requirement failed: seed=2: interrupted",
            "requirement failed: seed=3: running",
        ]
    elsewhere = ("--tracking-uri", f"sqlite:///{folder}/mlflow.db", "--grid", "last", *GATE)
    if tracking == "sqlite":
        assert compared(tmp_path / "elsewhere", *elsewhere)[:2] == (1, now)

    kill(started.process)
    wait_for(lambda: not any(is_locked(lock) for lock in folder.glob(f"jobs/*/{LOCK}")))
    now["seed=3"] = "interrupted"
    assert compared(folder, "--grid", "last", *GATE)[:2] == (1, now)
    assert compared(folder, "--grid", "last", "--where", "seed in (0, 4)", *GATE)[:2] == (0, {})
    assert compared(folder, "--grid", "last", "--where", "seed in (0, 1, 4)", *GATE)[:2] == (
        1,
        {"seed=1": "failed"},
    )
    code, missing, err = compared(folder, "--grid", "last", "--baseline", "seed=1")
    assert (code, missing) == (2, {}), "the baseline has no result"
    assert "seed=1: failed (RuntimeError: out of luck)" in err
    again = grid(*STUB, f"tracking={tracking}", faults={1: "raise"}).wait()
    assert again.code == 1
    assert compared(folder, "--grid", "last", *GATE)[:2] == (1, {"seed=1": "failed"})
    if tracking == "sqlite":
        assert compared(tmp_path / "elsewhere", *elsewhere)[:2] == (1, {"seed=1": "failed"})
        (parent,) = (run for run in mlflow_runs(started.folder) if run.is_grid)
        shutil.rmtree(folder / "grids")  # as from an earlier version
        assert compared(folder, "--grid", parent.run_id, *GATE)[:2] == (1, {"seed=1": "failed"})
        assert compared(folder, *GATE)[:2] == (1, {"seed=1": "failed"})
    assert grid(*STUB, f"tracking={tracking}").wait().code == 0
    assert compared(folder, "--grid", "last", *GATE)[:2] == (0, {})


def test_from_python_the_verdict_of_the_requirements_is_part_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import runner

    monkeypatch.chdir(tmp_path)
    rows = runner.grid(*STUB[:-2], "tracking=none", {"seed": [0, 1], "task.split": ["test", "no_such_split"]})
    compared = runner.compare(rows, baseline="seed=0", require=["n>=60"])
    assert compared.passed is False
    assert [(one.requirement, one.met) for one in compared.requirements] == [
        ("n>=60", True),
        ("has a result", False),
        ("has a result", False),
    ]
    assert {job.state.value for job in compared.missing_jobs} == {"impossible"}
    assert runner.compare(rows, baseline="seed=0").passed is None
    chosen = [row for row in rows if row["status"] == "finished"]
    assert runner.compare(chosen, baseline="seed=0", require=["n>=60"]).passed is True
