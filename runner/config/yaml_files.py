"""Checks users' YAML files before they are loaded, so that each error becomes one short message.

A few hundred bytes of nested aliases can unpack to more than the memory, and deeply nested
values overflow the stack of recursive code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources.abc import Traversable
from typing import Any

from runner_base import ConfigError, to_one_line

MAX_VALUES = 100_000
MAX_DEPTH = 32  # of lists and mappings within each other; a config has five


@contextmanager
def guard_yaml_loading(file: Traversable) -> Iterator[None]:
    """Check a YAML file for errors, then run the block, which loads the file.

    Errors contain the file name and the position.
    """
    import yaml

    where = str(file)
    try:
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            reject_deep_yaml_nesting(text, where)
            reject_yaml_alias_bombs(text, where)
        yield
    except yaml.MarkedYAMLError as error:
        raise _make_yaml_error(error, where) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"it is not valid YAML: {to_one_line(error)}", key=where, code="damaged") from error


@cache
def get_fast_yaml_loader() -> Any:
    """Return OmegaConf's YAML loader class, with libyaml's fast parser if libyaml is installed.

    It is for the included files, which a test reads in both ways: of users' files libyaml accepts a
    few that PyYAML's parser rejects, and its errors are worded differently. `--cfg job` reads 14
    files in 1 ms instead of 14, of 440 ms.
    """
    import yaml
    from omegaconf._utils import get_yaml_loader

    usual: Any = get_yaml_loader()
    if not yaml.__with_libyaml__:
        return usual

    class QuickLoader(yaml.CSafeLoader, usual):  # type: ignore[misc]
        """YAML loader that parses with libyaml and constructs values like OmegaConf's loader."""

    return QuickLoader


def _make_yaml_error(error: Any, where: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    position = where if mark is None else f"{where}, {_format_position(mark)}"
    if type(error).__name__ == "ConstructorError" and "tag" in str(error.problem):
        tag = str(error.problem).partition("'")[2].rstrip("'").replace("tag:yaml.org,2002:", "!!")
        return ConfigError(
            f"the YAML tag {tag} is not supported. Use plain values, lists and mappings",
            key=position,
            code="refused",
        )
    why = to_one_line(", ".join(filter(None, (error.context, error.problem))))
    return ConfigError(f"it is not valid YAML: {why}", key=position, code="damaged")


def _format_position(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def reject_deep_yaml_nesting(text: str, location: str) -> None:
    """Raise ConfigError if lists and mappings of a YAML text are nested too deeply."""
    if _estimate_max_nesting_depth(text) <= MAX_DEPTH:
        return
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # without recursion
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(
                f"lists and mappings are nested more than {MAX_DEPTH} levels deep",
                key=f"{location}, {_format_position(event.start_mark)}",
                code="too_large",
            )


def _estimate_max_nesting_depth(text: str) -> int:
    """Return an upper bound of a YAML text's nesting depth without parsing the text.

    Each column of indentation counts as two levels, and each opening bracket as one.
    """
    # a comment opens none
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    columns = max((len(line) - len(line.lstrip(" \t-?:")) for line in lines), default=0)
    return 2 * (columns + 1) + sum(line.count("[") + line.count("{") for line in lines)


def reject_yaml_alias_bombs(text: str, location: str) -> None:
    """Raise ConfigError if a YAML file's aliases expand to too many values or refer to themselves."""
    if "&" not in text or "*" not in text:
        return
    import yaml

    try:
        most = _count_expanded_values(yaml.compose(text, Loader=yaml.SafeLoader), {})
    except (yaml.YAMLError, RecursionError):
        return  # loading it reports what is wrong
    if most > MAX_VALUES:
        raise ConfigError(
            f"YAML aliases (*name) expand to more than {MAX_VALUES:,} values, or refer to themselves",
            key=location,
            code="too_large",
        )


def _count_expanded_values(node: Any, counts: dict[int, int]) -> int:
    if id(node) not in counts:
        counts[id(node)] = MAX_VALUES + 1  # until it has been counted
        inner = getattr(node, "value", None)
        parts = (
            [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
            if isinstance(inner, list)
            else []
        )
        counts[id(node)] = 1 + sum(_count_expanded_values(part, counts) for part in parts)
    return counts[id(node)]
