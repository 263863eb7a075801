"""The tools of the environments: values, refusals, and the schemas that the model sees."""

from __future__ import annotations

import json
from copy import deepcopy
from random import Random
from typing import Any

import pytest

from runner.options.tool_turns.environments import ENVIRONMENTS
from runner.options.tool_turns.environments.base import TYPES, CallFault
from runner_engine.tool_calls import ToolCall

STATES: dict[str, Any] = {
    "calendar": {
        "events": {
            "E1": {"title": "Yoga", "day": "Monday", "hour": 9, "people": ["Ana"]},
            "E7": {"title": "Dentist", "day": "Friday", "hour": 10, "people": []},
        }
    },
    "files": {"files": {"notes/a.txt": "one", "notes/b.txt": "two", "letters/c.txt": "three"}},
    "house": {
        "alarm": False,
        "rooms": {
            "kitchen": {"temperature": 18, "light": False, "window_open": True},
            "office": {"temperature": 20, "light": True, "window_open": False},
        },
    },
    "shop": {
        "products": {"P1": {"name": "oak tray", "price": 12, "stock": 3}},
        "orders": {
            "O1": {"customer": "Novak", "product_id": "P1", "quantity": 2, "status": "open"},
            "O2": {"customer": "Ortiz", "product_id": "P1", "quantity": 1, "status": "sent"},
        },
    },
}
# the call, what it returns, and the values that it changes
WORKS = [
    ("calendar", "list_events", {"day": "Monday"}, [{"event_id": "E1", "title": "Yoga", "day": "Monday", "hour": 9, "people": ["Ana"]}], {}),
    ("calendar", "find_event", {"title": "dentist "}, [{"event_id": "E7", "title": "Dentist", "day": "Friday", "hour": 10, "people": []}], {}),
    ("calendar", "add_event", {"title": "Lunch", "day": "Monday", "hour": 12}, {"event_id": "E8"}, {"events.E8": {"title": "Lunch", "day": "Monday", "hour": 12, "people": []}}),
    ("calendar", "move_event", {"event_id": "E1", "day": "Tuesday", "hour": 9}, "ok", {"events.E1.day": "Tuesday"}),
    ("calendar", "cancel_event", {"event_id": "E1"}, "ok", {"events.E1": None}),
    ("calendar", "invite", {"event_id": "E7", "person": "Ben"}, "ok", {"events.E7.people": ["Ben"]}),
    ("files", "list_files", {"folder": "notes/"}, ["notes/a.txt", "notes/b.txt"], {}),
    ("files", "read_file", {"path": "notes/b.txt"}, "two", {}),
    ("files", "write_file", {"path": "d.txt", "text": "four"}, "ok", {"files.d.txt": "four"}),
    ("files", "delete_file", {"path": "notes/a.txt"}, "ok", {"files.notes/a.txt": None}),
    ("house", "get_room", {"room": "kitchen"}, {"temperature": 18, "light": False, "window_open": True}, {}),
    ("house", "find_open_windows", {}, ["kitchen"], {}),
    ("house", "set_temperature", {"room": "office", "degrees": 21.5}, "ok", {"rooms.office.temperature": 21.5}),
    ("house", "set_light", {"room": "kitchen", "is_on": True}, "ok", {"rooms.kitchen.light": True}),
    ("house", "set_window", {"room": "kitchen", "is_open": False}, "ok", {"rooms.kitchen.window_open": False}),
    ("house", "set_alarm", {"is_on": False}, "ok", {}),
    ("shop", "find_product", {"name": "Oak Tray"}, {"product_id": "P1", "name": "oak tray", "price": 12, "stock": 3}, {}),
    ("shop", "list_orders", {"customer": "Ortiz"}, [{"order_id": "O2", "customer": "Ortiz", "product_id": "P1", "quantity": 1, "status": "sent"}], {}),
    ("shop", "cancel_order", {"order_id": "O1"}, "ok", {"orders.O1.status": "cancelled", "products.P1.stock": 5}),
    ("shop", "return_order", {"order_id": "O2"}, "ok", {"orders.O2.status": "returned", "products.P1.stock": 4}),
]  # fmt: skip
FAILS = [
    ("calendar", "add_event", {"title": "Lunch", "day": "Monday", "hour": 9}, CallFault.refused),
    ("calendar", "add_event", {"title": "Lunch", "day": "Monday", "hour": 3}, CallFault.refused),
    ("calendar", "add_event", {"title": "Lunch", "day": "Sunday", "hour": 9}, CallFault.wrong_arguments),
    ("calendar", "move_event", {"event_id": "E1", "day": "Friday", "hour": 10}, CallFault.refused),
    ("calendar", "invite", {"event_id": "E1", "person": "Ana"}, CallFault.refused),
    ("calendar", "cancel_event", {"event_id": "E2"}, CallFault.refused),
    ("files", "list_files", {"folder": "letter"}, CallFault.refused),
    ("files", "move_file", {"path": "notes/a.txt", "new_path": "notes/b.txt"}, CallFault.refused),
    ("files", "move_file", {"path": "x", "new_path": "y"}, CallFault.refused),
    ("files", "read_file", {}, CallFault.wrong_arguments),
    ("files", "run", {"path": "x"}, CallFault.wrong_tool),
    ("house", "set_temperature", {"room": "kitchen", "degrees": 21}, CallFault.refused),
    ("house", "set_temperature", {"room": "attic", "degrees": 21}, CallFault.refused),
    ("house", "set_temperature", {"room": "office", "degrees": True}, CallFault.wrong_arguments),
    ("house", "set_temperature", {"room": "office", "degrees": "21"}, CallFault.wrong_arguments),
    ("house", "set_alarm", {"is_on": True}, CallFault.refused),
    ("house", "find_open_windows", {"room": "kitchen"}, CallFault.wrong_arguments),
    ("shop", "find_product", {"name": "lamp"}, CallFault.refused),
    ("shop", "place_order", {"customer": "Lee", "product_id": "P1", "quantity": 4}, CallFault.refused),
    ("shop", "place_order", {"customer": "Lee", "product_id": "P1", "quantity": 0}, CallFault.refused),
    ("shop", "place_order", {"customer": "Lee", "product_id": "P1", "quantity": 1.5}, CallFault.wrong_arguments),
    ("shop", "cancel_order", {"order_id": "O2"}, CallFault.refused),
    ("shop", "return_order", {"order_id": "O1"}, CallFault.refused),
]  # fmt: skip


