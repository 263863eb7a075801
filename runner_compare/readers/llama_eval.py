"""Reads the state that llama.cpp's `examples/llama-eval/llama-eval.py` writes (`--output`): each
case with its verdict.

More cases than the data set has questions ask these again: such a question was answered several
times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from runner_base import DataError
from runner_compare.readers import (
    LONGEST_TEXT,
    METRIC,
    Outline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    changed,
    check_samples_differ,
    joined,
    params_of,
)

TOOL = "llama-eval"


class States(msgspec.Struct):
    """All cases by their names, and how many were solved."""

    cases: dict[str, msgspec.Raw]
    correct: int | None = None


class Evaluation(msgspec.Struct):
    """What is read of a file."""

    id: str
    tasks: list[str]
    task_states: States
    model_name: str | None = None
    sampling_config: dict[str, Any] | None = None


class Progress(msgspec.Struct):
    """How far a case is."""

    status: str


class Case(msgspec.Struct):
    """A case that was answered."""

    status: str
    problem_idx: int
    prompt: str
    expected: str
    correct: bool
    answer: Any = None
    response: str | None = None


EVALUATION: Parser[Evaluation] = Parser(Evaluation)
PROGRESS: Parser[Progress] = Parser(Progress)
CASE: Parser[Case] = Parser(Case)


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is the state of an evaluation by llama-eval."""
    return outline.has("id", "tasks", "task_states", "sampling_config")


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return the one evaluation of a file."""
    where = str(path)
    evaluation = EVALUATION.read(raw, where)
    states = evaluation.task_states
    missing = [task for task in evaluation.tasks if task not in states.cases]
    open_cases = [
        name
        for name, case in states.cases.items()
        if PROGRESS.read(case, f"{where}, case {name}").status == "pending"
    ]
    if missing or open_cases:
        count = len(missing) + len(open_cases)
        raise DataError(
            f"{count} of its cases have no answer yet: finish it with llama-eval.py --resume",
            key=where,
            code="damaged",
        )
    answers = [_sample(f"{where}, case {name}", case) for name, case in states.cases.items()]
    solved = sum(answer.solved for answer in answers)
    if solved != states.correct:
        raise DataError(f"{solved} of its cases are correct, but it counts {states.correct}: one of them was "
                        "changed", key=where, code="mismatch")  # fmt: skip
    samples = joined(answers)
    check_samples_differ(path, samples)
    params = {
        "model.name": str(evaluation.model_name),
        **params_of("generation", evaluation.sampling_config),
        METRIC: "correct",
    }
    return ToolFile([ToolRun(TOOL, path, evaluation.id, changed(path), params, samples=samples)])


def _sample(where: str, raw: msgspec.Raw) -> ToolSample:
    case = CASE.read(raw, where)
    return ToolSample(
        str(case.problem_idx),
        case.prompt,
        case.expected,
        case.correct,
        case.answer if isinstance(case.answer, str) else None,
        (case.response or "")[-LONGEST_TEXT:],
        case.status != "ok",
    )
