"""A scenario: an environment with a state, the messages of a user, and reference calls that reach the goal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner.options.tool_turns.environments import ENVIRONMENTS
from runner.options.tool_turns.environments.base import CallFault, Environment, State
from runner_engine import tool_calls

Calls = tuple[tool_calls.ToolCall, ...]
Path = tuple[str, ...]
MISSING = "<missing>"  # the value of a path that a state does not have


@dataclass(frozen=True)
class Scenario:
    """A state, the messages of a user, and for each message the calls that a right answer could make."""

    id: str
    environment_name: str
    level: str
    family: str  # scenarios of the same template
    state: State
    messages: tuple[str, ...]
    calls: tuple[Calls, ...]

    @property
    def environment(self) -> Environment:
        return ENVIRONMENTS[self.environment_name]

    @property
    def question(self) -> str:
        return "\n".join(self.messages)

    @property
    def gold(self) -> str:
        return "; ".join(str(call) for calls in self.calls for call in calls)

    @cached_property
    def reference_states(self) -> list[State]:
        """The first state, and the state after each reference call."""
        states = [self.state]
        for call in (call for calls in self.calls for call in calls):
            states.append(deepcopy(states[-1]))
            self.environment.call_tool(states[-1], call)
        return states

    @property
    def goal(self) -> State:
        return self.reference_states[-1]

    @cached_property
    def values_changed_by_reference_calls(self) -> Mapping[Path, Sequence[Any]]:
        """The values that the reference calls change, each with all that it ever is. MISSING: it does not exist."""
        states = [list_values(state) for state in self.reference_states]
        paths = {path for state in states for path in find_changed_paths(states[0], state)}
        return {path: [state.get(path, MISSING) for state in states] for path in paths}

    def check(self) -> None:
        """Raise ValueError if the state or a reference call is invalid, or if nothing changes."""
        self.environment.check_state(self.state)
        state = deepcopy(self.state)
        for call in (call for calls in self.calls for call in calls):
            result = self.environment.call_tool(state, call)
            if result.fault in (CallFault.wrong_tool, CallFault.wrong_arguments):
                raise ValueError(f"the reference call {call} is invalid: {result.text}")
        if self.environment.are_equal(self.state, state):
            raise ValueError("the reference calls do not change the state")


def find_changed_paths(before: Mapping[Path, Any], after: Mapping[Path, Any]) -> set[Path]:
    return {
        path for path in before.keys() | after.keys() if before.get(path, MISSING) != after.get(path, MISSING)
    }


def list_values(state: State) -> dict[Path, Any]:
    """Return all values of a state by their path."""
    return dict(_iter_values(state))


def _iter_values(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, entry in value.items():
        yield from _iter_values(entry, (*path, key))


def hash_scenarios(scenarios: Sequence[Scenario]) -> str:
    """Return the SHA-256 of the tools, states, messages and reference calls."""
    tools = {scenario.environment_name: scenario.environment.schemas for scenario in scenarios}
    plain = [tools, [scenario_to_record(scenario) for scenario in scenarios]]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def scenario_to_record(scenario: Scenario) -> Mapping[str, Any]:
    """Return a scenario as a record of a scenario file."""
    return {
        "id": scenario.id,
        "environment": scenario.environment_name,
        "level": scenario.level,
        "family": scenario.family,
        "state": scenario.state,
        "messages": [*scenario.messages],
        "calls": [
            [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
            for calls in scenario.calls
        ],
    }
