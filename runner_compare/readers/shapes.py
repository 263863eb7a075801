"""Checks that what a file holds has the shape of its format, which is a class of msgspec: one for
each format.

A class names the fields that are read. A field without a default must be there; one of type `Any`
may be anything, and whoever reads it looks at it first; one of type `Raw` stays text until it is
wanted. All other fields are skipped, so that a file takes no more memory than what is read of it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec

from runner_base import DataError, one_line
from runner_compare.readers.files import MIB, parse

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
    """Reads JSON of one shape."""

    def __init__(self, shape: Any) -> None:
        self._decoder: msgspec.json.Decoder[Shape] = msgspec.json.Decoder(shape)

    def read(self, raw: bytes | msgspec.Raw, where: str, key: str = "") -> Shape:
        """Return the content of JSON as this shape; DataError with file and key if it has another
        one.

        `key` is what the text was found under. Python writes NaN and Infinity, which JSON has not:
        they count as missing.
        """
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise DataError(_reason(error, key), key=where, code="damaged") from error
        except RecursionError as error:
            raise DataError(f"{key or 'it'} is nested too deeply", key=where, code="too_large") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            cleaned = without_nan(bytes(raw))
            if cleaned != raw:
                return self.read(cleaned, where, key)
            if len(cleaned) <= EXPLAINED_BYTES:
                parse(cleaned, where)  # Python's parser says what is wrong, and where
            raise DataError(f"not JSON: {one_line(error, 120)}", key=where, code="damaged") from error


def checked(content: Any, shape: Any, where: str) -> Any:
    """Return what was read from another kind of file as this shape; DataError with file and key
    otherwise."""
    try:
        return msgspec.convert(content, shape)
    except msgspec.ValidationError as error:
        raise DataError(_reason(error, ""), key=where, code="damaged") from error


class Outline(NamedTuple):
    """The fields of a JSON file, which stay text: whose file it is can be seen from their names."""

    parts: dict[str, msgspec.Raw]  # of an object
    elements: list[dict[str, msgspec.Raw]]  # of a list of objects

    @classmethod
    def of(cls, raw: bytes, where: str) -> Outline:
        """Return the outline of a file; DataError if it is no JSON."""
        begin = raw.lstrip()[:1]
        if begin == b"{":
            return cls(OBJECT.read(raw, where), [])
        if begin == b"[" and all(bytes(element).startswith(b"{") for element in LIST.read(raw, where)):
            return cls({}, OBJECTS.read(raw, where))
        return cls({}, [])

    def has(self, *keys: str) -> bool:
        """Whether it is an object with these fields."""
        return self.parts.keys() >= set(keys)

    def part(self, key: str) -> Outline:
        """Return the outline of a field."""
        return Outline.of(bytes(self.parts.get(key, NULL)), key)


ANYTHING: Parser[Any] = Parser(Any)
OBJECT: Parser[dict[str, msgspec.Raw]] = Parser(dict[str, msgspec.Raw])
LIST: Parser[list[msgspec.Raw]] = Parser(list[msgspec.Raw])
OBJECTS: Parser[list[dict[str, msgspec.Raw]]] = Parser(list[dict[str, msgspec.Raw]])


def without_nan(raw: bytes) -> bytes:
    """Return JSON with null in place of NaN and Infinity."""
    if b"NaN" not in raw and b"Infinity" not in raw:
        return raw
    return NOT_JSON.sub(lambda match: b"null" if match[1] else match[0], raw)


def _reason(error: Exception, begin: str) -> str:
    """Return what is wrong in plain words, with the key in front."""
    match = AT.match(str(error))
    problem, path = (match["problem"], match["at"] or "") if match else (str(error), "")
    key = f"{begin}{path.removeprefix('$')}".removeprefix(".")
    name = key or "what it holds"
    if missing := MISSING.match(problem):
        return f"{f'{key}.' if key else ''}{missing[1]} is missing"
    if bound := BOUND.match(problem):
        limit = float(bound["limit"])
        return f"{name} is not a number {BOUNDS.get(bound['bound'], bound['bound'])} {limit if limit > 1e-50 else 0:g}"
    if other := OTHER_TYPE.match(problem):
        if other["found"] == "null":
            return f"{name} is {'no number (null or NaN)' if other['expected'] in ('int', 'float') else 'missing'}"
        return f"{name} has another type ({_plain(other['found'])}): expected {_plain(other['expected'])}"
    if "length >= 1" in problem:
        return f"{name} is empty"
    return f"{name}: {problem.replace('`', '')}"


def _plain(kinds: str) -> str:
    """Return msgspec's names of types as people know them: `int | null`."""
    return " or ".join(TYPES.get(kind, kind) for kind in kinds.split(" | ") if kind != "null")
