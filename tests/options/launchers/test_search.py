"""Searches by Optuna: killed at any time, they go on, and repeat no finished trial."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grids import mlflow_runs, results, samples
from omegaconf import OmegaConf
from opened_files import opened
from servers import postgres_server
from stored import read_together

optuna = pytest.importorskip("optuna", reason="pip install 'runner-llm[dev]'")

SPACE = 'hydra.sweeper.params={generation.temperature: "interval(0.1,1.0)"}'
SEARCH = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1", SPACE,
          "generation=sampling", "task.limit=4")  # fmt: skip
Start = Callable[..., Any]


@pytest.fixture
def start(runner: Callable[..., Any]) -> Start:
    """Return a function that runs `python -m runner -m ARGUMENTS` in a folder, to its end."""

    def call(folder: Path, *arguments: str, **environment: str) -> Any:
        folder.mkdir(exist_ok=True)
        return runner("-m", *arguments, cwd=folder, **environment)

    return call


def best(folder: Path) -> tuple[float, float]:
    (file,) = (folder / "outputs" / "multirun").glob("*/optimization_results.yaml")
    found = OmegaConf.load(file)
    return found.best_params["generation.temperature"], found.best_value


def trials(folder: Path) -> list[tuple[int, str, float | None, str | None]]:
    """Read number, state, temperature and end of all trials from the study's database."""
    path = folder / "outputs" / "searches.db"
    if not path.exists():
        return []
    query = (
        "select number, state, param_value, datetime_complete from trials left join trial_params using (trial_id) "
        "order by number"
    )
    with read_together(path) as database:
        try:
            return [*database.execute(query)]
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []  # the tables are being made


@pytest.mark.slow
def test_a_search_in_our_workers(start: Start, tmp_path: Path) -> None:
    command = (*SEARCH, "hydra.sweeper.direction=maximize", "model=stub", "tracking=none")
    done = start(tmp_path, *command)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    counted = re.findall(
        r"^\[(\d)/(\d)\] generation.temperature=0\.\d+ +accuracy +\d+\.\d % ", done.err, re.MULTILINE
    )
    assert counted == [(str(number), "4") for number in range(1, 5)]
    assert re.search(r"^ *generation.temperature +status +accuracy", done.out, re.MULTILINE)
    assert len(re.findall(r"^ *0\.\d+ +finished ", done.out, re.MULTILINE)) == 4
    best_line = re.search(
        r"^best of 4 trials: accuracy 0\.0% \[0\.0, \d+\.\d\] of 4 questions, (gsm8k-\w+)\n  generation.temperature=(0\.\d+)$",
        done.out,
        re.M,
    )
    assert best_line is not None, done.out
    assert (best_line[1] in results(tmp_path), float(best_line[2])) == (True, best(tmp_path)[0])
    accuracies = [result["result"]["metrics"]["accuracy"] for result in results(tmp_path).values()]
    assert best(tmp_path)[1] == max(accuracies)
    pictures = {path.name for path in (tmp_path / "outputs" / "multirun").glob("search-*/*.png")}
    assert {"history.png", "slice.png"} <= pictures
    again = start(tmp_path, *command)  # nothing is left to do
    assert again.code == 0
    assert re.search(
        r"^study search-\w{12}: 4 trials are complete, 0 interrupted trials ", again.err, re.MULTILINE
    )
    assert not re.search(r"^\[\d", again.err, re.MULTILINE)
    assert len(re.findall(r"^ *0\.\d+ +finished ", again.out, re.MULTILINE)) == 4


@pytest.mark.thorough
def test_it_maximises_by_default(start: Start, tmp_path: Path) -> None:
    """The embedded model's accuracy differs with the temperature, so a search for the minimum would
    be noticed."""
    wide = 'hydra.sweeper.params={generation.temperature: "interval(0.1,4.0)"}'
    done = start(
        tmp_path, *SEARCH[:3], wide, *SEARCH[4:5], "task.limit=20", "hydra/launcher=workers", "tracking=none"
    )
    assert done.code == 0, done.err
    accuracies = [result["result"]["metrics"]["accuracy"] for result in results(tmp_path).values()]
    assert min(accuracies) < max(accuracies)
    assert best(tmp_path)[1] == max(accuracies)


