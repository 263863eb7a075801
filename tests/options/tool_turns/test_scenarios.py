"""Scenarios: those that are generated, and those of a file."""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner.options.tool_turns.environments.base import CallFault
from runner.options.tool_turns.generated_scenarios import generate_scenarios
from runner.options.tool_turns.keys import LEVELS
from runner.options.tool_turns.scenario_files import read_scenarios
from runner.options.tool_turns.scenarios import Scenario, hash_scenarios, scenario_to_record
from runner_base.errors import ConfigError, DataError


def list_faults(scenario: Scenario) -> list[CallFault | None]:
    """Return the fault of each reference call."""
    state = deepcopy(scenario.state)
    return [scenario.environment.call_tool(state, call).fault for some in scenario.calls for call in some]


def test_generated_scenarios_have_goals_and_levels_differ() -> None:
    scenarios = generate_scenarios(400, LEVELS, 0)
    numbers: dict[str, set[int]] = {level: set() for level in LEVELS}
    for scenario in scenarios:
        scenario.check()
        assert "{" not in scenario.question
        faults = list_faults(scenario)
        numbers[scenario.level].add(len(faults))
        refused = Counter(faults)[CallFault.refused]
        assert refused == (1 if scenario.level == "error" else 0), scenario.family
        assert faults[-1] is None
        assert len(scenario.messages) == (2 if scenario.level == "two_messages" else 1)
    assert numbers == {"single": {1}, "chain": {2, 3}, "lookup": {2}, "error": {2, 3}, "two_messages": {2, 3}}
    families = Counter(scenario.family for scenario in scenarios)
    assert (len(families), {*families.values()}) == (40, {10})


def test_the_argument_of_a_lookup_is_not_in_the_message() -> None:
    for scenario in generate_scenarios(80, ["lookup"], 3):
        last = scenario.calls[0][-1]
        assert any(str(value) not in scenario.question for value in last.arguments.values()), scenario.gold


def test_the_calls_of_a_chain_depend_on_their_order() -> None:
    dependent = 0
    for scenario in generate_scenarios(80, ["chain"], 0):
        state = deepcopy(scenario.state)
        faults = [scenario.environment.call_tool(state, call).fault for call in scenario.calls[0][::-1]]
        dependent += any(faults) or not scenario.environment.are_equal(state, scenario.goal)
    assert dependent == 70  # one of the eight templates has independent calls


def test_the_first_scenarios_are_the_same_and_another_seed_gives_others() -> None:
    assert generate_scenarios(50, LEVELS, 0)[:20] == generate_scenarios(20, LEVELS, 0)
    assert generate_scenarios(20, LEVELS, 1) != generate_scenarios(20, LEVELS, 0)
    assert hash_scenarios(generate_scenarios(20, LEVELS, 1)) != hash_scenarios(
        generate_scenarios(20, LEVELS, 0)
    )


def test_a_file_of_scenarios_is_read_as_it_was_written(tmp_path: Path) -> None:
    scenarios = generate_scenarios(40, LEVELS, 0)
    file = tmp_path / "scenarios.jsonl"
    file.write_text("".join(json.dumps(scenario_to_record(scenario)) + "\n" for scenario in scenarios))
    assert read_scenarios(str(file), None) == scenarios
    assert read_scenarios(str(file), 7) == scenarios[:7]


GOOD: dict[str, Any] = {
    "environment": "files",
    "state": {"files": {"a.txt": "one"}},
    "messages": ["Delete a.txt."],
    "calls": [[{"name": "delete_file", "arguments": {"path": "a.txt"}}]],
}


def test_a_record_needs_four_keys(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD))
    (scenario,) = read_scenarios(str(tmp_path / "a.jsonl"), None)
    assert (scenario.id, scenario.level, scenario.family) == ("0", "given", "0")
    assert scenario.goal == {"files": {}}
    assert scenario.gold == "delete_file(path='a.txt')"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"environment": "bank"}, "bank"),
        ({"environment": ["files"]}, "files"),
        ({"state": None}, "state must be an object"),
        ({"state": {"files": {"a.txt": 1}}}, "state.files.a.txt must have the type string"),
        ({"messages": []}, "messages"),
        ({"messages": "Delete a.txt."}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"calls": []}, "calls"),
        ({"calls": [{}]}, r"calls\[0\] must be a list"),
        ({"calls": [[{"name": "delete_file"}]]}, r"calls\[0\]\[0\]"),
        ({"calls": [[{"name": "erase", "arguments": {}}]]}, "erase"),
        ({"calls": [[{"name": "delete_file", "arguments": {}}]]}, "path"),
        ({"calls": [[{"name": "read_file", "arguments": {"path": "a.txt"}}]]}, "do not change the state"),
        ({"calls": [[]]}, "do not change the state"),
    ],
)  # fmt: skip
def test_a_malformed_record_is_named_with_its_line(
    tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f"{json.dumps(GOOD | {'id': 'x'})}\n{json.dumps(GOOD | changes)}\n")
    with raises(DataError, "damaged", f"{file}, line 2") as caught:
        read_scenarios(str(file), None)
    assert caught.match(word)


def test_damaged_lines_missing_keys_repeated_ids_and_missing_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for text in ("{", "[]", json.dumps({key: value for key, value in GOOD.items() if key != "calls"})):
        file.write_text(f"{json.dumps(GOOD)}\n{text}\n")
        with raises(DataError, "damaged", f"{file}, line 2"):
            read_scenarios(str(file), None)
    file.write_text(f"{json.dumps(GOOD | {'id': 'x'})}\n" * 2)
    with raises(DataError, "damaged", f"{file}, line 2"):
        read_scenarios(str(file), None)
    with raises(ConfigError, "not_found", "task.data"):
        read_scenarios(str(tmp_path / "none.jsonl"), None)
