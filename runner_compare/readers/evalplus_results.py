"""Reader of EvalPlus results (`…_eval_results.json`), which record the tests that each
solution passed.

`base` are the tests of the original benchmark, `plus` those and EvalPlus' own. The file
contains neither the model nor the settings: its name does. With several solutions per task,
the fraction that passes counts, which is EvalPlus' pass@1.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from runner_base import DataError
from runner_compare.readers import (
    METRIC,
    JsonOutline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    merge_repeated_answers,
    require_unique_sample_ids,
)

TOOL = "EvalPlus"
ENDING = "_eval_results"
PASS, STATES = "pass", ("pass", "fail", "timeout")


class Solution(msgspec.Struct):
    """One solution to an EvalPlus task, with its test outcomes."""

    solution: str
    base_status: str
    plus_status: str | None = None  # only where EvalPlus' own tests were run

    def outcomes_per_test(self, metric: str) -> list[str | None]:
        """Return the outcomes of a solution's tests. For the metric `base`, only the base tests count."""
        return [self.base_status] if metric == "base" else [self.base_status, self.plus_status]


class Results(msgspec.Struct):
    date: str
    hash: str
    eval: dict[str, msgspec.Raw]  # the solutions of each task


RESULTS: Parser[Results] = Parser(Results)
SOLUTIONS: Parser[list[Solution]] = Parser(list[Solution])


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    """Whether a file contains EvalPlus results."""
    return outline.has_fields("date", "hash", "eval")


def read_tool_file(path: Path, file_content: bytes, _cluster_field: str | None = None) -> ToolFile:
    """Return the evaluations in an EvalPlus file, one by the base tests and, if present, one by all tests."""
    results = RESULTS.parse(file_content, str(path))
    solutions = [
        (task, solution)
        for task, several in results.eval.items()
        for solution in _parse_solutions(path, task, several)
    ]
    has_plus = any(solution.plus_status is not None for _, solution in solutions)
    benchmark = next(iter(results.eval), "").partition("/")[0]
    runs = []
    for metric in ("base", "plus") if has_plus else ("base",):
        samples = merge_repeated_answers(
            (_create_sample(path, task, solution, metric) for task, solution in solutions), can_vote=False
        )
        require_unique_sample_ids(path, samples)
        params = {"model.name": path.stem.removesuffix(ENDING), METRIC: metric}
        runs.append(ToolRun(TOOL, path, benchmark, results.date, params, results.hash, samples=samples))
    return ToolFile(runs)


def _parse_solutions(path: Path, task: str, file_content: msgspec.Raw) -> list[Solution]:
    solutions = SOLUTIONS.parse(file_content, f"{path}, task {task}", "solutions")
    if not solutions:
        raise DataError("it has no solution", key=f"{path}, task {task}", code="empty")
    return solutions


def _create_sample(path: Path, task: str, solution: Solution, metric: str) -> ToolSample:
    where, states = (
        f"{path}, task {task}",
        [state or "missing" for state in solution.outcomes_per_test(metric)],
    )
    if unknown := [state for state in states if state not in STATES]:
        raise DataError(
            f"the test outcome {unknown[0][:40]} is unknown. Known outcomes are {', '.join(STATES)}",
            key=where,
            code="damaged",
        )
    return ToolSample(
        task, task, "", all(state == PASS for state in states), ", ".join(states), solution.solution
    )
