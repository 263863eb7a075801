"""A grid from the command line: plan, zip, exclude, rerun, the table, the parent run of the
jobs."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from grids import Grid, mlflow_runs, results, samples
from raising import raises

import runner as package
from runner.render.notes import format_note
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_base.result import Record

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

Start = Callable[..., Grid]  # the fixture `grid`: takes arguments, returns a started grid
Run = Callable[..., Any]  # the fixture `runner`: takes arguments, returns a finished command
STUB = ("model=stub", "task.limit=2")

QUESTIONS = "".join(f'{{"question": "{text}", "answer": "#### 1"}}\n' for text in ("one?", "x" * 600))

STUDY = """
defaults: [config, {override /model: stub}, _self_]
task: {limit: 2}
hydra:
  mode: MULTIRUN
  sweeper:
    params: {task.split: "test,hard5"}
    zip: [{seed: "0,1,2", generation: "greedy,sampling,greedy"}]
    exclude: [{task.split: hard5, seed: "0,1"}]
"""


def by_seed(folder: Path) -> dict[int, Path]:
    files = folder.glob("outputs/jobs/*/result.json")
    return {int(json.loads(file.read_text())["params"]["seed"]): file for file in files}


def row(text: str, cells: str) -> bool:
    """Return whether exactly one line of a table has these cells side by side."""
    return [cells in " ".join(line.split()) for line in text.splitlines()].count(True) == 1


@pytest.mark.thorough
def test_the_plan_says_what_would_happen_and_does_nothing(grid: Start) -> None:
    first = grid(*STUB, "tracking=none", "seed=0,1", "print=none")
    assert first.wait().code == 0
    by_seed(first.folder)[1].unlink()  # as an interrupted job leaves it
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*") if path.is_file()}

    arguments = (*STUB, "seed=0,1,2,2", "task.split=test,tset", "plan=true")
    ended = grid(*arguments, database=False, PYTHONPROFILEIMPORTTIME="1").wait()
    assert ended.code == 2, ended.err
    assert row(ended.out, "0 test done")
    assert row(ended.out, "1 test to resume")
    assert "to do (listed" in ended.out
    assert ended.out.count(" tset         impossible ") == 4
    reason = "impossible: seed=1 task.split=tset\n    task.split=tset: no split of the embedded data 'tset'."
    assert reason in ended.out
    assert "8 jobs: 2 to do, 1 to resume, 1 done, 4 impossible (1 listed twice, run once)" in ended.out
    imported = {
        line.rpartition("|")[2].strip() for line in ended.err.splitlines() if line.startswith("import time:")
    }
    assert "omegaconf" in imported
    assert not imported & {"torch", "mlflow", "transformers", "numpy"}, "a plan loads nothing heavy"
    after = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {"stdout", "stderr", ".hashes.json"}


@pytest.mark.thorough
def test_zip_and_exclude_from_a_study(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text(STUDY)
    study = ("-cd", str(tmp_path / "study"), "-cn", "study", "tracking=none")
    ended = runner(*study)
    assert ended.code == 0, ended.err
    assert "4 jobs: 4 to do" in ended.err
    assert len(results(tmp_path)) == 4
    assert row(ended.out, "test 0 greedy finished")
    assert row(ended.out, "test 1 sampling finished")
    assert row(ended.out, "test 2 greedy finished")
    assert row(ended.out, "hard5 2 greedy finished")

    again = runner(*study, "print=json")
    assert again.code == 0
    assert "4 jobs: 4 done" in again.err
    assert sorted(json.loads(line)["job_id"] for line in again.out.splitlines()) == sorted(results(tmp_path))

    collision = runner(*study, "seed=3")
    assert collision.code == 2
    assert collision.err.startswith(
        "error: seed=3 is set on the command line, but seed is also set in hydra.sweeper.zip[0]"
    )
    assert collision.err.count("\n") == 1


@pytest.mark.thorough
def test_zip_and_exclude_on_the_command_line(runner: Run, tmp_path: Path) -> None:
    grid = partial(runner, "-m", "model=stub", "tracking=none")
    together = 'hydra.sweeper.zip=[{seed:"0,1",task.limit:"1,2"}]'
    without = "hydra.sweeper.exclude=[{seed:0,task.extractor:strict}]"
    globbed = grid(together, without, "task.extractor=glob(*),strict,flexible")
    assert globbed.code == 2, "a glob lists the choices of a group, and this is none"
    ended = grid(together, without, "task.extractor=strict,flexible")
    assert ended.code == 0, ended.err
    jobs = [(r["params"]["seed"], r["params"]["task.limit"], r["params"]["task.extractor"])
            for r in results(tmp_path).values()]  # fmt: skip
    assert sorted(jobs) == [("0", "1", "flexible"), ("1", "2", "flexible"), ("1", "2", "strict")]
    uneven = grid('hydra.sweeper.zip=[{seed:"0,1",task.limit:"1,2,3"}]')
    assert uneven.code == 2
    assert "hydra.sweeper.zip[0]: keys that are zipped together need" in uneven.err


@pytest.mark.thorough
def test_rerun_failed_and_rerun_all(grid: Start, runner: Run) -> None:
    arguments = (*STUB, "tracking=none", "seed=0,1,2,2")
    started = grid(*arguments, faults={1: "raise"})
    assert started.wait().code == 1
    written = {seed: file.stat().st_mtime_ns for seed, file in by_seed(started.folder).items()}

    failed = runner("-m", *arguments, "rerun=failed", cwd=started.folder)
    assert failed.code == 0, failed.err
    assert "4 jobs: 1 to resume, 3 done" in failed.err
    now = {seed: file.stat().st_mtime_ns for seed, file in by_seed(started.folder).items()}
    assert [seed for seed in now if now[seed] != written[seed]] == [1]
    notes = json.loads(by_seed(started.folder)[1].read_text())["result"]["notes"]
    assert [note for note in notes if "come from an earlier" in note], (
        "the job resumes from the answers on disk"
    )
    assert "4 jobs: 4 done" in grid(*arguments, "rerun=failed").wait().err

    everything = runner("-m", *arguments, "rerun=all", cwd=started.folder)
    assert everything.code == 0, everything.err
    assert "[3/3]" in everything.err, "a duplicate is done once"
    last = {seed: file.stat().st_mtime_ns for seed, file in by_seed(started.folder).items()}
    assert all(last[seed] != now[seed] for seed in now)
    assert [len(lines) for lines in samples(started.folder).values()] == [2, 2, 2]


def test_a_job_with_errors_is_shown_as_failed_and_not_by_its_numbers(grid: Start, tiny_llama: Path) -> None:
    started = grid(
        *(
            "model=auto",
            f"model.name={tiny_llama}",
            "model.device=cpu",
            "task.data=questions.jsonl",
            "task.split=test",
        ),
        *("generation.max_new_tokens=4", "tracking=none", "task.prompt=text,chat"),
        files={"questions.jsonl": QUESTIONS},
    )
    ended = started.wait()
    assert ended.code == 1
    lines = ended.err.splitlines()
    for place, name in enumerate(("text", "chat"), start=1):
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"[{place}/2]")]
        assert lines[at].startswith(f"[{place}/2] FAILED task.prompt={name}: 1 problem found:"), lines[at]
        assert "1 of 2 prompts cannot be answered. First error (prompt 1): the prompt has" in lines[at + 1]
    assert "accuracy" not in ended.err
    assert "0.0 [" not in ended.out, "a question without an answer does not count as wrong"
    assert "failed" in ended.out


@pytest.mark.thorough
def test_the_parent_run_of_the_jobs(grid: Start) -> None:
    arguments = (*STUB, "workers=1", "seed=0,1,1")
    started = grid(*arguments, faults={1: "raise"})
    assert started.wait().code == 1
    (above,) = [run for run in mlflow_runs(started.folder) if run.is_grid]
    below = [run for run in mlflow_runs(started.folder) if not run.is_grid]
    assert above.status == "FAILED"
    assert Counter(run.status for run in below) == {"FINISHED": 1, "FAILED": 1}
    assert {run.tags["mlflow.parentRunId"] for run in below} == {above.run_id}
    assert above.tags["overrides"] == " ".join(arguments)
    assert {"machine.cpu", "machine.cores", "machine.memory_gib", "machine.gpus"} <= set(above.tags)
    assert {"version.python", "version.torch", "version.transformers"} <= set(above.tags)
    plan = plan_of(started.folder, above.run_id)
    assert [job["overrides"][-1] for job in plan] == ["seed=0", "seed=1", "seed=1"]
    assert {job["planned"] for job in plan} == {"to do"}
    assert [job["status"] for job in plan[:2]] == ["FINISHED", "FAILED"]
    assert plan[1]["problem"] == "RuntimeError: out of luck"
    assert {job["job_id"] for job in plan} == {run.job_id for run in below}

    assert grid(*arguments).wait().code == 0
    runs = mlflow_runs(started.folder)
    assert [run.status for run in runs if run.is_grid] == ["FINISHED"], "the same grid has the same run"
    assert Counter(run.status for run in runs if not run.is_grid) == {"FINISHED": 2, "FAILED": 1}

    third = grid(*arguments, PYTHONPROFILEIMPORTTIME="1").wait()
    assert third.code == 0
    assert "3 jobs: 3 done" in third.err
    assert third.out.count(" done before  ") == 3
    assert "| mlflow\n" not in third.err.replace(" ", "").replace("|", "| "), (
        "nothing to log, so MLflow is not imported"
    )
    assert len(mlflow_runs(started.folder)) == len(runs)


@pytest.mark.thorough
def test_a_death_between_two_writes_is_mended(grid: Start) -> None:
    """MLflow has a job as FINISHED and its record does not say so; all jobs of a grid are done, and
    its run is RUNNING."""
    started = grid(*STUB, "workers=1", "seed=0,1")
    assert started.wait().code == 0
    (above,) = [run for run in mlflow_runs(started.folder) if run.is_grid]
    result = by_seed(started.folder)[0]
    record = Record.from_json(result.read_text())
    record.mlflow_uri = None
    result.write_text(record.to_json())
    with contextlib.closing(sqlite3.connect(started.folder / "outputs" / "mlflow.db")) as database:
        database.execute(
            "update runs set status = 'RUNNING', end_time = null where run_uuid = ?", (above.run_id,)
        )
        database.commit()
    pending_file = started.folder / "outputs" / ".grids" / "0123"
    pending_file.write_text(json.dumps([{"uri": None, "experiment": "runner", "tag": above.tags["begun"]}]))
    pending_file.with_suffix(".lock").touch()

    # all done: the dead grid's run is ended, and this grid gets its own
    again = grid(*STUB, "seed=1")
    assert again.wait().code == 0
    assert [run.status for run in mlflow_runs(started.folder) if run.is_grid] == ["KILLED", "FINISHED"]
    assert grid(*STUB, "workers=1", "seed=0,1").wait().code == 0
    assert Counter(run.status for run in mlflow_runs(started.folder) if not run.is_grid) == {"FINISHED": 3}, (
        "one below both"
    )
    assert not list((started.folder / "outputs" / ".grids").iterdir())


def plan_of(folder: Path, run_id: str) -> list[dict[str, Any]]:
    file = folder / "outputs" / "mlartifacts" / run_id / "artifacts" / "plan.json"
    jobs: list[dict[str, Any]] = json.loads(file.read_text())["jobs"]
    return jobs


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("swept", "wanted"),
    [
        ("output_dir=p1,p2", ("p1/jobs/*/result.json", "p2/jobs/*/result.json")),
        ("tracking.uri=sqlite:///a.db,sqlite:///b.db", ("a.db", "b.db", "outputs/jobs/*/result.json")),
        ("task.output=x.jsonl,y.jsonl", ("x.jsonl", "y.jsonl", "outputs/jobs/*/result.json")),
    ],
)
def test_jobs_that_differ_only_in_their_destination_are_each_delivered(
    runner: Run, new_database: Callable[[Path], None], tmp_path: Path, swept: str, wanted: tuple[str, ...]
) -> None:
    tracked = "tracking.uri" in swept
    for name in ("a.db", "b.db") if tracked else ():
        new_database(tmp_path / name)
    task = ("model=stub", "task=generate", "task.prompt=Hi") if "task.output" in swept else STUB
    ended = runner("-m", *task, swept, *(() if tracked else ("tracking=none",)))
    assert ended.code == 0, ended.err
    assert "listed twice" not in ended.err
    for pattern in wanted:
        assert len(list(tmp_path.glob(pattern))) == 1, pattern
    for name in ("a.db", "b.db") if tracked else ():
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as store:
            query = "select count(*) from tags where key = 'job_id'"
            assert store.execute(query).fetchone() == (1,), name


def planned(
    tmp_path: Path, *overrides: Any, model: str = "stub", study: Path | None = None
) -> list[dict[str, Any]]:
    return package.grid(
        "plan=quick", "tracking=none", f"model={model}", f"output_dir={tmp_path}", *overrides, study=study
    )


@pytest.mark.thorough
def test_a_key_goes_to_the_jobs_whose_choices_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = planned(tmp_path, {"quantization": ["none", "nf4", "int8"]}, "quantization.double_quant=false")
    assert [row.get("quantization.double_quant") for row in rows] == [None, False, None]
    assert {row["status"] for row in rows} == {"to do"}
    ignored = note(
        "keys_left_out", keys=["quantization.double_quant"], choices="quantization=none, quantization=int8"
    )
    assert format_note(ignored) in capsys.readouterr().err
    plain = planned(tmp_path, {"quantization": ["none", "nf4"]})
    assert rows[0]["job_id"] == plain[0]["job_id"], "it is the same job as without the key"
    assert rows[1]["job_id"] != plain[1]["job_id"]
    capsys.readouterr()
    rows = planned(tmp_path, {"quantization": ["nf4", "fp4"]}, "quantization.double_quant=false")
    assert len(rows) == 2
    assert "ignored" not in capsys.readouterr().err, (
        "all jobs have it; the default choice, which lacks it, is no job"
    )


@pytest.mark.thorough
def test_a_sweep_over_such_a_key_runs_the_other_jobs_once(tmp_path: Path) -> None:
    rows = planned(
        tmp_path, {"quantization": ["none", "nf4"], "quantization.double_quant": [True, False]}, "seed=1,2"
    )
    names = [(row["quantization"], row.get("quantization.double_quant"), row["seed"]) for row in rows]
    assert names == [
        ("none", None, 1),
        ("none", None, 2),
        *(("nf4", it, seed) for it in (True, False) for seed in (1, 2)),
    ]


@pytest.mark.thorough
def test_a_key_that_no_choice_of_the_grid_has_is_an_error(tmp_path: Path) -> None:
    with raises(ConfigError, "unknown_choice", "quantization.doubel_quant"):
        planned(tmp_path, {"quantization": ["nf4", "fp4"]}, "quantization.doubel_quant=false")
    with raises(ConfigError, "unknown_choice", "quantization.double_quant"):
        planned(tmp_path, {"quantization": ["none", "int8"]}, "quantization.double_quant=false")
    (tmp_path / "own.yaml").write_text(
        "defaults: [config, _self_]\nhydra: {sweeper: {params: {quantization: 'none,nf4'}, "
        "exclude: [{quantization: nf4}]}}\n"
    )
    with raises(ConfigError, "unknown_choice", "quantization.double_quant"):
        planned(tmp_path, "quantization.double_quant=false", study=tmp_path / "own.yaml")
