"""Scripted environments with a state and tools. They need no network and execute no code that the model writes."""

from runner.options.tool_turns.environments import calendar, files, house, shop
from runner.options.tool_turns.environments.base import Environment

ENVIRONMENTS: dict[str, Environment] = {
    module.ENVIRONMENT.name: module.ENVIRONMENT for module in (calendar, files, house, shop)
}
