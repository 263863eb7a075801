"""Texts, names and places among the overrides, quoted before Hydra's grammar sees them: they mean what is written.

Which keys these are, the schema says: each that holds a string, or a list of strings. The rule for their values:

- Quotes around the whole value, `null`, `choice(...)`, `range(...)` and the like mean what they mean to Hydra.
- Commas part the values of a sweep: always between names and places; in a text only where each value is a plain word or
  stands in quotes of its own. So `./a,./b` and `'Ann has 3, Bob has 4','Hi'` are two values each, and a prompt is one.
- Brackets hold the values of a key that takes a list.
- All else stands for itself, in every script. `${...}` is looked up in names and places, and is plain text in texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from runner.config.groups import GROUPS, KeyType, kinds

QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
WORD = r"[A-Za-z0-9_./~-]+"  # "How many, and why?" is one text, but yes,no are two
SEVERAL_TEXTS = rf"(?:{QUOTED})(?:\s*,\s*(?:{QUOTED}))+|(?:{QUOTED}|{WORD})(?:,(?:{QUOTED}|{WORD}))+"


def quote_texts(arguments: list[str]) -> list[str]:
    """Quote the values that are texts, names or places in a command line or a list of overrides."""
    return [quote_text(argument) for argument in arguments]


def quote_text(argument: str) -> str:
    """Quote the value of one override where its key holds text; whatever else it is, it is returned as it is."""
    found = re.fullmatch(r"(\+{0,2}([^-~+=][^=]*)=)(.*)", argument, re.DOTALL)
    if found is None:
        return argument
    before, key, value = found.groups()
    if key.startswith("hydra.sweeper.params.") and "," in value and not re.fullmatch(QUOTED, value, re.DOTALL):
        return f"{before}{QuotedString(value, Quote.single).with_quotes()}"  # read as a sweep when the grid is spread
    kind = kinds().get(key, KeyType())
    return f"{before}{_values(value, kind)}" if kind.text or not value.isascii() else argument


def sweep_of(key: str, value: Any) -> str:
    """Write an entry of a study's sweep as an override; a YAML list is a sweep, unless the key itself holds a list."""
    kind = kinds().get(key.lstrip("+"), KeyType())
    if kind.is_list or isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return quote_text(f"{key}={'null' if value is None else value}")
    return f"{key}={','.join(_element(it, kind) for it in value)}"


def flat(params: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key of a sweep and its values: `{task: {limit: "1,2"}}` speaks of task.limit."""
    for name, value in params.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and (key in GROUPS or key not in kinds()):
            yield from flat(value, f"{key}.")
        else:
            yield key, value


def _values(value: str, kind: KeyType) -> str:
    """Quote what stands behind a key: one value, or those of a sweep."""
    if choice := re.fullmatch(r"\s*choice\((.*)\)\s*", value, re.DOTALL):
        return f"choice({','.join(_one(piece, kind) for piece in _split(choice[1]))})"
    override = _parsed(value)
    if override is not None and override.is_sweep_override() and not getattr(override.value(), "simple_form", False):
        return value
    pieces = _split(value)
    if kind.words and not kind.is_list and not re.fullmatch(SEVERAL_TEXTS, value, re.DOTALL):
        return _one(value, kind)
    return ",".join(_one(piece, kind) for piece in pieces) if len(pieces) > 1 else _one(value, kind)


def _one(value: str, kind: KeyType) -> str:
    """Quote one value; of a list, its members."""
    inner = value.strip()
    if kind.is_list and inner.startswith("[") and inner.endswith("]"):
        return f"[{','.join(_quoted(piece, kind.words) for piece in _split(inner[1:-1]) if piece)}]"
    return _quoted(value, kind.words)


def _quoted(text: str, words: bool) -> str:
    """Return a text as Hydra reads it as exactly this; as it is, where that is so already."""
    if not text or re.fullmatch(rf"\s*({QUOTED}|null)\s*", text, re.DOTALL | re.IGNORECASE):
        return text
    if not words or "${" not in text:
        override = _parsed(text)
        read = None if override is None or override.is_sweep_override() else override.value()
        escaped = not words and isinstance(read, str) and "(" not in text  # a place may use Hydra's escapes: a\,b
        if escaped or (isinstance(read, str | int | float) and str(read) == text):
            return text
    elif words:
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    return QuotedString(text, Quote.single).with_quotes()


def _element(value: Any, kind: KeyType) -> str:
    """Write one member of a YAML list as a value of a sweep."""
    if not isinstance(value, str):
        return "null" if value is None else str(value)
    if value.lower() == "null":  # YAML has a null of its own
        return f"'{value}'"
    return _quoted(value, kind.words) if kind.text or not value.isascii() else value


def _parsed(value: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None


def _split(text: str) -> list[str]:
    """Part a text at its commas, except for those in quotes or brackets."""
    pieces, depth, start = [], 0, 0
    for found in re.finditer(rf"(?<![^\s,\[(])(?:{QUOTED})|\\.|[][(){{}},]", text, re.DOTALL):
        if found[0] in ("[", "(", "{"):
            depth += 1
        elif found[0] in ("]", ")", "}"):
            depth = max(depth - 1, 0)
        elif found[0] == "," and not depth:
            pieces.append(text[start : found.start()].strip())
            start = found.end()
    return [*pieces, text[start:].strip()]
