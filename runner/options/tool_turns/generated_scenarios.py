"""Generates scenarios from templates. The first scenarios are the same, whatever their number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from omegaconf import OmegaConf

from runner.options.tool_turns.environments import ENVIRONMENTS
from runner.options.tool_turns.environments.base import Slots, State
from runner.options.tool_turns.scenarios import Scenario
from runner_engine import tool_calls

TEMPLATES_PER_LEVEL = 2  # of each environment
SLOT = re.compile(r"\{(\w+)\}")


@cache
def _read_templates() -> Mapping[str, Any]:
    templates: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("scenarios.yaml")))
    return dict(templates)


def generate_scenarios(count: int, levels: Sequence[str], seed: int) -> list[Scenario]:
    """Generate scenarios that take turns among templates, environments and levels."""
    kinds = [
        (level, environment, template)
        for template, environment, level in product(range(TEMPLATES_PER_LEVEL), ENVIRONMENTS, levels)
    ]
    return [
        _generate_scenario(str(number), *kinds[number % len(kinds)], Random(f"{seed}/{number}"))
        for number in range(count)
    ]


def _generate_scenario(
    scenario_id: str, level: str, environment: str, template_number: int, random: Random
) -> Scenario:
    template = _read_templates()[environment][level][template_number]
    state, slots = ENVIRONMENTS[environment].draw(random)
    for path, value in template.get("set", {}).items():
        _replace_value(state, _fill(path, slots), _fill(value, slots))
    return Scenario(
        scenario_id,
        environment,
        level,
        f"{environment}/{level}/{template_number + 1}",
        state,
        tuple(str(_fill(message, slots)) for message in template["messages"]),
        tuple(
            tuple(
                tool_calls.ToolCall(name, {key: _fill(value, slots) for key, value in arguments.items()})
                for call in calls
                for name, arguments in call.items()
            )
            for calls in template["calls"]
        ),
    )


def _fill(value: Any, slots: Slots) -> Any:
    """Fill the placeholders of a text. A text that is a single placeholder becomes its value."""
    if not isinstance(value, str):
        return value
    single = SLOT.fullmatch(value)
    return slots[single[1]] if single else SLOT.sub(lambda found: str(slots[found[1]]), value)


def _replace_value(state: State, path: str, value: Any) -> None:
    *parents, key = path.split(".")
    for parent in parents:
        state = state[parent]
    state[key] = value
