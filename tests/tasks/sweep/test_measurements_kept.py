"""Sweeps and memory tasks that are interrupted by real signals: what was measured is kept, and not
measured again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import warm_process
from grids import wait_for

from runner_base.repeats import read_repeats

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
SAID = re.compile(r"interrupted: (\d+) of (\d+) measurements kept, run the same command to resume")
PLAIN = ("tracking=none", "print=none", "task.pictures=false")
# a token takes as long as the stub sleeps, however busy the machine is
SWEEP = (
    *PLAIN,
    "task=sweep",
    "model=stub",
    "model.delay_s=0.03",
    "task.batch_sizes=[1,2]",
    "task.prompt_tokens=[4,8]",
)
MEMORY = (
    *PLAIN,
    "task=memory",
    "model=stub",
    "task.batch_sizes=[1,2]",
    "task.context_lengths=[16,32]",
    "task.new_tokens=4",
)
PROMPTS = (
    *PLAIN,
    "task=sweep",
    "model=embedded",
    "task.prompts=embedded",
    "task.new_tokens=4",
    "task.repeats=3",
)


def lines_of(folder: Path) -> list[str]:
    return [
        line for path in folder.glob("jobs/*/measurements.jsonl") for line in path.read_text().splitlines()
    ]


def result_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("jobs/*/result.json")
    result: dict[str, Any] = json.loads(path.read_text())["result"]
    return result


def interrupt_after(count: int, sent: signal.Signals, folder: Path, *words: str) -> str:
    """Start a job in a process of its own, send a signal when so many lines are on disk, and return
    its stderr."""
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *words, f"output_dir={folder}"],
        cwd=folder.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(lines_of(folder)) >= count or process.poll() is not None)
    process.send_signal(sent)
    _, err = process.communicate(timeout=200)
    assert process.returncode == (-9 if sent is signal.SIGKILL else 130), err
    return err


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("sent", SIGNALS, ids=[it.name for it in SIGNALS])
def test_an_interrupted_sweep_goes_on(
    runner: Callable[..., Any], tmp_path: Path, sent: signal.Signals
) -> None:
    """4 cells in 6 rounds, 24 measurements; the first round is the warm-up."""
    whole, folder = tmp_path / "whole", tmp_path / "interrupted"
    assert runner(*SWEEP, f"output_dir={whole}").code == 0
    err = interrupt_after(10, sent, folder, *SWEEP)
    before = lines_of(folder)
    assert 10 <= len(before) < 24
    if sent is not signal.SIGKILL:
        said = SAID.search(err)
        assert said is not None, err
        assert said.groups() == (str(len(before)), "24")
    done = runner(*SWEEP, f"output_dir={folder}")
    assert done.code == 0, done.err
    after = lines_of(folder)
    assert after[: len(before)] == before
    cells = [(line["round"], line["cell"]) for line in map(json.loads, after)]
    assert len(cells) == len(set(cells)) == 24, "each is measured once"
    ours, other = result_of(folder), result_of(whole)
    assert (
        f"{len(before)} of 24 measurements come from an earlier, interrupted run of this job" in ours["notes"]
    )
    assert not any("measurements come from an earlier" in note for note in other["notes"])
    assert ours["metrics"].keys() == other["metrics"].keys()
    assert [row.keys() for row in ours["rows"]] == [row.keys() for row in other["rows"]]
    for cell in ("batch_1_prompt_4", "batch_2_prompt_8"):
        name = f"seconds/{cell}"
        assert ours["metrics"][name] == pytest.approx(other["metrics"][name], rel=0.25)
    (repeats,) = folder.glob("jobs/*/repeats.jsonl")
    for name, values in read_repeats(repeats).items():
        assert len(values) == 5
        assert ours["metrics"][name] == median(values)
    kept = [json.loads(line) for line in before if json.loads(line)["round"] == 1]
    for line in kept:
        assert read_repeats(repeats)[f"seconds/{line['cell']}"][0] == line["figures"]["seconds"]


@pytest.mark.thorough
@pytest.mark.slow
def test_real_prompts_and_rates_of_requests_go_on(runner: Callable[..., Any], tmp_path: Path) -> None:
    """Each prompt is sent once, in the order of a sweep without an interruption; a rate of requests
    is kept whole."""
    words = (*PROMPTS, "task.batch_sizes=[1,3]", "task.arrival_rates=[20,40]", "task.arrival_requests=40")
    whole, folder = tmp_path / "whole", tmp_path / "interrupted"
    assert runner(*words, f"output_dir={whole}").code == 0
    # in the second round or later: it has 2 runs and the rates
    interrupt_after(6, signal.SIGKILL, folder, *words)
    of_cells = lines_of(folder)
    loads = len([line for line in lines_of(whole) if '"what": "load"' in line])
    assert loads == 2
    interrupt_after(len(lines_of(whole)) - 1, signal.SIGKILL, folder, *words)
    assert lines_of(folder)[: len(of_cells)] == of_cells
    before = lines_of(folder)
    done = runner(*words, f"output_dir={folder}")
    assert done.code == 0, done.err
    assert lines_of(folder)[: len(before)] == before
    assert len(lines_of(folder)) == len(lines_of(whole))
    ours, other = result_of(folder), result_of(whole)
    assert ours["facts"]["prompts"] == other["facts"]["prompts"], "the same prompts were sent"
    assert not any("repeated" in note for note in ours["notes"])
    assert ours["metrics"].keys() == other["metrics"].keys()
    [first] = [json.loads(line) for line in before if '"rate": 20' in line]
    assert ours["metrics"]["answered/rate_20"] == sum(it is not None for it in first["ended_s"])


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_an_interrupted_memory_task_goes_on(
    runner: Callable[..., Any], tmp_path: Path, sent: signal.Signals
) -> None:
    """4 points in 3 fresh processes; the one that was stopped amid its points is followed by one
    with the rest."""
    folder = tmp_path / "interrupted"

    def points() -> list[str]:
        return [line for line in lines_of(folder) if '"speed"' in line]

    # 16 lines a repeat: its start, and 3 for each point
    err = interrupt_after(22, sent, folder, *MEMORY)
    before = points()
    assert 4 < len(before) < 12
    if sent is not signal.SIGKILL:
        said = SAID.search(err)
        assert said is not None, err
        assert said.groups() == (str(len(before)), "12")
    done = runner(*MEMORY, f"output_dir={folder}")
    assert done.code == 0, done.err
    assert points()[: len(before)] == before
    measured = [(line["repeat"], line["event"]["point"]) for line in map(json.loads, points())]
    assert len(measured) == len(set(measured)) == 12
    result = result_of(folder)
    assert (
        f"{len(before)} of 12 measurements come from an earlier, interrupted run of this job"
        in result["notes"]
    )
    assert (result["metrics"]["repeats"], result["metrics"]["points_not_measured"]) == (3, 0)


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2, reason="needs two cores"
)
def test_other_cores_are_another_machine(runner: Callable[..., Any], tmp_path: Path) -> None:
    interrupt_after(10, signal.SIGKILL, tmp_path / "here", *SWEEP)
    (interrupted,) = (tmp_path / "here" / "jobs").glob("sweep-*")
    command = [sys.executable, "-m", "runner", *SWEEP, f"output_dir={tmp_path}/here"]
    done = subprocess.run(
        ["taskset", "-c", "0", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (other,) = (path for path in (tmp_path / "here" / "jobs").glob("sweep-*") if path != interrupted)
    assert len((other / "measurements.jsonl").read_text().splitlines()) == 24
    assert "measurements come from an earlier" not in (other / "result.json").read_text()


@pytest.mark.thorough
def test_the_plan_of_a_grid_says_that_a_sweep_resumes(runner: Callable[..., Any], tmp_path: Path) -> None:
    words = (*SWEEP, "task.repeats=1")
    assert runner(*words, f"output_dir={tmp_path}/here").code == 0
    (result,) = (tmp_path / "here").glob("jobs/*/result.json")
    result.unlink()
    done = runner("-m", *words, "seed=0,1", "plan=true", "print=table", f"output_dir={tmp_path}/here")
    assert done.code == 0, done.err
    assert "1 to do, 1 to resume" in done.out


@pytest.mark.thorough
def test_a_changed_line_is_refused_by_its_number(runner: Callable[..., Any], tmp_path: Path) -> None:
    words = (*SWEEP, "task.repeats=1")
    assert runner(*words, f"output_dir={tmp_path}/here").code == 0
    (job,) = (tmp_path / "here" / "jobs").glob("sweep-*")
    (job / "result.json").unlink()
    path = job / "measurements.jsonl"
    path.write_text(re.sub('"seconds": [0-9.]+', '"seconds": 9.5', path.read_text(), count=1))
    done = runner(*words, f"output_dir={tmp_path}/here")
    assert done.code == 2
    assert (
        "measurements.jsonl, line 1: the line is not a valid measurement (the checksum does not match"
        in done.err
    )
    assert "rerun=all" in done.err
