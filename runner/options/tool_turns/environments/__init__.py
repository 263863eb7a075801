"""Scripted environments: each has a state and tools, needs no network and runs no code of the model."""

from runner.options.tool_turns.environments import calendar, files, house, shop
from runner.options.tool_turns.environments.base import Environment

ENVIRONMENTS: dict[str, Environment] = {
    module.ENVIRONMENT.name: module.ENVIRONMENT for module in (calendar, files, house, shop)
}
