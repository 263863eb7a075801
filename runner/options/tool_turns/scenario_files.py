"""Reads scenarios from a JSON Lines file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.datasets.items import QuestionSource, iter_question_rows, parse_json_row
from runner.datasets.row_layouts import RowKeys
from runner.options.tool_turns.environments import ENVIRONMENTS
from runner.options.tool_turns.scenarios import Calls, Scenario
from runner_base import ConfigError, DataError, format_unknown_choice_message
from runner_engine import tool_calls

KEYS = ("environment", "state", "messages", "calls")
GIVEN = "given"  # the level of a scenario that names none


def read_scenarios(data: str, limit: int | None) -> list[Scenario]:
    """Read the first scenarios. Raises DataError with the line of a malformed record."""
    path = Path(data).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"file {path.absolute()} does not exist. task.data=embedded selects generated scenarios",
            key="task.data",
            value=data,
            code="not_found",
        )
    scenarios: list[Scenario] = []
    lines: dict[str, str] = {}
    source = QuestionSource(data, "", "task.data", RowKeys())
    for location, row in iter_question_rows(source, lambda names: names):
        if len(scenarios) == limit:
            break
        try:
            scenario = _parse_scenario(parse_json_row(row), str(len(scenarios)))
            if scenario.id in lines:
                raise ValueError(f"the id {scenario.id} is also in {lines[scenario.id]}")
        except ValueError as error:
            end = "" if str(error).endswith("?") else "."
            raise DataError(
                f"{error}{end} Correct or remove this record. Its keys must be {', '.join(KEYS)}",
                key=location,
                code="damaged",
            ) from error
        lines[scenario.id] = location
        scenarios.append(scenario)
    return scenarios


def _parse_scenario(row: Mapping[str, Any], default_id: str) -> Scenario:
    if missing := [key for key in KEYS if key not in row]:
        raise ValueError(f"the key {missing[0]} is missing")
    environment, messages, calls = row["environment"], row["messages"], row["calls"]
    if not isinstance(environment, str) or environment not in ENVIRONMENTS:
        raise ValueError(format_unknown_choice_message("environment", str(environment), ENVIRONMENTS))
    is_text = isinstance(messages, list) and all(isinstance(each, str) and each.strip() for each in messages)
    if not messages or not is_text:
        raise ValueError("messages must be a list of texts")
    if not isinstance(calls, list) or len(calls) != len(messages):
        raise ValueError("calls must have a list of calls for each message")
    scenario_id = str(row.get("id", default_id))
    scenario = Scenario(
        scenario_id,
        environment,
        str(row.get("level", GIVEN)),
        str(row.get("family", scenario_id)),
        row["state"],
        tuple(messages),
        tuple(_parse_calls(number, some) for number, some in enumerate(calls)),
    )
    scenario.check()
    return scenario


def _parse_calls(number: int, calls: Any) -> Calls:
    if not isinstance(calls, list):
        raise ValueError(f"calls[{number}] must be a list")
    return tuple(_iter_calls(f"calls[{number}]", calls))


def _iter_calls(place: str, calls: list[Any]) -> Iterator[tool_calls.ToolCall]:
    for number, call in enumerate(calls):
        match call:
            case {"name": str(name), "arguments": dict(arguments), **others} if not others:
                yield tool_calls.ToolCall(name, arguments)
            case _:
                raise ValueError(f"{place}[{number}] must have a name and an object of arguments")