def change(state: Any, path: str, value: Any) -> None:
    """Set or delete a value; a path's last part may contain dots."""
    collection, _, rest = path.partition(".")
    key, _, field = rest.partition(".") if collection != "files" else (rest, "", "")
    place, key = (state[collection][key], field) if field else (state[collection], key)
    if value is None:
        del place[key]
    else:
        place[key] = value


@pytest.mark.parametrize(("name", "tool", "arguments", "value", "changes"), WORKS, ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_a_tool_returns_a_value_and_changes_the_state(
    name: str, tool: str, arguments: dict[str, Any], value: Any, changes: dict[str, Any]
) -> None:
    state, wanted = deepcopy(STATES[name]), deepcopy(STATES[name])
    result = ENVIRONMENTS[name].call_tool(state, ToolCall(tool, arguments))
    assert (json.loads(result.text), result.fault) == (value, None)
    for path, changed in changes.items():
        change(wanted, path, changed)
    assert state == wanted
    assert bool(changes) is (state != STATES[name])


def test_an_order_takes_from_the_stock_and_a_move_keeps_the_text() -> None:
    state = deepcopy(STATES["shop"])
    call = ToolCall("place_order", {"customer": "Lee", "product_id": "P1", "quantity": 3})
    assert json.loads(ENVIRONMENTS["shop"].call_tool(state, call).text) == {"order_id": "O3"}
    assert state["products"]["P1"]["stock"] == 0
    assert state["orders"]["O3"] == {"customer": "Lee", "product_id": "P1", "quantity": 3, "status": "open"}
    state = deepcopy(STATES["files"])
    ENVIRONMENTS["files"].call_tool(state, ToolCall("move_file", {"path": "notes/a.txt", "new_path": "z"}))
    assert state["files"] == {"notes/b.txt": "two", "letters/c.txt": "three", "z": "one"}


@pytest.mark.parametrize(("name", "tool", "arguments", "fault"), FAILS, ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_a_call_that_fails_returns_an_error_and_changes_nothing(
    name: str, tool: str, arguments: dict[str, Any], fault: CallFault
) -> None:
    state = deepcopy(STATES[name])
    result = ENVIRONMENTS[name].call_tool(state, ToolCall(tool, arguments))
    assert result.fault is fault
    assert [*json.loads(result.text)] == ["error"]
    assert state == STATES[name]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_each_tool_has_a_schema_and_a_function(name: str) -> None:
    environment = ENVIRONMENTS[name]
    assert [schema["name"] for schema in environment.schemas] == [*environment.functions]
    for schema in environment.schemas:
        parameters = schema["parameters"]
        assert parameters["required"] == [*parameters["properties"]]
        assert {kind["type"] for kind in parameters["properties"].values()} <= TYPES.keys()
    state, _ = environment.draw(Random(1))
    environment.check_state(state)
    environment.check_state(STATES[name])


def test_states_are_equal_whatever_the_ids_of_new_entries_are() -> None:
    calendar, first, second = ENVIRONMENTS["calendar"], *(deepcopy(STATES["calendar"]) for _ in range(2))
    calls = [ToolCall("add_event", {"title": title, "day": "Friday", "hour": hour}) for title, hour in (("A", 11), ("B", 12))]  # fmt: skip
    for state, order in ((first, calls), (second, calls[::-1])):
        for call in order:
            calendar.call_tool(state, call)
    assert first != second
    assert calendar.are_equal(first, second)
    second["events"]["E8"]["hour"] = 13
    assert not calendar.are_equal(first, second)
    files = ENVIRONMENTS["files"]
    assert files.are_equal({"files": {"a": "One "}}, {"files": {"a": "one"}})
    assert not files.are_equal({"files": {"a": "one"}}, {"files": {"b": "one"}})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "state must be an object"),
        ({"rooms": {}}, "state lacks the key alarm"),
        ({"alarm": False, "rooms": {}, "cellar": 1}, "state has the unknown key cellar"),
        ({"alarm": 1, "rooms": {}}, "state.alarm must have the type boolean"),
        ({"alarm": False, "rooms": {"hall": {"light": True, "window_open": False}}}, "state.rooms.hall lacks the key temperature"),
    ],
)  # fmt: skip
def test_a_state_of_another_shape_is_refused(state: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ENVIRONMENTS["house"].check_state(state)
