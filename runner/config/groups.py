"""Lists all config groups, the schema of each choice, the type of each key, and the plug-ins that a
job uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from runner.config.models import MODELS
from runner.config.root import NoTrackingConfig, RunnerConfig, TrackingConfig
from runner.config.tasks import TASKS
from runner_base import Text, find_plug_ins
from runner_base.choices import Choices
from runner_base.fields import Names
from runner_base.plugins import PlugIn
from runner_engine import CHOICES
from runner_engine.settings import choices

GROUPS: Mapping[str, Mapping[str, type[Any]]] = {
    "model": MODELS,
    **choices.GROUPS,
    "task": TASKS,
    "tracking": {"sqlite": TrackingConfig, "none": NoTrackingConfig},
}


@dataclass(frozen=True)
class KeyType:
    """Type of a config key. It decides how values are quoted in overrides."""

    is_string: bool = False
    is_free_text: bool = False  # a text for a model, in which a comma is just a comma
    is_list: bool = False
    may_be_list: bool = False  # a name or, in brackets, a list of names; a list in YAML is a sweep over names

    @property
    def accepts_list(self) -> bool:
        return self.is_list or self.may_be_list


def list_schema_names(group: str) -> list[str]:
    schemas = GROUPS[group]
    return schemas.list_names() if isinstance(schemas, Choices) else sorted(schemas)


def schema_keys(schema: object) -> set[str]:
    return {item.name for item in fields(schema)} if is_dataclass(schema) else set()


def list_used_plugin_packages(config: RunnerConfig) -> dict[str, str]:
    """Return the package and version of every plug-in that a job uses. They are part of the job id and
    the record.
    """
    of_metrics = [f"{name} of {find_plug_ins('metric')[name].package}" for name in config.metrics]
    found = {f"{key}.package": plug_in.package for key, plug_in in _list_used_plugins(config)}
    return found | ({"metrics.package": ", ".join(of_metrics)} if of_metrics else {})


def _list_used_plugins(config: RunnerConfig) -> Iterator[tuple[str, PlugIn]]:
    for group in ("model", "quantization", "task"):
        schemas = GROUPS[group]
        assert isinstance(schemas, Choices)
        if (plug_in := schemas.find_plug_in_of_class(type(getattr(config, group)))) is not None:
            yield group, plug_in
    for pattern, choice in config.mix.overrides.items():
        if (plug_in := CHOICES.find_plug_in_of_class(type(choice))) is not None:
            yield f"quantization.overrides.{pattern}", plug_in
    task = config.task.questions_config
    if task is not None and task.gold_scorer is not None and task.gold_scorer in find_plug_ins("scorer"):
        yield "task.scorer", find_plug_ins("scorer")[task.gold_scorer]


def collect_key_types() -> dict[str, KeyType]:
    """Return the type of every config key. Keys of plug-ins are included only if the plug-in has been
    imported.
    """
    types: dict[str, KeyType] = {}
    for group in (*GROUPS, ""):
        types |= _group_key_types(group)
    return types


def find_key_type(key: str) -> KeyType | None:
    group, dot, _ = key.partition(".")
    return _group_key_types(group if dot and group in GROUPS else "").get(key)


def _group_key_types(group: str) -> dict[str, KeyType]:
    return _collect_group_key_types(group, len(GROUPS.get(group, ())))


@cache
def _collect_group_key_types(group: str, _loaded: int) -> dict[str, KeyType]:
    types: dict[str, KeyType] = {}
    schemas: list[tuple[str, type[Any]]] = [("", RunnerConfig)]
    if group:
        schemas = [(f"{group}.", schema) for schema in GROUPS[group].values()]
    for prefix, schema in schemas:
        hints = get_type_hints(schema, include_extras=True)
        for name, hint in ((item.name, hints[item.name]) for item in fields(schema)):
            # gate, or a model within a model
            if isinstance(hint, type) and is_dataclass(hint) and f"{prefix}{name}" not in GROUPS:
                schemas.append((f"{prefix}{name}.", hint))
            members = (
                [member for member in get_args(hint) if member is not NoneType]
                if _is_union_type(hint)
                else [hint]
            )
            is_list = get_origin(members[0]) is list
            members = [*get_args(members[0])] if is_list else members
            is_string = members in ([str], [Text], [Names])
            key_type = KeyType(is_string, members == [Text], is_list, members == [Names])
            key = f"{prefix}{name}"
            if (
                key not in types or not types[key].is_string
            ):  # task.prompt is a choice of one task, a text of others
                types[key] = key_type
    return types


def _is_union_type(type_hint: object) -> bool:
    return get_origin(type_hint) in (Union, UnionType)
