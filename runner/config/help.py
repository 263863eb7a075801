"""Builds the --help text of config keys: value, choices, and the comment next to each key in conf/."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from inspect import get_annotations
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config import data_sets
from runner.config.choices import (
    CONF,
    find_choice_file,
    get_choice_schema,
    installed_choice_files,
    list_choices,
)
from runner.config.groups import GROUPS
from runner.config.questions import QuestionsConfig
from runner.config.render import ALL_KEYS, COMMON_KEYS, COMMON_KEYS_HEAD, GROUPS_HEAD, GROUPS_MEAN
from runner_base.plugins import group_plug_ins_by_package

WIDTH, COLUMN = 100, 40
COLUMN_OF_COMMON = 34
LINE = re.compile(r"""(\s*)([A-Za-z_]\w*):((?:"[^"]*"|'[^']*'|[^#"'])*)(?:#\s*(.*))?""")


@dataclass
class Comments:
    """Comments of a YAML file: the one at the top, and the one beside each key."""

    top: str = ""
    beside: dict[str, str] = field(default_factory=dict)


def format_help_overview(composed: DictConfig, choices: Mapping[str, str]) -> str:
    lines = [GROUPS_HEAD]
    for group, meaning in GROUPS_MEAN.items():
        others = [choice for choice in list_choices(group) if choice != choices[group]]
        lines.append(f"  {group:<13} {meaning}")
        lines += _wrap_lines(", ".join([choices[group], *others]), 16)
    lines += ["", COMMON_KEYS_HEAD]
    for key, meaning in COMMON_KEYS.items():
        group, dot, name = key.rpartition(".")
        node = composed[group] if dot else composed
        schema: Any = OmegaConf.get_type(node)
        if name in {item.name for item in fields(schema)}:
            value = _format_override_value(_get_config_value_for_help(node, name))
            lines.append(f"  {f'{key}={value}':<{COLUMN_OF_COMMON}}  {meaning}")
    return "\n".join(lines) + "\n"


def describe_groups(composed: DictConfig, choices: Mapping[str, str], group_names: Sequence[str]) -> str:
    lines = [describe_job_keys(composed, choices, group_names)]
    for group in group_names:
        others = [choice for choice in list_choices(group) if choice != choices[group]]
        lines += textwrap.wrap(f"Other choices: {group}={' | '.join(others)}", WIDTH)
    return "\n".join([*lines, "", ALL_KEYS, ""])


def _wrap_lines(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)


def describe_job_keys(
    composed: DictConfig, choices: Mapping[str, str], groups: Collection[str] | None = None
) -> str:
    lines = []
    for group in GROUPS:
        if groups is not None and group not in groups:
            continue
        choice = choices[group]
        lines += [
            "",
            *textwrap.wrap(
                f"{group}={choice}: {read_yaml_key_comments(find_choice_file(group, choice)).top}", WIDTH
            ),
        ]
        for key, value, schema in _iterate_group_keys(composed[group]):
            comment = _find_key_comment(group, choice, key, schema)
            if key == "data" and issubclass(schema, QuestionsConfig):
                comment = f"{comment}. Data sets: {', '.join(data_sets.list_data_set_names(composed))}"
            lines += _format_key(f"{group}.{key}", value, schema, comment)
    if groups is None or "profile" in groups:
        profile = choices["profile"]
        lines += [
            "",
            *textwrap.wrap(
                f"profile={profile}: {read_yaml_key_comments(find_choice_file('profile', profile)).top}",
                WIDTH,
            ),
        ]
    if groups is not None:
        return "\n".join(lines[1:]) + "\n"
    lines += ["", "Keys without a group:"]
    menu = read_yaml_key_comments(CONF / "config.yaml").beside
    for key, value, schema in _iterate_group_keys(composed):
        if key.partition(".")[0] not in (*GROUPS, "profile"):
            lines += _format_key(key, value, schema, menu.get(key, ""))
    if found := group_plug_ins_by_package():
        lines += ["", "From plug-ins (docs/plugins.md):"]
    for package, added in found.items():
        lines += textwrap.wrap(f"  {package}: {', '.join(f'{it.kind} {it.name}' for it in added)}", WIDTH)
    return "\n".join(lines[1:]) + "\n"


def allowed_values(schema: type[Any], key: str) -> list[str]:
    """Return the allowed values of an enum or bool key. Empty for other keys."""
    hint = get_type_hints(schema)[key]
    for kind in get_args(hint) or (hint,):
        if isinstance(kind, type) and issubclass(kind, Enum):
            return [*kind.__members__, *(["null"] if NoneType in get_args(hint) else [])]
    return ["true", "false"] if hint is bool else []


@cache
def read_yaml_key_comments(file: Path) -> Comments:
    read, top, path = Comments(), [], [""]
    last = ""
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        if line.startswith("#"):
            top += [line[1:].strip()] if not read.beside and "@package" not in line else []
            last = ""
        elif line.lstrip().startswith("#"):
            read.beside[last] = f"{read.beside.get(last, '')} {line.strip(' #')}"
        elif match := LINE.fullmatch(line):
            depth = len(match[1]) // 2
            path[depth:] = [match[2]]
            last = ".".join(path)
            read.beside[last] = match[4] or ""
    read.top = " ".join(top)
    return read


def _iterate_group_keys(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any, type[Any]]]:
    schema: Any = OmegaConf.get_type(node)
    for item in fields(schema):
        inner = node._get_node(item.name)
        if isinstance(inner, DictConfig) and is_dataclass(OmegaConf.get_type(inner)):
            yield from _iterate_group_keys(inner, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", _get_config_value_for_help(node, item.name), schema


def _get_config_value_for_help(node: DictConfig, key: str) -> Any:
    if OmegaConf.is_missing(node, key):
        return "???"
    try:
        value = node[key]
    except OmegaConfBaseException:  # it refers to a key that has no value yet
        value = node._get_node(key)
    return OmegaConf.to_container(value, enum_to_str=True) if OmegaConf.is_config(value) else value


def _format_key(key: str, value: Any, schema: type[Any], comment: str) -> list[str]:
    choices = allowed_values(schema, key.rpartition(".")[2])
    if choices[:1] != ["true"] and not all(re.search(rf"\b{choice}\b", comment) for choice in choices):
        comment = f"{' | '.join(choices)}: {comment}".rstrip(": ")
    setting = f"  {key}={_format_override_value(value)}"
    beside = [f"{'':{COLUMN}}# {line}" for line in textwrap.wrap(comment, WIDTH - COLUMN - 2)]
    if not beside or len(setting) >= COLUMN:
        return [setting, *beside]
    return [setting + beside[0][len(setting) :], *beside[1:]]


def _format_override_value(value: Any) -> str:
    """Return a value in the form in which users type it on the command line."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str) and value:
        return value if re.fullmatch(r"[\w./:?~-]+", value) else f'"{value}"'
    return (
        str(yaml.safe_dump(value, default_flow_style=True, width=1000))
        .removesuffix("\n")
        .removesuffix("\n...")
    )


def _find_key_comment(group: str, choice: str, key: str, schema: type[Any]) -> str:
    if comment := read_yaml_key_comments(find_choice_file(group, choice)).beside.get(key):
        return comment
    last = key.rpartition(".")[2]
    owner = next(kind for kind in schema.__mro__ if last in get_annotations(kind))
    files = sorted(
        installed_choice_files(group),
        key=lambda file: (get_choice_schema(group, file.stem) is not owner, file),
    )
    for file in files:
        if issubclass(get_choice_schema(group, file.stem), owner) and (
            comment := read_yaml_key_comments(file).beside.get(last)
        ):
            return comment
    return ""
