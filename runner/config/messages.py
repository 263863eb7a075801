"""What is said of a key, a value or a choice that does not fit: in full, with the nearest one and all there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path

from omegaconf.errors import ValidationError

from runner.config.groups import GROUPS, kinds
from runner.config.root import RunnerConfig
from runner.core.errors import unknown


def unknown_choice(group: str, choice: str, options: Iterable[str]) -> str:
    """Name a group's choice and the nearest valid one."""
    return f"{group}={choice}: {unknown(f'choice for {group}', choice, options)}"


def schema_keys(schema: object) -> set[str]:
    """Return the keys of a schema."""
    return {item.name for item in fields(schema)} if is_dataclass(schema) else set()


def wrong_value(cause: ValidationError, written: str) -> str:
    """Say what a key needs; `written` is the override as it was given, where it is known."""
    before, _, value = written.partition("=")
    key, value = cause.full_key or before, value.strip("'\"")  # its quotes may be ours
    why = str(cause.msg or cause).splitlines()[0]
    if choices := re.search(r"expected one of \[([^\]]*)\]", why):
        names = [name.strip(" '") for name in choices[1].split(",")]
        return f"{key}={value}: {unknown(f'choice for {key}', value, names)}"
    if expected := re.search(r"could not be converted to (\w+)", why):
        words = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{key}={value}: {words.get(expected[1], expected[1])} is needed"
    if "is not a ListConfig" in why and value:
        return f"{key}={value}: a list is needed: {key}=[{value}]"
    return f"{key}={value}: {why}" if value else f"{key}: {why}"


def unknown_key(key: str, conf: Path, owner: object = None) -> str:
    """Name the key and the nearest valid one: a group's, a root key, or a key of the group's schema."""
    head, dot, _ = key.rpartition(".")
    names = schema_keys(owner) or set().union(*map(schema_keys, GROUPS.get(head, {}).values()))
    groups = [path.name for path in conf.iterdir() if path.is_dir() and path.name != "hydra"]
    choices = {f"{head}.{name}" for name in names} if dot else {*groups, *schema_keys(RunnerConfig)}
    return f"{key}: {unknown('key' if dot else 'group or key', key, choices, _of_other_groups(key, choices))}"


def _of_other_groups(key: str, choices: set[str]) -> list[str]:
    """Return the keys of any group that are called like this one, which stands in a wrong group or in none."""
    last = key.lstrip("+~").rpartition(".")[2]
    by_name: dict[str, list[str]] = {}
    for known in (known for known in kinds() if known.count(".") < 2):  # a model's own student has its keys, too
        by_name.setdefault(known.rpartition(".")[2], []).append(known)
    near = [] if get_close_matches(key, choices) else get_close_matches(last, by_name, n=1)
    meant = by_name.get(last) or [known for name in near for known in by_name[name]]
    return [known for known in meant if known != key]  # another choice of this very group may have it
