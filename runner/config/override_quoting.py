"""Quotes texts, names and paths in overrides, so that Hydra's grammar reads them literally.

This applies to each key that holds a string or a list of strings in the schema. The rules for
their values:

- Quotes around the whole value, `null`, `choice(...)`, `range(...)` and the like mean what they
mean to Hydra.
- Commas separate the values of a sweep: always between names and paths; in a text only if each
value is a plain word or
  has its own quotes. So `./a,./b` and `'Ann has 3, Bob has 4','Hi'` are two values each, and a
prompt is one.
- Brackets enclose the values of a key that takes a list.
- Everything else is literal, in every script. `${...}` is resolved in names and paths, and is
plain text in texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from runner.config.groups import GROUPS, KeyType, find_key_type
from runner_base import ConfigError

# what the command line calls two keys of the sweeper: a grid over model files
FILES, REFERENCE = ("files", "reference")
QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
WORD = r"[A-Za-z0-9_./~-]+"  # "How many, and why?" is one text, but yes,no are two
SEVERAL_TEXTS = rf"(?:{QUOTED})(?:\s*,\s*(?:{QUOTED}))+|(?:{QUOTED}|{WORD})(?:,(?:{QUOTED}|{WORD}))+"


def expand_sweeper_shortcuts(arguments: list[str]) -> list[str]:
    lines = []
    for word in arguments:
        key, _, value = word.partition("=")
        lines.append(
            f"hydra.sweeper.{key}={quote_unless_quoted(value)}"
            if key in (FILES, REFERENCE) and value
            else word
        )
    return lines


def quote_name(text: str) -> str:
    """Return a name or path that Hydra's grammar reads literally, with quotes only if they are needed."""
    return _quote_if_needed(text, is_free_text=False)


def quote_unless_quoted(text: str) -> str:
    """Return a text in quotes, unless it is already quoted."""
    return text if re.fullmatch(QUOTED, text, re.DOTALL) else QuotedString(text, Quote.single).with_quotes()


def quote_override_values(arguments: list[str]) -> list[str]:
    """Quote the values in a list of overrides whose keys expect strings."""
    for group, _, chosen in (argument.partition("=") for argument in arguments):
        for name in chosen.split(",") if group in GROUPS else ():
            with suppress(
                KeyError, ConfigError
            ):  # a plug-in is imported, so that the types of its keys are known
                GROUPS[group][name]
    return [quote_override(argument) for argument in arguments]


def quote_override(argument: str) -> str:
    """Quote the value of one override if its key holds a string. Other arguments are returned unchanged."""
    match = re.fullmatch(r"(\+{0,2}([^-~+=][^=]*)=)(.*)", argument, re.DOTALL)
    if match is None:
        return argument
    before, key, value = match.groups()
    if (
        key.startswith("hydra.sweeper.params.")
        and "," in value
        and not re.fullmatch(QUOTED, value, re.DOTALL)
    ):
        # parsed as a sweep when the grid is expanded
        return f"{before}{QuotedString(value, Quote.single).with_quotes()}"
    kind = find_key_type(key) or KeyType()
    return (
        f"{before}{_quote_sweep_values(value, kind)}" if kind.is_string or not value.isascii() else argument
    )


def format_sweep_override(key: str, value: Any) -> str:
    """Convert one key of a study's sweep to an override. The items of a YAML list become the values of
    the sweep.

    If the key's own type is a list, a YAML list is a single value.
    """
    kind = find_key_type(key.lstrip("+")) or KeyType()
    if kind.is_list or isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return quote_override(f"{key}={'null' if value is None else value}")
    return f"{key}={','.join(_format_sweep_value(it, kind) for it in value)}"


def flatten_sweep_params(params: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each full key of nested sweep params with its values: `{task: {limit: "1,2"}}` gives
    task.limit.
    """
    for name, value in params.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and (key in GROUPS or find_key_type(key) is None):
            yield from flatten_sweep_params(value, f"{key}.")
        else:
            yield key, value


def _quote_sweep_values(value: str, key_type: KeyType) -> str:
    """Quote the value of a config key, or each value of a sweep."""
    if choice := re.fullmatch(r"\s*choice\((.*)\)\s*", value, re.DOTALL):
        return f"choice({','.join(_quote_value(piece, key_type) for piece in _split_at_unquoted_commas(choice[1]))})"
    override = parse_override_value(value)
    if (
        override is not None
        and override.is_sweep_override()
        and not getattr(override.value(), "simple_form", False)
    ):
        return value
    pieces = _split_at_unquoted_commas(value)
    if key_type.is_free_text and not key_type.is_list and not re.fullmatch(SEVERAL_TEXTS, value, re.DOTALL):
        return _quote_value(value, key_type)
    return (
        ",".join(_quote_value(piece, key_type) for piece in pieces)
        if len(pieces) > 1
        else _quote_value(value, key_type)
    )


def _quote_value(value: str, key_type: KeyType) -> str:
    """Quote a single value, or each member of a list value."""
    inner = value.strip()
    if key_type.accepts_list and inner.startswith("[") and inner.endswith("]"):
        pieces = [piece for piece in _split_at_unquoted_commas(inner[1:-1]) if piece]
        return f"[{','.join(_quote_if_needed(piece, key_type.is_free_text) for piece in pieces)}]"
    return _quote_if_needed(value, key_type.is_free_text)


def _quote_if_needed(text: str, is_free_text: bool) -> str:
    """Return a text that Hydra's grammar reads literally, with quotes only if they are needed."""
    if not text or re.fullmatch(rf"\s*({QUOTED}|null)\s*", text, re.DOTALL | re.IGNORECASE):
        return text
    if not is_free_text or "${" not in text:
        override = parse_override_value(text)
        value = None if override is None or override.is_sweep_override() else override.value()
        # a path may use Hydra's \, for ,
        may_escape = not is_free_text and isinstance(value, str) and "(" not in text
        if may_escape or (isinstance(value, str | int | float) and str(value) == text):
            return text
    else:
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    return QuotedString(text, Quote.single).with_quotes()


def _format_sweep_value(value: Any, key_type: KeyType) -> str:
    """Convert one item of a YAML list to a value in a sweep override."""
    if not isinstance(value, str):
        return "null" if value is None else str(value)
    if value.lower() == "null":  # in YAML this was a quoted text: a null is None
        return f"'{value}'"
    return (
        _quote_if_needed(value, key_type.is_free_text) if key_type.is_string or not value.isascii() else value
    )


def parse_override_value(value_text: str) -> Override | None:
    """Parse a value with Hydra's grammar. Returns None if it cannot be parsed."""
    try:
        return OverridesParser.create().parse_override(f"key={value_text}")
    except HydraException:
        return None


def _split_at_unquoted_commas(text: str) -> list[str]:
    pieces, depth, start = [], 0, 0
    for match in re.finditer(rf"(?<![^\s,\[(])(?:{QUOTED})|\\.|[][(){{}},]", text, re.DOTALL):
        if match[0] in ("[", "(", "{"):
            depth += 1
        elif match[0] in ("]", ")", "}"):
            depth = max(depth - 1, 0)
        elif match[0] == "," and not depth:
            pieces.append(text[start : match.start()].strip())
            start = match.end()
    return [*pieces, text[start:].strip()]
