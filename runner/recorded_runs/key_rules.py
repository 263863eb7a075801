"""Determines from the config schema which config keys distinguish two jobs."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import Field, fields
from typing import Any

from runner.config.groups import GROUPS
from runner.config.root import RunnerConfig
from runner.records.flat_config import format_config_value
from runner_base import HASHED, NotInIdentity
from runner_base.fields import (
    DefaultCountsAs,
    InIdentityUnless,
    get_identity_rule,
    get_value_omitted_from_job_id,
)
from runner_compare import KeyRules


class SchemaRules(KeyRules):
    """Determines from the config schema which keys may differ between repetitions of an experiment."""

    def __init__(self) -> None:
        self.order = [item.name for item in fields(RunnerConfig)]
        self.written_alike = _map_equivalent_config_values()
        of_some = {
            key: value for key, value in KeyRules.defaults.items() if key.startswith(("task.", "lora."))
        }
        self.defaults = _defaults_common_to_choices() | of_some

    def find_keys_without_effect(self, config: Mapping[str, str]) -> Set[str]:
        """Return the config keys that may differ between repetitions of one experiment.

        A location whose content is hashed (model.name, task.data) is inert for a job's identity, but
        readers know a model or a data set by it, so it is not inert here; the download cache is. A key
        of the same name may count in another choice of its group: task.split is inert in a sweep, but
        not in gsm8k.
        """
        keys = {item.name for item in fields(RunnerConfig) if _has_no_effect_on_answers(item)} | {
            "metrics.package"
        }
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
                    if _has_no_effect_on_answers(item, config.get(f"{group_name}.{item.name}"))
                }
        return keys


def _has_no_effect_on_answers(schema_field: Field[Any], recorded_value: str | None = None) -> bool:
    counts = get_identity_rule(schema_field)
    changes_none = isinstance(counts, NotInIdentity) and counts is not HASHED
    if isinstance(counts, NotInIdentity) and recorded_value is not None:
        changes_none = changes_none and counts.excludes(recorded_value)
    changes_none |= isinstance(counts, InIdentityUnless) and not counts.changes_answers
    return changes_none or schema_field.name == "cache_dir"


def _map_equivalent_config_values() -> dict[tuple[str, str], str]:
    """Map a config key and its default to another value that gives the same job id."""
    keys = [
        (f"{group_name}.{item.name}", item)
        for group_name, schemas in GROUPS.items()
        for schema in schemas.values()
        for item in fields(schema)
    ]
    alike = {
        (key, str(item.default)): str(counts.value)
        for key, item in keys
        if isinstance(counts := get_identity_rule(item), DefaultCountsAs)
    }
    for key, item in keys:
        counts = get_identity_rule(item)
        if isinstance(counts, NotInIdentity):
            others = [value for value in counts.only if value != item.default]
            alike |= {(key, str(value)): str(item.default) for value in others}
    return alike


def _defaults_common_to_choices() -> dict[str, str]:
    """Return the defaults of the keys that all choices of a group share.

    Old records lack these keys.
    """
    return {
        f"{group_name}.{item.name}": format_config_value(get_value_omitted_from_job_id(item))
        for group_name, schemas in GROUPS.items()
        for item in fields(next(iter(schemas.values())))
        if _is_omitted_at_default(get_identity_rule(item))
        and all(item.name in {other.name for other in fields(schema)} for schema in schemas.values())
    }


def _is_omitted_at_default(identity_rule: object) -> bool:
    return isinstance(identity_rule, InIdentityUnless) or (
        isinstance(identity_rule, NotInIdentity) and bool(identity_rule.only)
    )
