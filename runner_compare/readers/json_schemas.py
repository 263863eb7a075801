"""Validate JSON files against msgspec classes that declare their format.

A class has the fields that are read. A field without a default is required; one of type
`Any` may be anything, and the reader checks it first; one of type `Raw` is parsed only on
demand. All other fields are skipped, to save memory.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec

from runner_base import DataError, to_one_line
from runner_compare.readers.files import MIB, parse_json_bytes

Shape = TypeVar("Shape")

# neither NaN nor infinite, nor is what is computed of it
Measured = Annotated[float, msgspec.Meta(gt=1e-100, le=1e100)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
NULL = msgspec.Raw(b"null")
# of a file whose fault Python's parser looks for, which makes objects of all of it
EXPLAINED_BYTES = 16 * MIB
NOT_JSON = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(-?(?:NaN|Infinity))', re.DOTALL)
AT = re.compile(r"^(?P<problem>.*?)(?: - at `(?P<at>.*)`)?$", re.DOTALL)
MISSING = re.compile(r"Object missing required field `(.+)`")
OTHER_TYPE = re.compile(r"Expected `(?P<expected>.+)`, got `(?P<found>.+)`")
BOUND = re.compile(r"Expected `(?:int|float)` (?P<bound>[<>]=?) (?P<limit>\S+)")
BOUNDS = {">": "above", ">=": "at least", "<=": "at most"}
TYPES = {"array": "list", "str": "text", "int": "whole number", "float": "number", "bool": "true or false"}


class Parser(Generic[Shape]):
    """JSON parser that validates against one msgspec type."""

    def __init__(self, target_type: Any) -> None:
        self._decoder: msgspec.json.Decoder[Shape] = msgspec.json.Decoder(target_type)

    def parse(self, raw: bytes | msgspec.Raw, source: str, key: str = "") -> Shape:
        """Parse JSON as the parser's type. Raises DataError, with file and key, if the JSON does not
        match the type.

        `key` is the key of the text in its file. NaN and Infinity, which Python writes but JSON
        lacks, count as missing.
        """
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise DataError(_describe_error(error, key), key=source, code="damaged") from error
        except RecursionError as error:
            raise DataError(
                f"{key or 'the file'} is nested too deeply", key=source, code="too_large"
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            cleaned = replace_nan_by_null(bytes(raw))
            if cleaned != raw:
                return self.parse(cleaned, source, key)
            if len(cleaned) <= EXPLAINED_BYTES:
                parse_json_bytes(cleaned, source)  # Python's parser says what is wrong, and where
            raise DataError(f"not JSON: {to_one_line(error, 120)}", key=source, code="damaged") from error


def convert_checked(content: Any, target_type: Any, source: str) -> Any:
    """Convert parsed JSON to a type. Raises DataError, with file and key, if the value does not match
    the type.
    """
    try:
        return msgspec.convert(content, target_type)
    except msgspec.ValidationError as error:
        raise DataError(_describe_error(error, ""), key=source, code="damaged") from error


class JsonOutline(NamedTuple):
    """Unparsed top-level fields of a JSON file, by which readers recognize the tool that wrote the file."""

    parts: dict[str, msgspec.Raw]  # of an object
    elements: list[dict[str, msgspec.Raw]]  # of a list of objects

    @classmethod
    def from_bytes(cls, raw: bytes, source: str) -> JsonOutline:
        """Parse the top level of a JSON file. Raises DataError for invalid JSON."""
        begin = raw.lstrip()[:1]
        if begin == b"{":
            return cls(OBJECT.parse(raw, source), [])
        if begin == b"[" and all(bytes(element).startswith(b"{") for element in LIST.parse(raw, source)):
            return cls({}, OBJECTS.parse(raw, source))
        return cls({}, [])

    def has_fields(self, *keys: str) -> bool:
        """Return whether the file is a JSON object that has all these fields."""
        return self.parts.keys() >= set(keys)

    def field_outline(self, key: str) -> JsonOutline:
        return JsonOutline.from_bytes(bytes(self.parts.get(key, NULL)), key)


ANYTHING: Parser[Any] = Parser(Any)
OBJECT: Parser[dict[str, msgspec.Raw]] = Parser(dict[str, msgspec.Raw])
LIST: Parser[list[msgspec.Raw]] = Parser(list[msgspec.Raw])
OBJECTS: Parser[list[dict[str, msgspec.Raw]]] = Parser(list[dict[str, msgspec.Raw]])


def replace_nan_by_null(raw: bytes) -> bytes:
    """Replace NaN and Infinity by null, because JSON does not allow them."""
    if b"NaN" not in raw and b"Infinity" not in raw:
        return raw
    return NOT_JSON.sub(lambda match: b"null" if match[1] else match[0], raw)


def _describe_error(error: Exception, prefix: str) -> str:
    """Describe a msgspec validation error in plain language, with the key first."""
    match = AT.match(str(error))
    problem, path = (match["problem"], match["at"] or "") if match else (str(error), "")
    key = f"{prefix}{path.removeprefix('$')}".removeprefix(".")
    name = key or "what it holds"
    if missing := MISSING.match(problem):
        return f"{f'{key}.' if key else ''}{missing[1]} is missing"
    if bound := BOUND.match(problem):
        limit = float(bound["limit"])
        return f"{name} is not a number {BOUNDS.get(bound['bound'], bound['bound'])} {limit if limit > 1e-50 else 0:g}"
    if other := OTHER_TYPE.match(problem):
        if other["found"] == "null":
            return f"{name} is {'no number (null or NaN)' if other['expected'] in ('int', 'float') else 'missing'}"
        return (
            f"{name} has the type {_replace_type_names(other['found'])} instead of "
            f"{_replace_type_names(other['expected'])}"
        )
    if "length >= 1" in problem:
        return f"{name} is empty"
    return f"{name}: {problem.replace('`', '')}"


def _replace_type_names(kinds: str) -> str:
    """Replace msgspec's type names with common type names, for example in `int | null`."""
    return " or ".join(TYPES.get(kind, kind) for kind in kinds.split(" | ") if kind != "null")