@pytest.mark.thorough
def test_a_search_that_is_killed_three_times(grid: Start, start: Start, tmp_path: Path) -> None:
    """No finished trial is repeated, and the values are those of a search that was left alone."""
    slow = (*SEARCH[:1], "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=1", *SEARCH[2:], "model=stub")
    delayed = (*slow, "model.delay_s=0.3")
    folder, finished_before = tmp_path / "work", []
    for kill in range(1, 4):
        one = grid(*delayed)
        deadline = time.monotonic() + 120
        while sum(state == "COMPLETE" for _, state, *_ in trials(folder)) < kill or (
            [state for _, state, *_ in trials(folder)][-1:] != ["RUNNING"]
        ):
            assert time.monotonic() < deadline, one.err.read_text()
            assert one.process.poll() is None, one.err.read_text()
            time.sleep(0.02)
        time.sleep(0.4)  # amid the samples of the next trial
        os.kill(one.process.pid, signal.SIGKILL)
        one.wait()
        finished_before.append([row for row in trials(folder) if row[1] == "COMPLETE"])
    ended = grid(*delayed).wait()
    assert ended.code == 0, ended.err
    rows = trials(folder)
    assert [(number, state) for number, state, *_ in rows] == [(number, "COMPLETE") for number in range(6)]
    for before in finished_before:
        assert rows[: len(before)] == before, "with the same time of their end"
    found = [json.loads(path.read_text()) for path in (folder / "outputs" / "jobs").glob("*/result.json")]
    assert len(found) == 6, "a repeat with other values would be a seventh"
    ran = [run for run in mlflow_runs(folder) if run.status == "FINISHED"]
    assert len(ran) == 6
    assert all(len(lines) == 4 for lines in samples(folder).values())
    assert ": 3 trials are complete, 1 interrupted trials " in ended.err
    # the control: nobody kills it
    alone = start(tmp_path / "alone", *slow)
    assert alone.code == 0, alone.err
    assert [row[2] for row in trials(tmp_path / "alone")] == [row[2] for row in rows]
    # the control of the count: without its study the search would have begun anew, and a repeat is
    # seen
    (folder / "outputs" / "searches.db").unlink()
    anew = start(folder, *delayed, "hydra.sweeper.sampler.seed=2")
    assert anew.code == 0, anew.err
    assert len(results(folder)) == 12


@pytest.mark.thorough
@pytest.mark.slow
def test_a_search_with_another_setting_is_another_search(start: Start, tmp_path: Path) -> None:
    """Also where the setting is in a file and not on the command line."""
    (tmp_path / "conf" / "task").mkdir(parents=True)
    choice = tmp_path / "conf" / "task" / "mine.yaml"
    text = "defaults: [gsm8k, _self_]\nlimit: {}\n"
    choice.write_text(text.format(2))
    command = ("-cd", str(tmp_path / "conf"), *SEARCH[:1], "hydra.sweeper.n_trials=2", *SEARCH[2:5], "task=mine",
               "model=stub", "tracking=none")  # fmt: skip
    assert start(tmp_path, *command).code == 0
    again = start(tmp_path, *command)
    assert "2 trials are complete" in again.err, "the control: with the same setting it is the same"
    named = start(tmp_path, *command, "hydra.sweeper.study_name=mine")
    assert named.code == 0, named.err
    choice.write_text(text.format(3))
    other = start(tmp_path, *command)
    assert other.code == 0, other.err
    assert "trials are complete" not in other.err
    assert len(results(tmp_path)) == 4
    refused = start(tmp_path, *command, "hydra.sweeper.study_name=mine")
    assert refused.code == 2
    assert (
        "hydra.sweeper.study_name=mine: the study was started with another model, data set or setting"
        in refused.err
    )
    assert not opened(tmp_path), "also where it is refused"


@pytest.mark.thorough
def test_a_search_in_a_postgresql(start: Start, tmp_path: Path) -> None:
    """Its study is there, goes on from there, and is not in the output folder."""
    with postgres_server() as uri:
        command = (*SEARCH, "model=stub", "tracking=none", f"hydra.sweeper.storage='{uri}'")
        first = start(tmp_path, *command, "hydra.sweeper.n_trials=2")
        assert first.code == 0, first.err
        again = start(tmp_path, *command)
        assert again.code == 0, again.err
        assert "2 trials are complete, 0 interrupted trials" in again.err
    assert len(results(tmp_path)) == 4
    assert not (tmp_path / "outputs" / "searches.db").exists()
    gone = start(tmp_path, *command)
    assert gone.code == 2
    assert gone.err.splitlines()[-1].startswith("error: hydra.sweeper.storage=postgresql")


