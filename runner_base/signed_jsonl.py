"""JSON lines with a checksum, so that a changed line is detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from runner_base.texts import parse_json

CHECKSUM = ', "checksum": "'


def remove_unset_keys(value: Any) -> Any:
    """Remove keys that are None or False, recursively. Values below "extracted" stay."""
    if isinstance(value, list):
        return [remove_unset_keys(entry) for entry in value]
    if isinstance(value, dict):
        kept = {key: entry for key, entry in value.items() if entry is not None and entry is not False}
        return {key: entry if key == "extracted" else remove_unset_keys(entry) for key, entry in kept.items()}
    return value


def dump_signed_line(values: Mapping[str, Any]) -> str:
    """Return an object as one JSON line with a checksum over the other keys."""
    line = json.dumps(values, ensure_ascii=False)
    return f"{line[:-1]}{_checksum_suffix(line)}"


def parse_signed_line(line: str) -> dict[str, Any]:
    """Parse a JSON line and verify its checksum. Raises ValueError if it was changed."""
    values = parse_json(line)
    if not isinstance(values, dict):
        raise ValueError("a JSON object was expected")
    if "checksum" not in values:
        raise ValueError("it has no checksum")
    del values["checksum"]
    content = f"{line.rpartition(CHECKSUM)[0]}}}"
    if line != f"{content[:-1]}{_checksum_suffix(content)}":
        raise ValueError("its checksum does not fit: it has been changed since it was written")
    return values


def _checksum_suffix(line: str) -> str:
    """Return the text that ends a JSON line: the line's checksum field."""
    return f'{CHECKSUM}{hashlib.sha256(line.encode()).hexdigest()[:16]}"}}'
