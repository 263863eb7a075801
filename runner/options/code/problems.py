"""Programming problems in the formats of HumanEval and MBPP, from the embedded set, a file or the Hub."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from runner.config.questions import EMBEDDED
from runner.datasets.items import QuestionSource, iter_question_rows, parse_json_row
from runner.datasets.row_layouts import RowKeys
from runner_base import DataError

EMBEDDED_FILE = Path(__file__).with_name("problems.jsonl")
HUMANEVAL_KEYS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
MBPP_KEYS = ("task_id", "text or prompt", "code", "test_list")
MBPP_HUB_ID, MBPP_SUBSET = "google-research-datasets/mbpp", "full"


@dataclass(frozen=True)
class CodeProblem:
    """A problem with its tests. `prompt` is the beginning of the program, or of MBPP a description."""

    id: str
    prompt: str
    entry_point: str
    solution: str  # a whole program
    tests: str  # a program that raises an error if a test fails
    names: tuple[str, ...] = ()  # what the tests use of the program; empty: any of its names
    is_described: bool = False  # the prompt is a description and not the beginning of the program
    shown_tests: str = ""  # that the prompt contains

    @property
    def functions(self) -> tuple[str, ...]:
        """The names that are functions in the solution."""
        body = ast.parse(self.solution).body
        return tuple(node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    @property
    def preamble(self) -> str:
        """What stands before the function in the prompt: imports and helper functions."""
        return "" if self.is_described else split_prompt_before_function(self.prompt, self.entry_point)[0]


def read_code_problems(data: str, subset: str | None, split: str, limit: int | None) -> list[CodeProblem]:
    """Return the first problems of a split. Raises DataError with the line of a malformed record."""
    if data == EMBEDDED:
        data = str(EMBEDDED_FILE)
    elif data == MBPP_HUB_ID and not Path(data).exists():
        subset = subset or MBPP_SUBSET
    problems = []
    source = QuestionSource(data, split, "task.data", RowKeys(), subset)
    for number, (location, row) in enumerate(iter_question_rows(source, lambda names: names)):
        if number == limit:
            break
        try:
            problems.append(parse_problem(parse_json_row(row)))
        except (ValueError, SyntaxError) as error:
            raise DataError(
                f"{error}. HumanEval has the keys {', '.join(HUMANEVAL_KEYS)}; MBPP has the keys "
                f"{', '.join(MBPP_KEYS)}. Correct or remove this record",
                key=location,
                code="damaged",
            ) from error
    return problems


def hash_problems(problems: Sequence[CodeProblem]) -> str:
    """Return the SHA-256 of all problems with their tests."""
    plain = [astuple(problem) for problem in problems]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()


def parse_problem(row: dict[str, Any]) -> CodeProblem:
    return _parse_humaneval(row) if "entry_point" in row else _parse_mbpp(row)


def _parse_humaneval(row: dict[str, Any]) -> CodeProblem:
    prompt, entry_point = _get_required_text(row, "prompt"), _get_required_text(row, "entry_point")
    solution, test = _get_required_text(row, "canonical_solution"), _get_required_text(row, "test")
    preamble = split_prompt_before_function(prompt, entry_point)[0]
    if not entry_point.isidentifier():
        raise ValueError(f"entry_point is {entry_point[:40]!r}, which is not a name")
    tests = f"{preamble}\n{test}\n\ncheck({entry_point})\n"
    _check_syntax("test", tests)
    return CodeProblem(
        str(row.get("task_id", "")), prompt, entry_point, prompt + solution, tests, (entry_point,)
    )


def _parse_mbpp(row: dict[str, Any]) -> CodeProblem:
    prompt = _get_required_text(row, "text" if row.get("text") else "prompt")
    solution, shown = _get_required_text(row, "code"), _read_text_list_from_row(row, "test_list")
    setup = [*_read_text_list_from_row(row, "test_imports", may_be_missing=True)]
    if row.get("test_setup_code"):
        setup.append(_get_required_text(row, "test_setup_code"))
    judged = [_get_required_text(row, "test")] if row.get("test") else shown  # MBPP+ has a longer test
    if not shown:
        raise ValueError("test_list is empty")
    tests = "\n".join([*setup, *judged]) + "\n"
    _check_syntax("test_list", tests)
    entry_point = _find_called_function(solution, "\n".join(shown))
    return CodeProblem(
        str(row.get("task_id", "")),
        prompt,
        entry_point,
        solution,
        tests,
        is_described=True,
        shown_tests="\n".join(shown),
    )


def _get_required_text(row: dict[str, Any], key: str) -> str:
    text = row.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{key} is missing or is not a text" if key in row else f"the key {key} is missing")
    return text


def _read_text_list_from_row(row: dict[str, Any], key: str, may_be_missing: bool = False) -> list[str]:
    texts = row.get(key)
    if texts is None and may_be_missing:
        return []
    if (
        isinstance(texts, str)
        or not isinstance(texts, Sequence)
        or not all(isinstance(t, str) for t in texts)
    ):
        raise ValueError(f"{key} must be a list of texts")
    return [*texts]


def _check_syntax(key: str, program: str) -> None:
    try:
        ast.parse(program)
    except SyntaxError as error:
        raise ValueError(f"{key} is not valid Python ({error})") from error


def split_prompt_before_function(prompt: str, entry_point: str) -> tuple[str, str]:
    """Split the beginning of a program before the definition of its function."""
    found = [*re.finditer(rf"^(?:async\s+)?def\s+{re.escape(entry_point)}\b", prompt, re.M)]
    if not found:
        raise ValueError(f"prompt does not define the function {entry_point}")
    return prompt[: found[-1].start()], prompt[found[-1].start() :]


def _find_called_function(solution: str, tests: str) -> str:
    """Return the first function or class of a solution that the tests call."""
    defined = {
        node.name
        for node in ast.parse(solution).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    called = [name for name in _iter_called_names(tests) if name in defined]
    if not called:
        raise ValueError("test_list calls no function that code defines")
    return called[0]


def _iter_called_names(tests: str) -> Iterator[str]:
    calls = [node for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        if isinstance(call.func, ast.Name):
            yield call.func.id
