"""Hand the schema to Hydra, and turn the composed YAML into checked dataclasses."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from runner.config.groups import GROUPS
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, unknown

# The keys of a study's grid: sweeps by key, keys that advance together, combinations to leave out.
GRID: dict[str, Any] = {"params": {}, "zip": [], "exclude": []}


def register() -> None:
    """Hand every schema to Hydra, so that a YAML that extends it is type-checked.

    The schemas stand under hydra/schema/GROUP, because `--help` and tab completion list only groups outside hydra/.
    """
    from hydra.core.config_store import ConfigStore

    # Hydra deep-copies the store whenever it lists a group, and lists 60 groups for --help; listing changes nothing
    ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]
    store = ConfigStore.instance()
    store.store(group="hydra/schema", name="runner", node=RunnerConfig, provider="runner")
    grid = {"_target_": "hydra_plugins.runner.GridSweeper", **GRID}
    workers = {"_target_": "hydra_plugins.runner.WorkerLauncher", "fresh": False}
    store.store(group="hydra/sweeper", name="grid", node=grid, provider="runner")
    store.store(group="hydra/launcher", name="workers", node=workers, provider="runner")
    for group, schemas in GROUPS.items():
        for name, schema in schemas.items():
            store.store(group=f"hydra/schema/{group}", name=name, node=schema, provider="runner")


def to_config(composed: Any) -> RunnerConfig:
    """Turn the composed YAML into checked dataclasses; a key that was forced in with + is refused here."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(composed)
    assert isinstance(config, RunnerConfig)
    _refuse_extra("", composed, config)
    return config


def _refuse_extra(prefix: str, composed: Any, checked: object) -> None:
    known = {item.name for item in fields(checked)}  # type: ignore[arg-type]  # only called on dataclasses
    for key in map(str, composed):
        if key not in known:
            raise ConfigError(f"{prefix}{key}: {unknown('key', prefix + key, (prefix + name for name in known))}")
        if key in known and is_dataclass(getattr(checked, key)):
            _refuse_extra(f"{prefix}{key}.", composed[key], getattr(checked, key))
