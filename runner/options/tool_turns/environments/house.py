"""A house: rooms with heating, light and window, and an alarm."""

from __future__ import annotations

from random import Random
from typing import Any

from runner.options.tool_turns.environments.base import ANY, Environment, Slots, State, ToolError

ROOMS = ("kitchen", "bedroom", "office", "hall", "bathroom", "nursery", "library", "workshop")
SHAPE = {
    "alarm": "boolean",
    "rooms": {ANY: {"temperature": "number", "light": "boolean", "window_open": "boolean"}},
}


def get_room(state: State, room: str) -> Any:
    return dict(_get_room_by_name(state, room))


def find_open_windows(state: State) -> Any:
    return [name for name, room in state["rooms"].items() if room["window_open"]]


def set_temperature(state: State, room: str, degrees: float) -> None:
    if _get_room_by_name(state, room)["window_open"]:
        raise ToolError(f"the window of {room} is open. Close it first")
    _get_room_by_name(state, room)["temperature"] = degrees


def set_light(state: State, room: str, is_on: bool) -> None:
    _get_room_by_name(state, room)["light"] = is_on


def set_window(state: State, room: str, is_open: bool) -> None:
    _get_room_by_name(state, room)["window_open"] = is_open


def set_alarm(state: State, is_on: bool) -> None:
    if is_on and (rooms := find_open_windows(state)):
        raise ToolError(f"windows are open: {', '.join(rooms)}. Close them first")
    state["alarm"] = is_on


def _get_room_by_name(state: State, room: str) -> dict[str, Any]:
    if room not in state["rooms"]:
        raise ToolError(f"there is no room {room}. The rooms are {', '.join(state['rooms'])}")
    found: dict[str, Any] = state["rooms"][room]
    return found


def _generate_random_house(random: Random) -> tuple[State, Slots]:
    names = random.sample(ROOMS, 5)
    rooms = {
        name: {"temperature": random.randint(16, 20), "light": random.random() < 0.5, "window_open": False}
        for name in names
    }
    room, room2 = random.sample(names, 2)
    slots = {"room": room, "room2": room2, "degrees": random.randint(21, 25), "cold": random.randint(10, 15)}
    return {"alarm": False, "rooms": rooms}, slots


ENVIRONMENT = Environment(
    "house",
    SHAPE,
    {
        "get_room": get_room,
        "find_open_windows": find_open_windows,
        "set_temperature": set_temperature,
        "set_light": set_light,
        "set_window": set_window,
        "set_alarm": set_alarm,
    },
    _generate_random_house,
)
