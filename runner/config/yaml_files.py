"""YAML files of users, looked at before they are loaded, and loaded so that what is wrong is said in one message.

A few hundred bytes whose aliases unpack to ever more can fill all memory, and a value that lies deep in others
overflows the stack of whatever walks through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runner.core.errors import ConfigError, one_line

MOST_VALUES = 100_000
MOST_DEPTH = 32  # of lists and mappings within each other; a config has five


def load_checked(file: Any, load: Callable[[Any], Any]) -> Any:
    """Load an open file, or one by its path, with `load`; ConfigError names the file and the place of what is wrong."""
    import yaml

    where = str(getattr(file, "name", file))
    try:
        if hasattr(file, "read"):  # Hydra opens it
            text = file.read()
            check_depth(text, where)
            check_aliases(text, where)
            file.seek(0)
        return load(file)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_said(error, where)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: it is no YAML: {one_line(error)}") from error


def _said(error: Any, where: str) -> str:
    mark = error.problem_mark or error.context_mark
    place = where if mark is None else f"{where}, {_place(mark)}"
    if type(error).__name__ == "ConstructorError" and "tag" in str(error.problem):
        tag = str(error.problem).partition("'")[2].rstrip("'").replace("tag:yaml.org,2002:", "!!")
        return f"{place}: the tag {tag} is not read: a config holds plain values, lists and mappings. Leave it out"
    return f"{place}: it is no YAML: {one_line(', '.join(filter(None, (error.context, error.problem))))}"


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def check_depth(text: str, where: str) -> None:
    """Raise ConfigError where lists and mappings lie too deeply within each other."""
    if _most_levels(text) <= MOST_DEPTH:
        return
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # without recursion
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ConfigError(
                f"{where}, {_place(event.start_mark)}: lists and mappings lie more than {MOST_DEPTH} deep in each other"
            )


def _most_levels(text: str) -> int:
    """Return a bound on the depth that needs no parser: a column begins two levels at most, a bracket one."""
    columns = max((len(line) - len(line.lstrip(" \t-?:")) for line in text.splitlines()), default=0)
    return 2 * (columns + 1) + text.count("[") + text.count("{")


def check_aliases(text: str, where: str) -> None:
    """Raise ConfigError where a file's aliases unpack to too much, or hold themselves."""
    if "&" not in text or "*" not in text:
        return
    import yaml

    try:
        most = _values(yaml.compose(text, Loader=yaml.SafeLoader), {})
    except (yaml.YAMLError, RecursionError):
        return  # whoever loads it says what is wrong
    if most > MOST_VALUES:
        raise ConfigError(
            f"{where}: its aliases (*name) unpack to more than {MOST_VALUES:,} values, or hold themselves"
        )


def _values(node: Any, known: dict[int, int]) -> int:
    """Return how many values a node unpacks to; one that holds itself counts as too many."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # while it is looked at
        inner = getattr(node, "value", None)
        parts = (
            [part for it in inner for part in (it if isinstance(it, tuple) else (it,))]
            if isinstance(inner, list)
            else []
        )
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]
