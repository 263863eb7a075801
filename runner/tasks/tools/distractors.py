"""Defines distractor functions, which fill the prompt: services of an invented industrial plant.

No distractor is related to the included questions, or to those of BFCL, so a call of one is always
wrong. They follow from a number and a seed: the first ones are the same however many are
offered.
"""

from __future__ import annotations

from random import Random
from typing import Any

_SERVICES = """
bramling corvex dalmond elvera fernhall gantry hexbury ironleaf jorvale keplin larkmere mortane nordvik ostrel pelham
quarrion rosmark silbury tarnwick ulvend verlo wexcombe yarrow zelkova
"""
_THINGS = """
anvil boiler compressor conveyor crane crucible dynamo extruder flange forklift furnace gasket gearbox gimbal grinder
hopper kiln lathe manifold pallet piston press pump rivet rotor silo spindle turbine valve winch
"""
SERVICES, THINGS = _SERVICES.split(), _THINGS.split()
ACTIONS = {
    "list": "Lists {things}",
    "inspect": "Reports the state of a {thing}",
    "calibrate": "Calibrates a {thing}",
    "archive": "Archives the records of {things}",
    "audit": "Checks the records of {things}",
    "assign": "Assigns a {thing} to a shift",
    "lock": "Locks a {thing} against use",
    "release": "Releases a locked {thing}",
    "relabel": "Gives a {thing} another label",
    "inventory": "Counts the {things} in stock",
    "decommission": "Takes a {thing} out of service",
    "meter": "Reads the meter of a {thing}",
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "serial": {"type": "string", "description": "The serial number, as two letters and six digits"},
    "hall": {
        "type": "string",
        "enum": ["north", "south", "east", "west"],
        "description": "The hall it stands in",
    },
    "shift": {"type": "integer", "description": "The number of the shift, from 1 to 3"},
    "since_week": {"type": "integer", "description": "The first week of the year that counts"},
    "tolerance": {"type": "number", "description": "The largest deviation, in percent, that is accepted"},
    "with_history": {"type": "boolean", "description": "Whether earlier entries are returned, too"},
    "tags": {"type": "array", "items": {"type": "string"}, "description": "Labels that it must have"},
    "operator": {"type": "string", "description": "The badge number of the operator in charge"},
}
NAMES = [(service, action, thing) for service in SERVICES for action in ACTIONS for thing in THINGS]
MOST = len(NAMES)


def create_distractors(count: int, seed: int) -> list[dict[str, Any]]:
    order = Random(f"{seed}/distractors").sample(NAMES, MOST)
    return [
        _create_distractor_function(*names, Random(f"{seed}/{'/'.join(names)}")) for names in order[:count]
    ]


def _create_distractor_function(
    service: str, action: str, object_name: str, random: Random
) -> dict[str, Any]:
    drawn = random.sample([*PARAMETERS], random.randint(2, 4))
    required = drawn[: random.randint(1, len(drawn))]
    words = ACTIONS[action].format(
        thing=object_name, things=f"{object_name}{'es' if object_name.endswith('s') else 's'}"
    )
    parameters = {
        "type": "object",
        "properties": {name: PARAMETERS[name] for name in drawn},
        "required": required,
    }
    name = f"{service}_{action}_{object_name}"
    return {
        "name": name,
        "description": f"{words}, in the works of {service.title()}.",
        "parameters": parameters,
    }
