"""Keys that a choice does not have: in a grid, other choices of the same group may have them."""

from __future__ import annotations

from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from runner.config.data_sets import settle
from runner.config.root import RunnerConfig

HYDRAS_OWN = Hydra.compose_config


def lacking(error: BaseException, overrides: list[str]) -> list[str]:
    """Return the overrides that did not compose since the choices beside them have no such key."""
    while error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, ConfigAttributeError | ConfigKeyError) or not error.full_key:
        return []
    keys = {line: line.partition("=")[0] for line in overrides if not line.startswith("hydra")}
    return [line for line, key in keys.items() if f"{key}.".startswith(f"{error.full_key}.")]


def compose_config(
    self: Hydra, config_name: str | None, overrides: list[str], run_mode: RunMode, *rest: bool, **keys: bool
) -> DictConfig:
    """Compose as Hydra does; what stands for a whole grid goes without keys that its default choices do not have.

    The sweeper gives each of them to the jobs whose choices have it, and refuses those that no job takes.
    """
    left: list[str] = []
    while True:
        try:
            taken = [line for line in overrides if line not in left]
            composed = HYDRAS_OWN(self, config_name, taken, run_mode, *rest, **keys)
            break
        except HydraException as error:
            found = lacking(error, taken) if run_mode is RunMode.MULTIRUN else []
            if not found:
                raise
            left += found
    if left:
        of_task = {*composed.hydra.overrides.task, *left}
        composed.hydra.overrides.task = [line for line in overrides if line in of_task]
    if run_mode is RunMode.RUN and OmegaConf.get_type(composed) is RunnerConfig:  # jobs of a grid have their own data
        settle(composed)
    return composed
