"""Completes config values in the shell, for keys that accept only a few values."""

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
from runner.config.help import allowed_values
from runner.config.questions import QuestionsConfig
from runner.config.renamed_keys import rename_old_keys_in_overrides
from runner_base import find_plug_ins


class CompletesValues(CompletionPlugin):
    """Mixin for Hydra's shell completion plugins that also completes the values of config keys."""

    def _query(self, config_name: str | None, line: str) -> list[str]:
        *before, word = line.split(" ") or [""]
        before = rename_old_keys_in_overrides(before, is_silent=True)
        line = " ".join([*before, word])
        key, equals, value = word.partition("=")
        if not equals or set("[]{}()'\"") & set(value):
            found = [
                offer for offer in super()._query(config_name, line) if not offer.startswith(data_sets.GROUP)
            ]
            return _append_equals_to_keys(self, config_name, before, found)
        earlier, comma, prefix = value.rpartition(",")
        offered = super()._query(config_name, " ".join([*before, f"{key}={prefix}"]))
        values = [offer.partition("=")[2] for offer in offered]
        values += _list_valid_key_values(self, config_name, before, key)
        chosen = earlier.split(",")
        return sorted(
            f"{key}={earlier}{comma}{choice}"
            for choice in {*values}
            if choice.startswith(prefix) and choice not in chosen
        )


def add_value_completion(plugin: CompletionPlugin) -> CompletionPlugin:
    """Return a completion plugin for the same shell that also completes the values of config keys."""
    kind = type(plugin)
    made: CompletionPlugin = type(kind.__name__, (CompletesValues, kind), {})(plugin.config_loader)
    return made


def _append_equals_to_keys(
    plugin: CompletionPlugin, config_name: str | None, earlier_words: list[str], completions: list[str]
) -> list[str]:
    """Append `=` to completed keys of lists and mappings, where Hydra appends a dot."""
    if not any(offer.endswith(".") for offer in completions):
        return completions
    node = _compose_config_or_none(plugin, config_name, earlier_words)
    held = {
        offer: OmegaConf.select(node, offer.strip("+~."))
        for offer in completions
        if node is not None and offer.endswith(".")
    }
    is_value = {
        offer
        for offer, value in held.items()
        if value is not None and OmegaConf.get_type(value) in (list, dict)
    }
    return [f"{offer[:-1]}=" if offer in is_value else offer for offer in completions]


def _compose_config_or_none(
    plugin: CompletionPlugin, config_name: str | None, earlier_words: list[str]
) -> DictConfig | None:
    overrides = get_args([word for word in earlier_words if word]).overrides
    with suppress(HydraException, OmegaConfBaseException):
        return plugin.config_loader.load_configuration(config_name, overrides, RunMode.MULTIRUN)
    return None


def _list_valid_key_values(
    plugin: CompletionPlugin, config_name: str | None, earlier_words: list[str], key: str
) -> list[str]:
    """Return the valid values of a config key. Empty if the key has more than a few."""
    owner, dot, name = key.lstrip("+").rpartition(".")
    composed = _compose_config_or_none(plugin, config_name, earlier_words)
    with suppress(OmegaConfBaseException):  # no such key
        node = OmegaConf.select(composed, owner) if dot and composed is not None else composed
        schema: Any = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
        if name == "data" and isinstance(schema, type) and issubclass(schema, QuestionsConfig):
            return data_sets.list_data_set_names(composed)
        if name in schema_keys(schema):
            return [*find_plug_ins("scorer"), "null"] if name == "scorer" else allowed_values(schema, name)
    return []
