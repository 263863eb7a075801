"""Schemas in Hydra's store, converted when they are read."""

from __future__ import annotations

from dataclasses import fields

from hydra.core.config_store import ConfigNode
from omegaconf import DictConfig, OmegaConf

from runner.config.groups import GROUPS


class StoredSchema(ConfigNode):
    """A schema in Hydra's store, converted when Hydra first reads it, and then imported, if it is a plug-in's.

    A job uses a few of the schemas, and converting all of them takes a tenth of the time of `--cfg job`.
    """

    def __init__(self, group: str, name: str) -> None:
        super().__init__(f"{name}.yaml", DictConfig({}), f"hydra/schema/{group}", None, "runner")
        self._place = group, name
        self._converted: DictConfig | None = None

    @property
    def node(self) -> DictConfig:
        """The schema."""
        if self._converted is None:
            group, name = self._place
            schema = GROUPS[group][name]
            free = [item.name for item in fields(schema) if item.default_factory is dict]
            self._converted = open_keys(OmegaConf.structured(schema), *free)
        return self._converted

    @node.setter
    def node(self, node: DictConfig) -> None:
        self._converted = node


def open_keys(node: DictConfig, *keys: str) -> DictConfig:
    """Let users add keys of their own below these keys of a node, without a + before them."""
    for key in keys:
        OmegaConf.set_struct(node[key], False)
    return node
