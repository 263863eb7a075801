"""Keys that a choice does not have, while other choices of the same group in a grid may have them."""

from __future__ import annotations

from typing import Any

from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from runner.config.data_sets import apply_data_set
from runner.config.root import RunnerConfig
from runner.core.signals import deferred

HYDRAS_OWN: Any = Hydra.compose_config


def overrides_of_missing_keys(error: BaseException, overrides: list[str]) -> list[str]:
    """Return the overrides that did not compose because the chosen schemas have no such key."""
    while error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, ConfigAttributeError | ConfigKeyError) or not error.full_key:
        return []
    keys = {line: line.partition("=")[0] for line in overrides if not line.startswith("hydra")}
    return [line for line, key in keys.items() if f"{key}.".startswith(f"{error.full_key}.")]


def compose_config(
    self: Hydra, config_name: str | None, overrides: list[str], run_mode: RunMode, *rest: bool, **keys: Any
) -> DictConfig:
    """Compose as Hydra does; the config of a whole grid omits keys that its default choices do not have.

    The sweeper gives each of these keys to the jobs whose choices have it, and rejects a key that no job has.
    """
    omitted: list[str] = []
    while True:
        used = [line for line in overrides if line not in omitted]
        try:
            with deferred():  # an interrupt amid it may end as another error, of a config that is half made
                composed: DictConfig = HYDRAS_OWN(self, config_name, used, run_mode, *rest, **keys)
            break
        except HydraException as error:
            failing = overrides_of_missing_keys(error, used) if run_mode is RunMode.MULTIRUN else []
            if not failing:
                raise
            omitted += failing
            keys.pop("parsed_overrides", None)  # of Hydra 1.4: the same overrides in another form
    if omitted:
        of_task = {*composed.hydra.overrides.task, *omitted}
        composed.hydra.overrides.task = [line for line in overrides if line in of_task]
    if run_mode is RunMode.RUN and OmegaConf.get_type(composed) is RunnerConfig:  # each job of a grid has its own data
        apply_data_set(composed)
    return composed
