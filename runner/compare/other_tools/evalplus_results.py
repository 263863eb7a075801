"""Reads what EvalPlus writes beside the samples: `…_eval_results.json`, with the tests that each solution passed.

`base` are the tests of the original benchmark, `plus` those and EvalPlus' own. The file names neither the model nor
the settings: EvalPlus names the file by them. Of several solutions to a task, the share that passes counts, which is
EvalPlus' pass@1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.compare.other_tools.files import field_of, parse
from runner.compare.other_tools.several_answers import joined
from runner.compare.other_tools.shapes import Outline
from runner.compare.other_tools.tool_run import METRIC, ToolFile, ToolRun, ToolSample, check_samples_differ
from runner.core.errors import DataError

TOOL = "EvalPlus"
ENDING = "_eval_results"
PASS, STATES = "pass", ("pass", "fail", "timeout")
TESTS = {"base": ("base_status",), "plus": ("base_status", "plus_status")}


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file has the verdicts of EvalPlus."""
    return outline.has("date", "hash", "eval")


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return the evaluations of a file: by the base tests, and by all tests if these were run."""
    content = parse(raw, str(path))
    tasks = field_of(content, "eval", dict, str(path))
    solutions = [(task, one) for task, several in tasks.items() for one in _solutions(path, task, several)]
    has_plus = any(one.get("plus_status") is not None for _, one in solutions)
    benchmark = next(iter(tasks), "").partition("/")[0]
    runs = []
    for metric in ("base", "plus") if has_plus else ("base",):
        samples = joined((_sample(path, task, one, TESTS[metric]) for task, one in solutions), can_vote=False)
        check_samples_differ(path, samples)
        params = {"model.name": path.stem.removesuffix(ENDING), METRIC: metric}
        time = field_of(content, "date", str, str(path))
        version = field_of(content, "hash", str, str(path))
        runs.append(ToolRun(TOOL, path, benchmark, time, params, version, samples=samples))
    return ToolFile(runs)


def _solutions(path: Path, task: str, several: Any) -> list[dict[str, Any]]:
    if not isinstance(several, list) or not several or not all(isinstance(one, dict) for one in several):
        raise DataError(f"{path}, task {task}: it has no solution")
    return several


def _sample(path: Path, task: str, solution: dict[str, Any], tests: tuple[str, ...]) -> ToolSample:
    where = f"{path}, task {task}"
    states = [field_of(solution, test, str, where) for test in tests]
    if unknown := [state for state in states if state not in STATES]:
        raise DataError(f"{where}: the outcome of a test is {unknown[0][:40]}, and none of {', '.join(STATES)}")
    text = field_of(solution, "solution", str, where)
    return ToolSample(task, task, "", all(state == PASS for state in states), ", ".join(states), text)
