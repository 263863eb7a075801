"""Read lines and JSON from untrusted files, and format values as text.

Python's parsers raise different errors for different damage: UnicodeDecodeError,
RecursionError, and much later a UnicodeEncodeError for a lone surrogate. These functions
detect all damage while the file is read, and give the reason.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from runner_base.errors import DataError, os_errors_as_data_error

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


def iter_text_lines(stream: BinaryIO, source: str) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line that is not blank. Raises DataError for binary data."""
    for number in itertools.count(1):
        raw = stream.readline(MAX_LINE_BYTES + 1)
        if not raw:
            return
        if number == 1:
            for begin, what in OTHER_FILES.items():
                if raw.startswith(begin):
                    raise DataError(
                        f"the file is {what}. A UTF-8 text file is required", key=source, code="damaged"
                    )
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if len(raw) > MAX_LINE_BYTES:
            raise DataError(
                f"longer than {MAX_LINE_BYTES // 2**20} MiB", key=f"{source}, line {number}", code="too_large"
            )
        try:
            line = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(
                f"not UTF-8 text ({error.reason})", key=f"{source}, line {number}", code="damaged"
            ) from error
        if line.strip():
            yield number, line


def read_text(path: Path, key: str) -> str:
    """Read a small UTF-8 file. Raises DataError with `key` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason})", key=key, code="damaged") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", key=key, code="unreadable") from error


def is_encodable(text: str) -> bool:
    """Whether a string can be encoded as UTF-8.

    Python represents invalid bytes from the system as lone surrogates, which cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str) -> Any:
    """Parse JSON. Raises ValueError if it is invalid, nested too deeply or has a lone surrogate."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    _check_json_depth(text, value)
    if "\\u" in text:  # only so can half a character get into JSON that is UTF-8
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"the text contains {half!r}, a lone surrogate without UTF-8 encoding") from None
    return value


def _check_json_depth(text: str, value: Any) -> None:
    """Raise ValueError if JSON is nested so deeply that recursive functions would fail."""
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
    """Read a small JSON file. Raises DataError with `key` and the reason if it is damaged."""
    try:
        return parse_json(read_text(path, key))
    except ValueError as error:
        raise DataError(str(error), key=path, code="damaged") from error


def iter_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line number and value of each JSON line. Raises DataError for invalid JSON."""
    with os_errors_as_data_error(path), path.open("rb") as stream:
        for number, line in iter_text_lines(stream, str(path)):
            try:
                yield number, parse_json(line)
            except ValueError as error:
                raise DataError(str(error), key=f"{path}, line {number}", code="damaged") from error


def read_json_cache(path: Path) -> dict[str, Any]:
    """Read a JSON object from a cache file. Returns {} if the file is missing or damaged."""
    if not path.is_file():  # a read of a pipe would wait without end
        return {}
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def load_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises DataError for a duplicate key."""
    with os_errors_as_data_error(path):
        return parse_json_object(path.read_bytes(), str(path))


def parse_json_object(text: bytes, source: str) -> dict[str, Any]:
    """Parse a JSON object. Raises DataError, which names `source`, for a duplicate key."""

    def build_dict_rejecting_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise DataError(
                    f"the key {key!r} is duplicated in one JSON object", key=source, code="damaged"
                )
            values[key] = value
        return values

    try:
        decoded = text.decode()
        value = json.loads(decoded, object_pairs_hook=build_dict_rejecting_duplicate_keys)
        _check_json_depth(decoded, value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not readable as JSON ({error})", key=source, code="damaged") from error
    if not isinstance(value, dict):
        raise DataError(
            f"a JSON object expected, found {format_truncated_repr(value)}", key=source, code="damaged"
        )
    return value


def format_count(count: int, singular: str, plural: str = "") -> str:
    """Format a count with its noun in singular or plural, e.g. `1 job`, `2,000 jobs`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def format_percent(fraction: float) -> str:
    """Format a fraction as a percentage. Only exactly 1 is shown as `100 %`."""
    value = 100 * fraction
    if 99.5 <= value < 100:
        return f"{min(value, 99.9):.1f} %"
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.2g} %"


def format_truncated_repr(value: object) -> str:
    """Return a value's repr, truncated to 120 characters."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def compute_short_json_hash(value: object, num_digits: int = 12) -> str:
    """Return a short hash of a JSON value. It does not depend on the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:num_digits]


def to_signed_json(values: dict[str, Any]) -> str:
    """Return an object as indented JSON with a checksum over the other keys."""
    return (
        json.dumps(values | {"checksum": compute_short_json_hash(values, 16)}, indent=2, ensure_ascii=False)
        + "\n"
    )


def is_partially_written(data: bytes) -> bool:
    """Return whether damaged JSON was cut off, for example by a power failure, rather than edited."""
    return not data.strip(b"\0") or (data.startswith(b"{\n") and not data.endswith(b"\n}\n"))


def verify_and_remove_checksum(values: Any) -> Any:
    """Return a JSON value without its checksum. Raises ValueError if the content was changed.

    Files of earlier versions have no checksum, and are accepted.
    """
    if not isinstance(values, dict) or "checksum" not in values:
        return values
    if values.pop("checksum") != compute_short_json_hash(values, 16):
        raise ValueError("the checksum does not match, because the content was changed after writing")
    return values


def format_duration(seconds: float) -> str:
    """Format seconds for people: 0.4 s, 7 s, 3:20, 1:02:03."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


MISSES_NOTHING = 0.98  # of the parameters in blocks: the rest is small, and needs no words


def describe_quantized_fraction(
    fraction_in_blocks: float, total_fraction: float | None = None, fraction_of_bytes: float | None = None
) -> str:
    """Describe the fraction of quantized parameters.

    E.g. `55 % of the parameters, 25 % of the bytes (59 % of the transformer blocks' parameters)`.
    """
    in_blocks = f"{format_percent(fraction_in_blocks)} of the transformer blocks' parameters"
    if total_fraction is None and fraction_of_bytes is None:
        return in_blocks
    total_fraction = fraction_in_blocks if total_fraction is None else total_fraction
    shown = f"{format_percent(total_fraction)} of the parameters"
    if fraction_of_bytes is not None:
        shown += f", {format_percent(fraction_of_bytes)} of the bytes"
    is_told = fraction_in_blocks > MISSES_NOTHING or format_percent(total_fraction) == format_percent(
        fraction_in_blocks
    )
    return shown if is_told else f"{shown} ({in_blocks})"
