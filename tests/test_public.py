"""docs/public.md says what may be relied on: its lists are those of the program."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from options_here import absent

import runner as runner_package
from runner_base.plugins import KINDS
from tools.borders import ROOT

PAGE = (ROOT / "docs/public.md").read_text()
SECTIONS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
# not there without the option
OF_OPTIONS = {"runner-advise", "runner-convert-lora", "runner-lm-eval"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def quoted(text: str) -> set[str]:
    """Return what stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def test_the_commands_are_those_that_are_installed() -> None:
    named = {
        name for name in quoted(SECTIONS["The command line and YAML"]) if re.fullmatch(r"runner[a-z-]*", name)
    }
    installed = set(PYPROJECT["scripts"])
    assert installed <= named <= installed | OF_OPTIONS


def test_every_variable_of_ours_is_listed() -> None:
    read = set()
    for package in ("runner", "runner_base", "runner_compare", "runner_engine"):
        for path in (ROOT / package).rglob("*.py"):
            read |= set(re.findall(r'"(RUNNER_[A-Z_]+)"', path.read_text()))
    listed = {name for name in quoted(SECTIONS["The command line and YAML"]) if name.startswith("RUNNER_")}
    assert listed >= read
    assert listed == read or absent(), "an option reads the others"


def test_the_names_in_python_are_those_of_the_package() -> None:
    (line,) = [line for line in SECTIONS["Python"].splitlines() if line.startswith("| `runner` |")]
    assert quoted(line) - {"runner"} == set(runner_package.__all__)


def test_every_group_of_entry_points_that_others_may_use_is_listed() -> None:
    groups = {name for name in quoted(SECTIONS["Python"]) if re.fullmatch(r"runner(_compare)?\.[a-z]+", name)}
    ours = {group for group in PYPROJECT["entry-points"] if group.startswith("runner_compare.")}
    assert groups - {"runner.compare"} == set(KINDS.values()) | ours


@pytest.mark.parametrize(
    ("files", "arguments"),
    [
        ({"samples.jsonl"}, ["model=stub", "task.limit=2"]),
        ({"samples.jsonl", "completions.jsonl"}, ["model=stub", "task=generate", "task.prompt=Hello"]),
        (
            {"measurements.jsonl"},
            ["task=sweep", "task.batch_sizes=[1]", "task.prompt_tokens=[8]", "task.repeats=1"],
        ),
    ],
)
def test_a_job_leaves_only_files_that_are_listed(
    files: set[str], arguments: list[str], runner: Callable[..., Any], tmp_path: Path
) -> None:
    done = runner(*arguments, f"output_dir={tmp_path}", "print=json")
    assert done.code == 0, done.err
    assert {"job_id", "status", "output_dir", "metrics", "mlflow_run_id"} <= set(done.json())
    assert set(done.json()) <= quoted(SECTIONS["JSON and HTTP"])
    folder = Path(done.json()["output_dir"])
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".") and path.suffix != ".svg"}
    assert {"config.yaml", "result.json", "log.txt"} | files <= left
    assert left <= quoted(SECTIONS["Files"])
