"""What `--help` says of each key: its value, its choices, and the comment beside it in conf/."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
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
from runner.config.choices import CONF, file_of, own_files, schema_of
from runner.config.groups import GROUPS
from runner.config.questions import QuestionsConfig
from runner_base.plugins import packages

WIDTH, COLUMN = 120, 40
LINE = re.compile(r"""(\s*)([A-Za-z_]\w*):((?:"[^"]*"|'[^']*'|[^#"'])*)(?:#\s*(.*))?""")


@dataclass
class Comments:
    """The comments of one YAML file: the one at its top, and the one beside each key."""

    top: str = ""
    beside: dict[str, str] = field(default_factory=dict)


def described(composed: DictConfig, choices: Mapping[str, str]) -> str:
    """Describe every key of a composed job, group by group, and those above the groups."""
    lines = []
    for group in GROUPS:
        choice = choices[group]
        lines += ["", *textwrap.wrap(f"{group}={choice}: {comments(file_of(group, choice)).top}", WIDTH)]
        for key, value, schema in _keys(composed[group]):
            comment = _comment(group, choice, key, schema)
            if key == "data" and issubclass(schema, QuestionsConfig):
                comment = f"{comment}. Data sets: {', '.join(data_sets.names(composed))}"
            lines += _line(f"{group}.{key}", value, schema, comment)
    lines += ["", f"profile={choices['profile']}: {comments(file_of('profile', choices['profile'])).top}"]
    lines += ["", "Above the groups:"]
    menu = comments(CONF / "config.yaml").beside
    for key, value, schema in _keys(composed):
        if key not in (*GROUPS, "profile") and "." not in key:
            lines += _line(key, value, schema, menu.get(key, ""))
    if found := packages():
        lines += ["", "From plug-ins (docs/plugins.md):"]
    for package, added in found.items():
        lines += textwrap.wrap(f"  {package}: {', '.join(f'{it.kind} {it.name}' for it in added)}", WIDTH)
    return "\n".join(lines[1:]) + "\n"


def allowed(schema: type[Any], key: str) -> list[str]:
    """Return the values of a key that takes one of a few: the members of an enum, or true and
    false."""
    hint = get_type_hints(schema)[key]
    for kind in get_args(hint) or (hint,):
        if isinstance(kind, type) and issubclass(kind, Enum):
            return [*kind.__members__, *(["null"] if NoneType in get_args(hint) else [])]
    return ["true", "false"] if hint is bool else []


@cache
def comments(file: Path) -> Comments:
    """Read the comments of a YAML file of conf/; a choice of the user's own, whose file is
    elsewhere, has none."""
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


def _keys(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any, type[Any]]]:
    """Yield each key of a group, its value and the class that it is a field of."""
    schema: Any = OmegaConf.get_type(node)
    for item in fields(schema):
        inner = node._get_node(item.name)
        if isinstance(inner, DictConfig) and is_dataclass(OmegaConf.get_type(inner)):
            yield from _keys(inner, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", _value(node, item.name), schema


def _value(node: DictConfig, key: str) -> Any:
    if OmegaConf.is_missing(node, key):
        return "???"
    try:
        value = node[key]
    except OmegaConfBaseException:  # it refers to a key that has no value yet
        value = node._get_node(key)
    return OmegaConf.to_container(value, enum_to_str=True) if OmegaConf.is_config(value) else value


def _line(key: str, value: Any, schema: type[Any], comment: str) -> list[str]:
    choices = allowed(schema, key.rpartition(".")[2])
    if choices[:1] != ["true"] and not all(re.search(rf"\b{choice}\b", comment) for choice in choices):
        comment = f"{' | '.join(choices)}: {comment}".rstrip(": ")
    setting = f"  {key}={_written(value)}"
    beside = [f"{'':{COLUMN}}# {line}" for line in textwrap.wrap(comment, WIDTH - COLUMN - 2)]
    if not beside or len(setting) >= COLUMN:
        return [setting, *beside]
    return [setting + beside[0][len(setting) :], *beside[1:]]


def _written(value: Any) -> str:
    """Write a value as the command line takes it."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str) and value:
        return value if re.fullmatch(r"[\w./:?~-]+", value) else f'"{value}"'
    return (
        str(yaml.safe_dump(value, default_flow_style=True, width=1000))
        .removesuffix("\n")
        .removesuffix("\n...")
    )


def _comment(group: str, choice: str, key: str, schema: type[Any]) -> str:
    """Return the comment beside a key, from its choice's file or that of another choice with the
    same key."""
    if comment := comments(file_of(group, choice)).beside.get(key):
        return comment
    last = key.rpartition(".")[2]
    owner = next(kind for kind in schema.__mro__ if last in get_annotations(kind))
    files = sorted(own_files(group), key=lambda file: (schema_of(group, file.stem) is not owner, file))
    for file in files:
        if issubclass(schema_of(group, file.stem), owner) and (comment := comments(file).beside.get(last)):
            return comment
    return ""
