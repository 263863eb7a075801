"""An environment: a state of JSON values, and the tools that read and change it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from omegaconf import OmegaConf

from runner_engine import tool_calls

State = dict[str, Any]
Slots = dict[str, Any]  # values that fill the placeholders of a scenario template
ANY = "*"  # in a shape: each key of an object
TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class ToolError(ValueError):
    """A tool cannot do what a call asks for. The state stays as it was, and the model gets the message."""


class CallFault(StrEnum):
    """Reason why a tool call changes nothing in the environment."""

    wrong_tool = "wrong_tool"  # no tool has this name
    wrong_arguments = "wrong_arguments"  # they do not match the schema
    refused = "refused"  # by the tool, because of the state


@dataclass(frozen=True)
class ToolResult:
    """The text that a call returns to the model."""

    text: str
    fault: CallFault | None = None


@dataclass(frozen=True)
class Environment:
    """Tools, the shape of their state, and a function that draws a state for generated scenarios.

    A shape has the types of all values, as TYPES names them. The keys of `unordered` collections are ids that
    the environment assigns. Two states are equal if these collections have equal entries under other ids.
    """

    name: str
    shape: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    draw: Callable[[Random], tuple[State, Slots]]
    unordered: frozenset[str] = frozenset()

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """The tools with their JSON schemas, in the format of task=tools."""
        return [
            {"name": name, "description": tool["description"], "parameters": _make_schema(tool["parameters"])}
            for name, tool in _read_tools()[self.name].items()
        ]

    def call_tool(self, state: State, call: tool_calls.ToolCall) -> ToolResult:
        """Run a call on a state. A call with a fault leaves the state unchanged."""
        schema = next((schema for schema in self.schemas if schema["name"] == call.name), None)
        if schema is None:
            names = ", ".join(self.functions)
            return _make_error(f"there is no tool {call.name}. The tools are {names}", CallFault.wrong_tool)
        if problem := _find_argument_problem(call.arguments, schema["parameters"]["properties"]):
            return _make_error(problem, CallFault.wrong_arguments)
        trial = deepcopy(state)
        try:
            value = self.functions[call.name](trial, **call.arguments)
        except ToolError as error:
            return _make_error(str(error), CallFault.refused)
        state.clear()
        state.update(trial)
        return ToolResult(json.dumps("ok" if value is None else value, ensure_ascii=False))

    def are_equal(self, state: State, other: State) -> bool:
        """Whether two states are equal. Capitals, outer blanks, ids and the order of lists do not matter."""
        return bool(self._normalize_state(state) == self._normalize_state(other))

    def _normalize_state(self, state: State) -> Any:
        return {
            key: _sort([_normalize(entry) for entry in value.values()])
            if key in self.unordered
            else _normalize(value)
            for key, value in state.items()
        }

    def check_state(self, state: Any) -> None:
        """Raise ValueError if a state from a file does not have the environment's shape."""
        _check_shape(state, self.shape, "state")


def _normalize(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _normalize(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return _sort([_normalize(entry) for entry in value])
    return value.strip().casefold() if isinstance(value, str) else value


def _sort(values: list[Any]) -> list[Any]:
    return sorted(values, key=lambda value: json.dumps(value, sort_keys=True))


def _make_error(message: str, fault: CallFault) -> ToolResult:
    return ToolResult(json.dumps({"error": message}, ensure_ascii=False), fault)


@cache
def _read_tools() -> dict[str, dict[str, Any]]:
    tools: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("tools.yaml")))
    return dict(tools)


def _make_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    properties = {
        name: {"type": "string", "enum": kind} if isinstance(kind, list) else {"type": kind}
        for name, kind in parameters.items()
    }
    return {"type": "object", "properties": properties, "required": [*properties]}


def _find_argument_problem(arguments: Mapping[str, Any], properties: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the arguments of a call, or None."""
    for name, schema in properties.items():
        if name not in arguments:
            return f"the argument {name} is missing"
        if not _has_type(arguments[name], schema["type"]):
            return f"{name} must have the type {schema['type']}"
        if arguments[name] not in schema.get("enum", [arguments[name]]):
            return f"{name} must be one of {', '.join(schema['enum'])}"
    unknown = next((name for name in arguments if name not in properties), None)
    return None if unknown is None else f"there is no argument {unknown}"


def _has_type(value: Any, type_name: str) -> bool:
    return isinstance(value, TYPES[type_name]) and (type_name == "boolean" or not isinstance(value, bool))


def _check_shape(value: Any, shape: Any, place: str) -> None:
    if isinstance(shape, str):
        if not _has_type(value, shape):
            raise ValueError(f"{place} must have the type {shape}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{place} must be a list")
        for number, entry in enumerate(value):
            _check_shape(entry, shape[0], f"{place}[{number}]")
    else:
        if not isinstance(value, dict):
            raise ValueError(f"{place} must be an object")
        keys = [*value] if ANY in shape else [*shape]
        if missing := [key for key in keys if key not in value]:
            raise ValueError(f"{place} lacks the key {missing[0]}")
        if unknown := [key for key in value if key not in keys]:
            raise ValueError(f"{place} has the unknown key {unknown[0]}")
        for key in keys:
            _check_shape(value[key], shape.get(key, shape.get(ANY)), f"{place}.{key}")
