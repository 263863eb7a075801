"""The Berkeley Function-Calling Leaderboard's files: lines of questions, and lines of right calls
beside them.

`BFCL_v4_simple_python.json` has the questions and `possible_answer/BFCL_v4_simple_python.json` what
is right. Read are the categories whose answers are judged by their syntax trees alone, of functions
in Python; those of Java and JavaScript, of several turns and of whole environments are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.tasks.tools.cases import NO_CALL, Case
from runner.tasks.tools.matching import LISTS, TYPES
from runner_base import ConfigError, DataError
from runner_base.texts import read_json_lines

ANSWERS = "possible_answer"
FILE = re.compile(r"(?:.*_)?v\d+_(?P<live>live_)?(?P<category>\w+)\.jsonl?")
KINDS = {
    "simple": "simple",
    "simple_python": "simple",
    "multiple": "multiple",
    "parallel": "parallel",
    "parallel_multiple": "parallel",
    "irrelevance": NO_CALL,
}
# BFCL's words for types
IN_JSON = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def read_bfcl(path: Path, key: str) -> list[Case]:
    """Return the cases of a file of questions, or of all such files in a folder."""
    if not path.exists():
        raise ConfigError(
            f"there is no file or folder {path.absolute()}; made are the questions that ship",
            key=key,
            code="not_found",
        )
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    known = [
        (file, category) for file in files if file.is_file() and (category := category_of(file)) is not None
    ]
    if not known:
        raise ConfigError(
            f"{path} is none of BFCL's files of questions in Python, such as BFCL_v4_simple_python.json "
            f"({', '.join(KINDS)}, also live_…)",
            key=key,
            code="unsupported",
        )
    return [case for file, category in known for case in _cases(file, category)]


def category_of(file: Path) -> str | None:
    """Return the category of a file by its name; None if it has none that is read."""
    found = FILE.fullmatch(file.name)
    return None if found is None else KINDS.get(found["category"])


def _cases(file: Path, category: str) -> Iterator[Case]:
    """Yield the cases of one file."""
    answers = {} if category == NO_CALL else _answers(file)
    for number, value in read_json_lines(file):
        where = f"{file}, line {number}"
        try:
            name, functions = value["id"], tuple(value["function"])
            turns = tuple((turn["role"], turn["content"]) for turn in value["question"][0])
            wanted = tuple(next(iter(call.items())) for call in answers[name]) if category != NO_CALL else ()
            _check(functions, [function for function, _ in wanted])
        except (KeyError, TypeError, IndexError, AttributeError, ValueError, StopIteration) as error:
            raise DataError(
                f"not a question of BFCL with its right calls ({error!r})", key=where, code="damaged"
            ) from error
        yield Case(name, category, turns, functions, wanted, is_of_bfcl=True, row=value)


def _answers(file: Path) -> dict[str, Any]:
    beside = file.parent / ANSWERS / file.name
    if not beside.is_file():
        raise DataError(
            f"the right calls are not beside it, in {ANSWERS}/{file.name}", key=file, code="not_found"
        )
    return {value["id"]: value["ground_truth"] for _, value in read_json_lines(beside)}


def _check(functions: tuple[Mapping[str, Any], ...], wanted: list[str]) -> None:
    """Raise ValueError for a function that cannot be judged, and for a wanted one that is not
    offered."""
    names = [function["name"] for function in functions]
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(f"{missing[0]} is wanted and not offered")
    for function in functions:
        for name, schema in function["parameters"]["properties"].items():
            kinds = [schema["type"], *([schema["items"]["type"]] if schema["type"] in LISTS else [])]
            if unread := [kind for kind in kinds if kind not in TYPES]:
                raise ValueError(f"{name} of {function['name']} has the type {unread[0]}")


def offered(schema: Any) -> Any:
    """Return a function's description with types as JSON schema names them: what a model gets."""
    if isinstance(schema, Mapping):
        plain = {key: offered(value) for key, value in schema.items()}
        kind = plain.get("type")
        return plain | {"type": IN_JSON.get(kind, kind)} if isinstance(kind, str) else plain
    return [offered(one) for one in schema] if isinstance(schema, list) else schema
