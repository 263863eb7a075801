"""Which config keys tell runs apart, and in which order they stand."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from runner.config.groups import GROUPS
from runner.config.root import RunnerConfig
from runner.core.fields import HASHED


def inert_keys() -> set[str]:
    """Return the config keys in which runs may differ and still be the same experiment.

    A place whose content is hashed (model.name, task.data) is inert for a job's identity, but it is what a
    reader knows a model or a data set by; only the download cache says nothing.
    """

    def inert(item: Field[Any]) -> bool:
        return item.metadata.get("inert", HASHED) != HASHED or item.name == "cache_dir"

    keys = {item.name for item in fields(RunnerConfig) if inert(item)}
    for group_name, schemas in GROUPS.items():
        for schema in schemas.values():
            keys |= {f"{group_name}.{item.name}" for item in fields(schema) if inert(item)}
    return keys


def differing_keys(configs: list[dict[str, str]]) -> list[str]:
    """Return the meaningful config keys in which the runs differ, in the config's order."""
    meaning = meaningful_keys(configs)
    return [key for key in meaning if len({config.get(key) for config in configs}) > 1]


def meaningful_keys(configs: list[dict[str, str]]) -> list[str]:
    """Return the config keys of these runs that can change what they do, in the config's order."""
    inert = inert_keys()
    order = [item.name for item in fields(RunnerConfig)]

    def place(key: str) -> tuple[int, bool, str]:
        top = group(key)
        return (order.index(top) if top in order else len(order)), not key.endswith(".name"), key

    return sorted({key for config in configs for key in config if not {key, group(key)} & inert}, key=place)


def telling_keys(keys: list[str], configs: list[dict[str, str]]) -> list[str]:
    """Return the keys without those that follow from their group's name.

    nf4 always has double_quant and `none` never has: a column for it tells something only once nf4 has both.
    """

    def tells(key: str) -> bool:
        values = {config.get(key) for config in configs}
        return not (None in values and len(values) == 2 and f"{group(key)}.name" in keys)

    return [key for key in keys if tells(key)]


def group(key: str) -> str:
    """Return the config group that a key stands in."""
    return key.partition(".")[0]
