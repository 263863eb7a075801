"""No command is silent for more than 10 s; what ends earlier prints no line of progress."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.silences import Watched, watch

LIMIT_S = 10.0
LINE = re.compile(r"\d+/\d+ questions, [\d.]+ per (s|min), \S+( s)? left|… [\d:.]+( s)?")
DELAY_S = 4.0


def watched(*arguments: str, folder: Path, in_terminal: bool, switch: str = "on") -> Watched:
    """Run the runner with a model that is slow, and note its silences."""
    command = [sys.executable, "-m", "runner", "model=stub", "task=gsm8k", "tracking=none"]
    environment = {**os.environ, "RUNNER_PROGRESS": switch}
    return watch([*command, f"output_dir={folder}", *arguments], in_terminal, environment=environment)


def lines(ran: Watched) -> list[str]:
    """Return the lines of progress."""
    return [line for line in ran.output.splitlines() if LINE.search(line)]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("in_terminal", [False, True], ids=["pipe", "terminal"])
def test_a_slow_job_is_never_silent(tmp_path: Path, in_terminal: bool) -> None:
    slow = ("task.limit=5", f"model.delay_s={DELAY_S}", "generation.batch_size=1")
    ran = watched(*slow, folder=tmp_path, in_terminal=in_terminal)
    assert ran.code == 0, ran.output
    assert ran.seconds > 5 * DELAY_S > LIMIT_S
    assert ran.longest.seconds <= LIMIT_S, ran.longest
    if not in_terminal:
        (line,) = [line for line in lines(ran) if "4/5" in line] or lines(ran)[-1:]
        assert re.search(r"[1-4]/5 questions, 1?[1-9] per min, \S+ s left", line)


@pytest.mark.thorough
@pytest.mark.slow
def test_without_progress_the_same_job_is_silent(tmp_path: Path) -> None:
    """The other test can fail."""
    slow = ("task.limit=5", f"model.delay_s={DELAY_S}", "generation.batch_size=1")
    ran = watched(*slow, folder=tmp_path, in_terminal=False, switch="off")
    assert ran.code == 0
    assert not lines(ran)
    assert ran.longest.seconds > LIMIT_S


def test_a_short_job_prints_no_line_of_progress(tmp_path: Path) -> None:
    ran = watched("task.limit=2", folder=tmp_path, in_terminal=False)
    assert ran.code == 0, ran.output
    assert not lines(ran) or ran.seconds > LIMIT_S - 1  # on a very busy machine it takes longer


@pytest.mark.thorough
def test_a_process_that_is_to_be_copied_has_no_other_thread() -> None:
    program = """
from runner.tracking.tracking_process import _count_threads
from runner_base import heartbeat
with heartbeat.run_heartbeat():
    for _ in range(50):
        assert _count_threads() == 2
        with heartbeat.pause_heartbeat():
            assert _count_threads() == 1
assert _count_threads() == 1
"""
    variables = os.environ | {"RUNNER_PROGRESS": "on"}
    subprocess.run([sys.executable, "-c", program], check=True, env=variables)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_grid_prints_its_jobs_where_it_has_no_terminal(tmp_path: Path) -> None:
    slow = ("task.limit=4", f"model.delay_s={DELAY_S}", "generation.batch_size=1", "workers=2")
    ran = watched("-m", "seed=1,2", *slow, folder=tmp_path, in_terminal=False)
    assert ran.code == 0, ran.output
    assert ran.longest.seconds <= LIMIT_S, ran.longest
    assert "0 of 2 done" in ran.output
    assert re.search(r"seed=1: (gsm8k )?[0-4]/4", ran.output)


@pytest.mark.thorough
@pytest.mark.slow
def test_json_on_stdout_stays_alone(tmp_path: Path) -> None:
    arguments = ("print=json", "task.limit=4", f"model.delay_s={DELAY_S}", "generation.batch_size=1")
    ran = watched(*arguments, folder=tmp_path, in_terminal=False)
    assert len(lines(ran)) >= 1
    assert ran.output.splitlines()[-1].startswith("{")
