"""A calendar of one week, with events of one hour."""

from __future__ import annotations

from random import Random
from typing import Any

from runner.options.tool_turns.environments.base import ANY, Environment, Slots, State, ToolError

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
TITLES = (
    "Dentist",
    "Team lunch",
    "Budget review",
    "Yoga",
    "Piano lesson",
    "Interview",
    "Haircut",
    "Book club",
)
PEOPLE = ("Ana", "Ben", "Chloe", "David", "Emma", "Felix")
HOURS = range(8, 19)
SHAPE = {"events": {ANY: {"title": "string", "day": "string", "hour": "integer", "people": ["string"]}}}


def list_events(state: State, day: str) -> Any:
    return [{"event_id": key} | event for key, event in state["events"].items() if event["day"] == day]


def find_event(state: State, title: str) -> Any:
    return [
        {"event_id": key} | event
        for key, event in state["events"].items()
        if event["title"].casefold() == title.strip().casefold()
    ]


def add_event(state: State, title: str, day: str, hour: int) -> Any:
    _check_time(state, day, hour)
    numbers = [int(key[1:]) for key in state["events"] if key[1:].isdecimal()]
    key = f"E{1 + max(numbers, default=0)}"
    state["events"][key] = {"title": title, "day": day, "hour": hour, "people": []}
    return {"event_id": key}


def move_event(state: State, event_id: str, day: str, hour: int) -> None:
    event = _find_event(state, event_id)
    _check_time(state, day, hour)
    event |= {"day": day, "hour": hour}


def cancel_event(state: State, event_id: str) -> None:
    _find_event(state, event_id)
    del state["events"][event_id]


def invite(state: State, event_id: str, person: str) -> None:
    people = _find_event(state, event_id)["people"]
    if person in people:
        raise ToolError(f"{person} is already invited")
    people.append(person)


def _find_event(state: State, event_id: str) -> dict[str, Any]:
    if event_id not in state["events"]:
        raise ToolError(f"there is no event {event_id}")
    found: dict[str, Any] = state["events"][event_id]
    return found


def _check_time(state: State, day: str, hour: int) -> None:
    if hour not in HOURS:
        raise ToolError(f"the hour must be from {HOURS.start} to {HOURS.stop - 1}")
    for key, event in state["events"].items():
        if (event["day"], event["hour"]) == (day, hour):
            raise ToolError(f"{day} at {hour} is taken by {key}")


def _generate_random_calendar(random: Random) -> tuple[State, Slots]:
    titles = random.sample(TITLES, 6)
    # even hours stay free
    times = random.sample([(day, hour) for day in DAYS for hour in range(9, 18, 2)], 5)
    events = {
        f"E{number}": {"title": title, "day": day, "hour": hour, "people": random.sample(PEOPLE[:4], 1)}
        for number, (title, (day, hour)) in enumerate(zip(titles, times, strict=False), start=1)
    }
    key, key2 = random.sample([*events], 2)
    event, event2 = events[key], events[key2]
    slots = {
        "event": key,
        "title": event["title"],
        "day": event["day"],
        "hour": event["hour"],
        "event2": key2,
        "day2": event2["day"],
        "hour2": event2["hour"],
        "later2": times[int(key2[1:]) - 1][1] + 1,
        "new_title": titles[5],
        "new_event": "E6",
        "free_day": random.choice(DAYS),
        "free_hour": random.randrange(10, 18, 2),
        "person": random.choice(PEOPLE[4:]),
    }
    return {"events": events}, slots


ENVIRONMENT = Environment(
    "calendar",
    SHAPE,
    {
        "list_events": list_events,
        "find_event": find_event,
        "add_event": add_event,
        "move_event": move_event,
        "cancel_event": cancel_event,
        "invite": invite,
    },
    _generate_random_calendar,
    frozenset({"events"}),
)
