"""Tab completion beyond Hydra's: the values of a key that takes one of a few, also after a
comma."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hydra._internal.utils import get_args
from hydra.errors import HydraException
from hydra.plugins.completion_plugin import CompletionPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config import data_sets
from runner.config.groups import schema_keys
from runner.config.help import allowed
from runner.config.questions import QuestionsConfig
from runner_base import plug_ins


class CompletesValues(CompletionPlugin):
    """Put before the class of a shell's completion, it offers the values of keys, too."""

    def _query(self, config_name: str | None, line: str) -> list[str]:
        """Return the completions of the last word of a line."""
        *before, word = line.split(" ") or [""]
        key, equals, value = word.partition("=")
        if not equals or set("[]{}()'\"") & set(value):
            found = [
                offer for offer in super()._query(config_name, line) if not offer.startswith(data_sets.GROUP)
            ]
            return _with_equals(self, config_name, before, found)
        earlier, comma, prefix = value.rpartition(",")
        offered = super()._query(config_name, " ".join([*before, f"{key}={prefix}"]))
        values = [offer.partition("=")[2] for offer in offered]
        values += _values(self, config_name, before, key)
        chosen = earlier.split(",")
        return sorted(
            f"{key}={earlier}{comma}{choice}"
            for choice in {*values}
            if choice.startswith(prefix) and choice not in chosen
        )


def completing_values(plugin: CompletionPlugin) -> CompletionPlugin:
    """Return the completion of the same shell that offers the values of keys, too."""
    kind = type(plugin)
    made: CompletionPlugin = type(kind.__name__, (CompletesValues, kind), {})(plugin.config_loader)
    return made


def _with_equals(
    plugin: CompletionPlugin, config_name: str | None, before: list[str], found: list[str]
) -> list[str]:
    """Let a key that takes a list or a mapping end in =, as other keys do; Hydra lets it end in a
    dot."""
    if not any(offer.endswith(".") for offer in found):
        return found
    node = _composed(plugin, config_name, before)
    held = {
        offer: OmegaConf.select(node, offer.strip("+~."))
        for offer in found
        if node is not None and offer.endswith(".")
    }
    is_value = {
        offer
        for offer, value in held.items()
        if value is not None and OmegaConf.get_type(value) in (list, dict)
    }
    return [f"{offer[:-1]}=" if offer in is_value else offer for offer in found]


def _composed(plugin: CompletionPlugin, config_name: str | None, before: list[str]) -> DictConfig | None:
    overrides = get_args([word for word in before if word]).overrides
    with suppress(HydraException, OmegaConfBaseException):
        return plugin.config_loader.load_configuration(config_name, overrides, RunMode.MULTIRUN)
    return None


def _values(plugin: CompletionPlugin, config_name: str | None, before: list[str], key: str) -> list[str]:
    """Return the values that a key takes, or none if it takes more than a few."""
    owner, dot, name = key.lstrip("+").rpartition(".")
    composed = _composed(plugin, config_name, before)
    with suppress(OmegaConfBaseException):  # no such key
        node = OmegaConf.select(composed, owner) if dot and composed is not None else composed
        schema: Any = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
        if name == "data" and isinstance(schema, type) and issubclass(schema, QuestionsConfig):
            return data_sets.names(composed)
        if name in schema_keys(schema):
            return [*plug_ins("scorer"), "null"] if name == "scorer" else allowed(schema, name)
    return []
