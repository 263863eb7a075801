"""Accepts the old names of config keys in overrides and YAML files, with a warning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner_base import ConfigError, find_plug_ins, print_message
from runner_base.renamed_keys import (
    INNER_MODELS,
    LAYER_CHOICES,
    OLD_LAYER_KEY,
    RENAMED_KEYS,
    get_current_key_name,
)

OVERRIDE = re.compile(r"([+~]{0,2})([^=]*)(=?)(.*)", re.DOTALL)
SWEEPER_KEY = re.compile(r"hydra\.sweeper\.\w+\.")  # what follows is a key of the jobs
DATA_SETS = "dataset"  # a data set's file holds keys of the task
_INNER = rf"(?:(?:{'|'.join(INNER_MODELS)})\.)?"
_OLD_KEYS = [
    rf"{group}\.{_INNER if group == 'model' else ''}(?:{'|'.join(keys)})"
    for group, keys in RENAMED_KEYS.items()
]
OLD_KEY = re.compile(rf"(?<![\w/-])(?:{'|'.join(_OLD_KEYS)})(?![\w./(-])")
INTERPOLATION = re.compile(r"\$\{[^{}]*\}")

RenameKey = Callable[[str], str]  # full key → its current name, with a warning


def rename_old_keys_in_overrides(overrides: Iterable[str], is_silent: bool = False) -> list[str]:
    """Return overrides with the current names of their keys. Raises ConfigError if an old and a new
    name of the same key are set.
    """
    lines = [*overrides]
    if not any(OLD_KEY.search(line) or LAYER_CHOICES in line for line in lines):
        return lines
    chosen = {
        (group, name)
        for group, _, names in (line.partition("=") for line in lines)
        for name in names.split(",")
    }
    rename = _create_key_renamer(chosen, is_silent)
    renamed, sources = [], dict[str, str]()
    for line in lines:
        sigil, key, equals, value = OVERRIDE.fullmatch(line).groups()  # type: ignore[union-attr]
        before = match[0] if (match := SWEEPER_KEY.match(key)) else ""
        new = before + rename(key.removeprefix(before))
        _reject_key_set_twice(sources, key, new)
        renamed.append(f"{sigil}{new}{equals}{_rename_keys_in_value(new, value, rename)}")
    return renamed


def rename_old_keys_in_yaml(config: DictConfig, config_path: str, package: str | None) -> DictConfig:
    """Return the content of a YAML file with the current names of its keys.

    `config_path` is its path in the config folder, such as task/mine, and `package` the package
    of its header.
    """
    group, _, choice = config_path.partition("/")
    prefix = ""
    if package != "_global_" and group in (*RENAMED_KEYS, DATA_SETS):
        prefix = f"{'task' if group == DATA_SETS else group}."
    content: Any = OmegaConf.to_container(config, resolve=False)
    if not isinstance(content, dict):
        return config
    defaults = content.get("defaults", ())
    entries = [entry for entry in defaults if isinstance(entry, dict)] if isinstance(defaults, list) else []
    chosen = {(str(key).rpartition("/")[2], str(value)) for entry in entries for key, value in entry.items()}
    renamed = _rename_keys_in_yaml_node(
        content, prefix, _create_key_renamer({*chosen, (group, choice)}, is_silent=False)
    )
    return config if renamed == content else OmegaConf.create(renamed)


def _create_key_renamer(chosen: set[tuple[str, str]], is_silent: bool) -> RenameKey:
    """Return a function that renames a full key. Keys of the chosen plug-ins keep their names."""

    def rename(key: str) -> str:
        new = get_current_key_name(key)
        if new == key or _is_plugin_key(key, chosen):
            return key
        if not is_silent:
            warn_of_old_key(key, new)
        return new

    return rename


def _is_plugin_key(key: str, chosen: set[tuple[str, str]]) -> bool:
    """Return whether a chosen plug-in has its own key of this name, although the runner has renamed
    that key.
    """
    from runner.config.groups import GROUPS, schema_keys  # most configs have no old key

    group, _, name = key.partition(".")
    plug_ins = [
        choice for its_group, choice in chosen if its_group == group and choice in find_plug_ins(group)
    ]
    return any(name in schema_keys(GROUPS[group][choice]) for choice in plug_ins)


@cache
def warn_of_old_key(key: str, new_key: str) -> None:
    """Warn that a key has a new name, once per key."""
    print_message(f"warning: {key} is now {new_key}. The old key will be removed in a later version.")


def _reject_key_set_twice(sources: dict[str, str], key: str, new_key: str) -> None:
    """Raise ConfigError if the same key was already set under another name."""
    other = sources.setdefault(new_key, key)
    if other != key:
        old = key if key != new_key else other
        same = other if old == key else key
        raise ConfigError(f"{same} sets the same key. Set only {new_key}", key=old, code="conflict")


def _rename_keys_in_value(key: str, text: str, rename: RenameKey) -> str:
    """Replace old key names in a value: in interpolations, sweep settings and quantization.overrides."""
    if key == LAYER_CHOICES:
        return OLD_LAYER_KEY.sub(lambda match: rename(f"quantization.{match[1]}").partition(".")[2], text)
    if key.startswith("hydra."):
        return OLD_KEY.sub(lambda match: rename(match[0]), text)
    return INTERPOLATION.sub(lambda match: OLD_KEY.sub(lambda inner: rename(inner[0]), match[0]), text)


def _rename_keys_in_yaml_node(node: Any, path: str, rename: RenameKey) -> Any:
    """Return a copy of a YAML node with the current names of its keys. `path` is the prefix of the full
    key.
    """
    if isinstance(node, list):
        return [_rename_keys_in_yaml_node(item, path, rename) for item in node]
    if isinstance(node, str):
        return _rename_keys_in_value(path.removesuffix("."), node, rename)
    if not isinstance(node, dict):
        return node
    renamed, sources = {}, dict[str, str]()
    for name, value in node.items():
        full = SWEEPER_KEY.sub("", f"{path}{str(name).lstrip('+~')}")
        new = rename(full)
        _reject_key_set_twice(sources, full, new)
        same = len(full) - len(full.rpartition(".")[2])  # characters before the last name
        new_name = name if new == full else str(name).removesuffix(full[same:]) + new[same:]
        renamed[new_name] = _rename_keys_in_yaml_node(value, f"{path}{new_name}.", rename)
    return renamed
