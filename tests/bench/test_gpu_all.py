"""The steps for a GPU: stored results, the time limit, killed runs, and a dry run on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runner_base.child_process import start_python_child_process

if TYPE_CHECKING:
    from gpu_all import RunSettings, Step
    from gpu_results import StepResult

BENCH = Path(__file__).resolve().parents[2] / "bench"
SIDE = """
import sys, time
from pathlib import Path
from gpu_results import Check, Place, StepOutput
from latest import Figure
from runner_base.child_process import request_kill_when_parent_dies

name, device, written = sys.argv[1:4]
request_kill_when_parent_dies(int(sys.argv[5]))
folder = Path(__file__).parent
output = StepOutput(Place("a card", "1.2", "2.11.0"), [Check("a statement", "a value", True)])
output.figures.append(Figure("decode", "tokens/s", 12.0, side="runner"))
output.write(Path(written))
with (folder / "started.txt").open("a") as started:
    started.write(name + "\\n")
if name == "raises":
    raise RuntimeError("a planned error")
if name == "missing":
    output.missing = "no package"
if name == "wrong":
    output.checks.append(Check("a false statement", "a value", False))
while name == "waits" and not (folder / "go").exists():
    time.sleep(0.02)
output.write(Path(written))
"""
DRIVER = """
import sys
from pathlib import Path
from gpu_all import RunSettings, Step, run_steps

folder = Path(sys.argv[1])
steps = [Step("first", 1, 60), Step("waits", 1, 60), Step("last", 1, 60)]
run_steps(steps, RunSettings(folder / "out", "cpu", 1.0, side=folder / "side.py"))
"""


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    from gpu_all import RunSettings

    (tmp_path / "side.py").write_text(SIDE)
    return RunSettings(tmp_path / "out", "cpu", 1.0, side=tmp_path / "side.py")


def make_steps(*names: str, needs_s: float = 1, limit_s: float = 60) -> list[Step]:
    from gpu_all import Step

    return [Step(name, needs_s, limit_s) for name in names]


def started(settings: RunSettings) -> list[str]:
    return (settings.side.parent / "started.txt").read_text().split()


def stored(settings: RunSettings) -> list[StepResult]:
    from gpu_results import RESULTS_NAME, read_results

    return read_results(settings.folder / RESULTS_NAME)


def test_a_step_that_raises_keeps_its_last_lines_and_is_repeated_on_request(settings: RunSettings) -> None:
    from gpu_all import run_steps
    from gpu_results import Status, render_result

    steps = make_steps("raises", "wrong", "missing", "first")
    results = run_steps(steps, settings)
    assert [one.status for one in results] == [Status.failed, Status.done, Status.not_run, Status.done]
    assert [one.passed for one in results] == [False, False, True, True]
    assert results[0].last_lines[-1] == "RuntimeError: a planned error"
    assert "RuntimeError: a planned error" in render_result(results[0])
    assert results[2].reason == "no package"
    assert stored(settings) == results
    assert run_steps(steps, settings)[0] == results[0]
    assert started(settings)[4:] == ["missing"], "what was missing may be there now"
    run_steps(steps, replace(settings, should_retry=True))
    assert started(settings)[5:] == ["raises", "wrong", "missing"]


def test_a_killed_run_continues_with_the_step_that_was_killed(settings: RunSettings) -> None:
    from gpu_all import run_steps
    from gpu_results import Status

    folder = settings.side.parent
    run = start_python_child_process(
        "-c", DRIVER, str(folder), start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: (folder / "started.txt").exists() and "waits" in started(settings))
        (step_pid,) = children(run.pid)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    wait_for(lambda: has_ended(step_pid))
    before = stored(settings)
    assert [one.step for one in before] == ["first"]
    (folder / "go").touch()
    results = run_steps(make_steps("first", "waits", "last"), settings)
    assert results[0] == before[0]
    assert {one.status for one in results} == {Status.done}
    assert started(settings) == ["first", "waits", "waits", "last"]
    assert stored(settings) == results


def test_a_step_that_needs_more_than_the_time_left_starts_in_a_later_run(settings: RunSettings) -> None:
    from gpu_all import run_steps
    from gpu_results import Status

    steps = [*make_steps("first"), *make_steps("long", needs_s=50), *make_steps("last")]
    results = run_steps(steps, replace(settings, minutes=0.5))
    assert [one.status for one in results] == [Status.done, Status.not_started, Status.done]
    assert [one.step for one in stored(settings)] == ["first", "last"]
    again = run_steps(steps, settings)
    assert [one.status for one in again] == [Status.done] * 3
    assert started(settings) == ["first", "last", "long"]


def test_a_step_is_stopped_at_its_limit_and_keeps_what_it_has_written(settings: RunSettings) -> None:
    from gpu_all import run_steps
    from gpu_results import Status

    begun = time.monotonic()
    (result,) = run_steps(make_steps("waits", limit_s=4), settings)
    assert result.status is Status.timed_out
    assert 4 <= time.monotonic() - begun < 50
    assert [check.what for check in result.output.checks] == ["a statement"]
    (result,) = run_steps(make_steps("waits"), replace(settings, should_retry=True, minutes=0.05))
    assert result.status is Status.timed_out, "the time of the whole run limits a step, too"


def test_results_of_another_device_are_not_mixed(settings: RunSettings) -> None:
    from gpu_all import run_steps

    run_steps(make_steps("first"), settings)
    with pytest.raises(SystemExit, match="--out="):
        run_steps(make_steps("first"), replace(settings, device="cuda"))


def test_a_stored_run_is_printed_again_in_at_most_100_columns(settings: RunSettings) -> None:
    from gpu_all import run_steps
    from gpu_results import RESULTS_NAME, TABLES_NAME

    run_steps(make_steps("first", "raises"), settings)
    command = [sys.executable, str(BENCH / "gpu_all.py"), "--show", str(settings.folder / RESULTS_NAME)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == (settings.folder / TABLES_NAME).read_text()
    assert "a card, driver 1.2, torch 2.11.0" in shown
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.thorough
def test_the_dry_run_takes_every_step_and_none_fails(tmp_path: Path) -> None:
    from gpu_all import STEPS
    from gpu_results import RESULTS_NAME, Status, read_results

    command = [sys.executable, str(BENCH / "gpu_all.py"), "--dry-run", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = {one.step: one for one in read_results(tmp_path / RESULTS_NAME)}
    assert list(results) == [step.name for step in STEPS]
    not_run = {name for name, one in results.items() if one.status is not Status.done}
    assert not_run <= {"vllm", "thorough_tests"}
    assert all(one.output.checks for name, one in results.items() if name not in not_run)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_ended(pid: int) -> bool:
    """Return whether a process has ended. Its parent may not have read its exit status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