@pytest.mark.thorough
@pytest.mark.slow
def test_two_processes_share_a_search(grid: Start, tmp_path: Path) -> None:
    """Neither takes a trial that the other is running."""
    command = (
        *SEARCH[:1],
        "hydra.sweeper.n_trials=6",
        "hydra.sweeper.n_jobs=1",
        *SEARCH[2:],
        "model=stub",
        "model.delay_s=0.3",
    )
    first = grid(*command)
    while not trials(tmp_path / "work"):
        time.sleep(0.05)
        assert first.process.poll() is None, first.err.read_text()
    ended = [grid(*command, name="second").wait(), first.wait()]
    assert [it.code for it in ended] == [0, 0], [it.err for it in ended]
    rows = trials(tmp_path / "work")
    assert {state for _, state, *_ in rows} == {"COMPLETE"}
    assert len(rows) == 6
    assert len({value for _, _, value, _ in rows}) == 6, "no value is proposed twice"
    assert len(list((tmp_path / "work" / "outputs" / ".searches").glob("*.running"))) <= 1, (
        "locks do not pile up"
    )
    assert all(len(lines) == 4 for lines in samples(tmp_path / "work").values())


@pytest.mark.thorough
@pytest.mark.slow
def test_a_trial_that_fails_is_tried_again(grid: Start, start: Start, tmp_path: Path) -> None:
    command = (*SEARCH, "model=stub", "seed=2", "tracking=none")
    done = grid(*command, faults={2: "raise"}).wait()
    assert done.code == 1
    assert done.err.splitlines()[-1] == "error: RuntimeError: out of luck"
    assert "Traceback" not in done.err
    asked = [row[2] for row in trials(tmp_path / "work")]
    assert {state for _, state, *_ in trials(tmp_path / "work")} == {"RUNNING"}
    done = start(tmp_path / "work", *command)
    assert done.code == 0, done.err
    rows = trials(tmp_path / "work")
    assert [state for _, state, *_ in rows] == ["COMPLETE"] * 4
    assert [row[2] for row in rows][: len(asked)] == asked
    # failures that are allowed count as trials
    other = (
        "hydra.sweeper.max_failure_rate=1",
        "hydra.sweeper.study_name=mine",
        "hydra.sweeper.sampler.seed=5",
    )
    some = grid(*command, *other, faults={2: "raise"}).wait()
    assert some.code == 0, some.err
    with read_together(tmp_path / "work" / "outputs" / "searches.db") as database:
        query = "select state, count(*) from trials join studies using (study_id) where study_name = 'mine' group by state"
        assert [*database.execute(query)] == [("FAIL", 4)]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_grid_of_all_combinations_ends_by_itself(start: Start, tmp_path: Path) -> None:
    done = start(
        tmp_path, *SEARCH[:1], "hydra.sweeper.sampler.name=grid", "model=stub", "tracking=none", "task.limit=2",
        "seed=1,2", "generation=greedy,sampling", "hydra/launcher=basic", "task.cluster=null",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert len(results(tmp_path)) == 4
    assert "best of 4 trials: accuracy 0.0% [0.0, 65.8] of 2 questions" in done.out
    assert "{seed: 1, generation: sampling}" in done.out, "a group is a value as any other"
    assert not opened(tmp_path), "Optuna itself closes no connection: Python 3.13 warns of that"


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hydra.sweeper.sampler.name=best",), "hydra.sweeper.sampler.name=best: no sampler 'best'. Choices: cmaes, gp, grid, qmc, random, tpe"),
        (("hydra.sweeper.direction=up",), "hydra.sweeper.direction=up: no direction 'up'. Choices: maximize, minimize"),
        (("hydra.sweeper.direction=[maximize,minimize]",), "a search has one objective"),
        (("hydra.sweeper.n_trials=0",), "hydra.sweeper.n_trials=0"),
        (("hydra.sweeper.max_failure_rate=2",), "hydra.sweeper.max_failure_rate=2: from 0 to 1"),
        (("hydra.sweeper.sampler.name=grid",), "hydra.sweeper.sampler.name=grid: a grid search cannot vary the continuous interval of generation.temperature"),
        (("hydra.sweeper.storage=nosql://x",), "hydra.sweeper.storage=nosql://x: Can't load plugin: sqlalchemy.dialects:nosql"),
        (("gate.baseline=quantization=none", "gate.margin=2"), "gate.baseline=quantization=none: "),
        (("plan=true",), "plan=true needs hydra/sweeper=grid"),
        (("generation.temperatur=interval(0,1)",), "Did you mean generation.temperature?"),
    ],
)  # fmt: skip
def test_what_a_search_cannot_do_is_said_first(
    runner: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    done = runner("-m", *SEARCH, "model=stub", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert message in done.err.splitlines()[-1]
