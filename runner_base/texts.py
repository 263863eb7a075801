"""Reads lines and JSON from files that somebody else has written; any damage is rejected with a
reason.

Python's own parsers raise different errors for different damage: UnicodeDecodeError,
RecursionError, and much later a UnicodeEncodeError when half a character is written. Here all of it
is found when the file is read.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from runner_base.errors import DataError, reading

# of nested lists and objects; the parser's own limit depends on the depth of the call
MAX_DEPTH = 100
MAX_LINE_BYTES = 64 * 2**20  # a longer line is not one line of a data set
OTHER_FILES = {
    b"PAR1": "a parquet file",
    b"ARROW1": "an Arrow file",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    codecs.BOM_UTF16_LE: "text in UTF-16",
    codecs.BOM_UTF16_BE: "text in UTF-16",
}


def read_lines(stream: BinaryIO, where: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is not blank; DataError for one that is not text."""
    for number in itertools.count(1):
        raw = stream.readline(MAX_LINE_BYTES + 1)
        if not raw:
            return
        if number == 1:
            for begin, what in OTHER_FILES.items():
                if raw.startswith(begin):
                    raise DataError(
                        f"this is {what}, and lines of UTF-8 text are expected", key=where, code="damaged"
                    )
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if len(raw) > MAX_LINE_BYTES:
            raise DataError(
                f"longer than {MAX_LINE_BYTES // 2**20} MiB", key=f"{where}, line {number}", code="too_large"
            )
        try:
            line = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(
                f"not UTF-8 text ({error.reason})", key=f"{where}, line {number}", code="damaged"
            ) from error
        if line.strip():
            yield number, line


def read_text(path: Path, key: str) -> str:
    """Return the text of a small file; DataError, with the key that names it, if it cannot be
    read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason})", key=key, code="damaged") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", key=key, code="unreadable") from error


def is_text(text: str) -> bool:
    """Whether a text can be encoded: Python gets bytes from the system that are not UTF-8 as halves
    of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str) -> Any:
    """Parse JSON; ValueError with the reason if it is invalid, nested too deeply or contains half a
    character."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    _check_depth(text, value)
    if "\\u" in text:  # only so can half a character get into JSON that is UTF-8
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"not UTF-8 text: {half!r} is half a character, a lone surrogate") from None
    return value


def _check_depth(text: str, value: Any) -> None:
    """Raise ValueError for a value that is nested too deeply: what reads it further may call itself
    for each level."""
    level, depth = [value], 0
    # a quick test: fewer brackets cannot be nested deeper
    deep = text.count("[") + text.count("{") > MAX_DEPTH
    while deep and (level := [container for container in level if isinstance(container, (list, dict))]):
        if (depth := depth + 1) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        level = [
            inner
            for container in level
            for inner in (container.values() if isinstance(container, dict) else container)
        ]


def read_json(path: Path, key: str) -> Any:
    """Return what a small JSON file holds; DataError with the reason, and the key that names it,
    where it is none."""
    try:
        return parse_json(read_text(path, key))
    except ValueError as error:
        raise DataError(str(error), key=path, code="damaged") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and value of every line that is not blank; DataError where one is no JSON."""
    with reading(path), path.open("rb") as stream:
        for number, line in read_lines(stream, str(path)):
            try:
                yield number, parse_json(line)
            except ValueError as error:
                raise DataError(str(error), key=f"{path}, line {number}", code="damaged") from error


def read_cache(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds, or an empty one if it is missing or damaged: a
    cache is made anew."""
    if not path.is_file():  # a read of a pipe would wait without end
        return {}
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise DataError where a key occurs twice."""
    with reading(path):
        return parse_object(path.read_bytes(), str(path))


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object; raise DataError, which names `where`, where a key occurs twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise DataError(
                    f"the key {key!r} is duplicated in one JSON object", key=where, code="damaged"
                )
            values[key] = value
        return values

    try:
        decoded = text.decode()
        value = json.loads(decoded, object_pairs_hook=once)
        _check_depth(decoded, value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not readable as JSON ({error})", key=where, code="damaged") from error
    if not isinstance(value, dict):
        raise DataError(f"a JSON object expected, found {short(value)}", key=where, code="damaged")
    return value


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun and what agrees with it: `1 job`, `2,000 jobs`, `1 answer
    was`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """Write a share with two digits, or three from 99.5 on, so that 100 % are all of them."""
    value = 100 * share
    if 99.5 <= value < 100:
        return f"{min(value, 99.9):.1f} %"
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.2g} %"


def short(value: object) -> str:
    """Show a value from a file in an error, the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def short_hash(value: object, digits: int = 12) -> str:
    """Return a short name for a value of JSON: equal values have the same, whatever the order of
    their keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def signed(values: dict[str, Any]) -> str:
    """Return an object as JSON for people to read, with a checksum over the rest."""
    return json.dumps(values | {"checksum": short_hash(values, 16)}, indent=2, ensure_ascii=False) + "\n"


def is_torn(data: bytes) -> bool:
    """Whether an unreadable file is the beginning of such JSON, or empty: not an edit, but what a
    power cut leaves."""
    return not data.strip(b"\0") or (data.startswith(b"{\n") and not data.endswith(b"\n}\n"))


def checked(values: Any) -> Any:
    """Return the content of such JSON; ValueError if it was changed since it was written.

    Files of earlier versions have no checksum, and are accepted as they are.
    """
    if not isinstance(values, dict) or "checksum" not in values:
        return values
    if values.pop("checksum") != short_hash(values, 16):
        raise ValueError("its checksum does not fit: it has been changed since it was written")
    return values


def clock(seconds: float) -> str:
    """Write seconds as people read them: 0.4 s, 7 s, 3:20, 1:02:03."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def quantized_in_words(of_blocks: float, of_all: float | None = None, of_bytes: float | None = None) -> str:
    """Return shares in words: `97 % of the parameters in blocks, 79 % of all, 48 % of the weights'
    bytes`."""
    shown = f"{percent(of_blocks)} of the parameters in blocks"
    if of_all is not None and percent(of_all) != percent(of_blocks):
        shown += f", {percent(of_all)} of all"
    if of_bytes is not None:
        shown += f", {percent(of_bytes)} of the weights' bytes"
    return shown
