"""Reads the state that llama.cpp's `examples/llama-eval/llama-eval.py` writes (`--output`): each case with its verdict.

More cases than the data set has questions ask these again: such a question was answered several times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.compare.other_tools.files import changed, field_of, parse
from runner.compare.other_tools.several_answers import joined
from runner.compare.other_tools.shapes import Outline
from runner.compare.other_tools.tool_run import (
    LONGEST_TEXT,
    METRIC,
    ToolFile,
    ToolRun,
    ToolSample,
    check_samples_differ,
    params_of,
)
from runner.core.errors import DataError

TOOL = "llama-eval"


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is the state of an evaluation by llama-eval."""
    return outline.has("id", "tasks", "task_states", "sampling_config")


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return the one evaluation of a file."""
    content = parse(raw, str(path))
    where, dataset = str(path), field_of(content, "id", str, str(path))
    cases = field_of(content, "task_states.cases", dict, where)
    missing = [task for task in field_of(content, "tasks", list, where) if task not in cases]
    open_cases = [name for name, case in cases.items() if not isinstance(case, dict) or case.get("status") == "pending"]
    if missing or open_cases:
        count = len(missing) + len(open_cases)
        raise DataError(f"{where}: {count} of its cases have no answer yet: finish it with llama-eval.py --resume")
    answers = [_sample(where, name, case) for name, case in cases.items()]
    logged = content["task_states"].get("correct")
    if sum(one.solved for one in answers) != logged:
        raise DataError(f"{where}: {sum(one.solved for one in answers)} of its cases are correct, but it counts "
                        f"{logged}: one of them was changed")  # fmt: skip
    samples = joined(answers)
    check_samples_differ(path, samples)
    params = {
        "model.name": str(content.get("model_name")),
        **params_of("generation", content.get("sampling_config")),
        METRIC: "correct",
    }
    return ToolFile([ToolRun(TOOL, path, dataset, changed(path), params, samples=samples)])


def _sample(path: str, name: str, case: dict[str, Any]) -> ToolSample:
    where = f"{path}, case {name}"
    answer, text = case.get("answer"), case.get("response")
    return ToolSample(
        str(field_of(case, "problem_idx", int, where)),
        field_of(case, "prompt", str, where),
        field_of(case, "expected", str, where),
        field_of(case, "correct", bool, where),
        answer if isinstance(answer, str) else None,
        text[-LONGEST_TEXT:] if isinstance(text, str) else "",
        field_of(case, "status", str, where) != "ok",
    )
