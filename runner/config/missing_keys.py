"""Handles grid overrides whose key exists only in some choices of a config group."""

from __future__ import annotations

from collections.abc import Callable

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from runner_base.signals import defer_signals


def find_missing_key_overrides(error: BaseException, overrides: list[str]) -> list[str]:
    while error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, ConfigAttributeError | ConfigKeyError) or not error.full_key:
        return []
    keys = {line: line.partition("=")[0] for line in overrides if not line.startswith("hydra")}
    return [line for line, key in keys.items() if f"{key}.".startswith(f"{error.full_key}.")]


def compose_omitting_missing_keys(
    compose: Callable[[list[str]], DictConfig], overrides: list[str], run_mode: RunMode
) -> DictConfig:
    """Compose a config. In a grid, skip overrides whose keys the default choices lack.

    The sweeper passes each of these keys to the jobs whose choices have it, and rejects a key that
    no job has.
    """
    omitted: list[str] = []
    while True:
        used = [line for line in overrides if line not in omitted]
        try:
            with (
                defer_signals()
            ):  # an interrupt amid it may end as another error, of a config that is half made
                composed = compose(used)
            break
        except HydraException as error:
            failing = find_missing_key_overrides(error, used) if run_mode is RunMode.MULTIRUN else []
            if not failing:
                raise
            omitted += failing
    if omitted:
        of_task = {*composed.hydra.overrides.task, *omitted}
        composed.hydra.overrides.task = [line for line in overrides if line in of_task]
    return composed
