"""Reader of the state file of llama.cpp's `examples/llama-eval/llama-eval.py --output`.

If there are more cases than questions, questions were answered several times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from runner_base import DataError, format_count
from runner_compare.readers import (
    LONGEST_TEXT,
    METRIC,
    JsonOutline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    flatten_params,
    merge_repeated_answers,
    modification_time,
    require_unique_sample_ids,
)

TOOL = "llama-eval"


class States(msgspec.Struct):
    cases: dict[str, msgspec.Raw]
    correct: int | None = None


class Evaluation(msgspec.Struct):
    id: str
    tasks: list[str]
    task_states: States
    model_name: str | None = None
    sampling_config: dict[str, Any] | None = None


class Progress(msgspec.Struct):
    status: str


class Case(msgspec.Struct):
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


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    return outline.has_fields("id", "tasks", "task_states", "sampling_config")


def read_tool_file(path: Path, file_content: bytes, _cluster_field: str | None = None) -> ToolFile:
    where = str(path)
    evaluation = EVALUATION.parse(file_content, where)
    states = evaluation.task_states
    missing = [task for task in evaluation.tasks if task not in states.cases]
    open_cases = [
        name
        for name, case in states.cases.items()
        if PROGRESS.parse(case, f"{where}, case {name}").status == "pending"
    ]
    if missing or open_cases:
        count = len(missing) + len(open_cases)
        raise DataError(
            f"{format_count(count, 'case has', 'cases have')} no answer yet. "
            "Finish the evaluation with llama-eval.py --resume",
            key=where,
            code="damaged",
        )
    answers = [_create_sample(f"{where}, case {name}", case) for name, case in states.cases.items()]
    solved = sum(answer.solved for answer in answers)
    if solved != states.correct:
        raise DataError(f"{solved} cases are correct, but the file records {states.correct}. The file was "
                        "changed", key=where, code="mismatch")  # fmt: skip
    samples = merge_repeated_answers(answers)
    require_unique_sample_ids(path, samples)
    params = {
        "model.name": str(evaluation.model_name),
        **flatten_params("generation", evaluation.sampling_config),
        METRIC: "correct",
    }
    return ToolFile([ToolRun(TOOL, path, evaluation.id, modification_time(path), params, samples=samples)])


def _create_sample(source: str, file_content: msgspec.Raw) -> ToolSample:
    case = CASE.parse(file_content, source)
    return ToolSample(
        str(case.problem_idx),
        case.prompt,
        case.expected,
        case.correct,
        case.answer if isinstance(case.answer, str) else None,
        (case.response or "")[-LONGEST_TEXT:],
        case.status != "ok",
    )
