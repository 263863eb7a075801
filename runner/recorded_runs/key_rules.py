"""Which keys of a job tell it apart from another: as the schema says, by the choices that the job
has made."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import Field, fields
from typing import Any

from runner.config.groups import GROUPS
from runner.config.root import RunnerConfig
from runner.records.flat_config import text_of
from runner_base import HASHED, Inert
from runner_base.fields import DefaultAs, Unless, counts_of, omitted_value
from runner_compare import KeyRules


class SchemaRules(KeyRules):
    """The rules of the schema for the keys of jobs."""

    def __init__(self) -> None:
        self.order = [item.name for item in fields(RunnerConfig)]
        self.written_alike = _written_alike()
        of_some = {
            key: value for key, value in KeyRules.defaults.items() if key.startswith(("task.", "lora."))
        }
        self.defaults = _in_every_choice() | of_some

    def inert_keys(self, config: Mapping[str, str]) -> Set[str]:
        """Return the config keys in which two runs may differ and still be the same experiment.

        A location whose content is hashed (model.name, task.data) is inert for a job's identity,
        but readers know a model or a data set by it, so it is not inert here; the download cache
        is. A key of the same name may count in another choice of its group: task.split is inert in
        a sweep, but not in gsm8k.
        """
        keys = {item.name for item in fields(RunnerConfig) if _is_inert(item)} | {"metrics.package"}
        for group_name, schemas in GROUPS.items():
            chosen = schemas.get(config.get(f"{group_name}.name", ""))
            if chosen and any(
                item.name == "name" for item in fields(chosen)
            ):  # a model's name is no group's choice
                chosen = None
            for schema in [chosen] if chosen else schemas.values():
                keys |= {
                    f"{group_name}.{item.name}"
                    for item in fields(schema)
                    if _is_inert(item, config.get(f"{group_name}.{item.name}"))
                }
        return keys


def _is_inert(item: Field[Any], text: str | None = None) -> bool:
    """Whether a key changes no answer; text: its value as it is recorded, if it is."""
    counts = counts_of(item)
    changes_none = isinstance(counts, Inert) and counts is not HASHED
    if isinstance(counts, Inert) and text is not None:
        changes_none = changes_none and counts.covers(text)
    changes_none |= isinstance(counts, Unless) and not counts.changes_answers
    return changes_none or item.name == "cache_dir"


def _written_alike() -> dict[tuple[str, str], str]:
    """Return for a key and its default the value that means the same to a job's identity, all as
    text."""
    keys = [
        (f"{group_name}.{item.name}", item)
        for group_name, schemas in GROUPS.items()
        for schema in schemas.values()
        for item in fields(schema)
    ]
    alike = {
        (key, str(item.default)): str(counts.value)
        for key, item in keys
        if isinstance(counts := counts_of(item), DefaultAs)
    }
    for key, item in keys:
        counts = counts_of(item)
        if isinstance(counts, Inert):
            others = [value for value in counts.only if value != item.default]
            alike |= {(key, str(value)): str(item.default) for value in others}
    return alike


def _in_every_choice() -> dict[str, str]:
    """Return the defaults, as text, of keys that each choice of a group has: records from before
    such a key lack it."""
    return {
        f"{group_name}.{item.name}": text_of(omitted_value(item))
        for group_name, schemas in GROUPS.items()
        for item in fields(next(iter(schemas.values())))
        if _may_be_left_out(counts_of(item))
        and all(item.name in {other.name for other in fields(schema)} for schema in schemas.values())
    }


def _may_be_left_out(counts: object) -> bool:
    """Whether a key is in some jobs' identity, and not in those of jobs that have its default."""
    return isinstance(counts, Unless) or (isinstance(counts, Inert) and bool(counts.only))
