"""Reads questions and expected calls from files of the Berkeley Function-Calling Leaderboard (BFCL).

`BFCL_v4_simple_python.json` has the questions and `possible_answer/BFCL_v4_simple_python.json`
the expected calls. Only categories of Python functions whose answers are judged by their syntax
trees alone are read; Java, JavaScript, several turns and whole environments are omitted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.tasks.tools.cases import NO_CALL, Case
from runner.tasks.tools.matching import LISTS, TYPES
from runner_base import ConfigError, DataError
from runner_base.texts import iter_json_lines

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


def read_bfcl_cases(path: Path, config_key: str) -> list[Case]:
    """Return the cases of a BFCL question file, or of all such files in a folder."""
    if not path.exists():
        raise ConfigError(
            f"file or folder {path.absolute()} does not exist. task.data=made selects the included questions",
            key=config_key,
            code="not_found",
        )
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    known = [
        (file, category)
        for file in files
        if file.is_file() and (category := parse_bfcl_category(file)) is not None
    ]
    if not known:
        raise ConfigError(
            (
                f"{path} is not a supported BFCL question file, such as "
                f"BFCL_v4_simple_python.json. Supported categories: {', '.join(KINDS)}, and live_…"
            ),
            key=config_key,
            code="unsupported",
        )
    return [case for file, category in known for case in _read_cases(file, category)]


def parse_bfcl_category(file: Path) -> str | None:
    """Return the BFCL category in a file's name. None for an unsupported category."""
    found = FILE.fullmatch(file.name)
    return None if found is None else KINDS.get(found["category"])


def _read_cases(file: Path, category: str) -> Iterator[Case]:
    answers = {} if category == NO_CALL else _read_expected_calls(file)
    for number, value in iter_json_lines(file):
        where = f"{file}, line {number}"
        try:
            name, functions = value["id"], tuple(value["function"])
            turns = tuple((turn["role"], turn["content"]) for turn in value["question"][0])
            wanted = tuple(next(iter(call.items())) for call in answers[name]) if category != NO_CALL else ()
            _check_offered_functions(functions, [function for function, _ in wanted])
        except (KeyError, TypeError, IndexError, AttributeError, ValueError, StopIteration) as error:
            raise DataError(
                f"this line is not a BFCL question with expected calls ({error!r})", key=where, code="damaged"
            ) from error
        yield Case(name, category, turns, functions, wanted, is_of_bfcl=True, row=value)


def _read_expected_calls(file: Path) -> dict[str, Any]:
    beside = file.parent / ANSWERS / file.name
    if not beside.is_file():
        raise DataError(
            f"the file with the correct calls is missing: {ANSWERS}/{file.name}", key=file, code="not_found"
        )
    return {value["id"]: value["ground_truth"] for _, value in iter_json_lines(beside)}


def _check_offered_functions(functions: tuple[Mapping[str, Any], ...], expected_names: list[str]) -> None:
    """Raise ValueError if a parameter type is unsupported, or an expected function is not offered."""
    names = [function["name"] for function in functions]
    if missing := [name for name in expected_names if name not in names]:
        raise ValueError(f"an expected call uses the function {missing[0]}, which is not offered")
    for function in functions:
        for name, schema in function["parameters"]["properties"].items():
            kinds = [schema["type"], *([schema["items"]["type"]] if schema["type"] in LISTS else [])]
            if unread := [kind for kind in kinds if kind not in TYPES]:
                raise ValueError(
                    f"parameter {name} of {function['name']} has the unsupported type {unread[0]}"
                )


def to_json_schema(bfcl_schema: Any) -> Any:
    if isinstance(bfcl_schema, Mapping):
        plain = {key: to_json_schema(value) for key, value in bfcl_schema.items()}
        kind = plain.get("type")
        return plain | {"type": IN_JSON.get(kind, kind)} if isinstance(kind, str) else plain
    return [to_json_schema(one) for one in bfcl_schema] if isinstance(bfcl_schema, list) else bfcl_schema
