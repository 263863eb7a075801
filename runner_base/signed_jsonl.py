"""JSON lines with a checksum, so that a changed line is detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from runner_base.texts import parse_json

CHECKSUM = ', "checksum": "'


def remove_unset_keys(value: Any) -> Any:
    """Remove keys with the value None or False recursively, except below `extracted`."""
    if isinstance(value, list):
        return [remove_unset_keys(entry) for entry in value]
    if isinstance(value, dict):
        kept = {key: entry for key, entry in value.items() if entry is not None and entry is not False}
        return {key: entry if key == "extracted" else remove_unset_keys(entry) for key, entry in kept.items()}
    return value


def dump_signed_line(values: Mapping[str, Any]) -> str:
    """Return an object as one JSON line with a checksum over the other keys."""
    line = json.dumps(values, ensure_ascii=False)
    return f"{line[:-1]}{_format_checksum_suffix(line)}"


def parse_signed_line(line: str) -> dict[str, Any]:
    """Parse a JSON line and verify its checksum. Raises ValueError if it was changed."""
    values = parse_json(line)
    if not isinstance(values, dict):
        raise ValueError("a JSON object was expected")
    if "checksum" not in values:
        raise ValueError("it has no checksum")
    del values["checksum"]
    content = f"{line.rpartition(CHECKSUM)[0]}}}"
    if line != f"{content[:-1]}{_format_checksum_suffix(content)}":
        raise ValueError("the checksum does not match, because the line was changed after writing")
    return values


def _format_checksum_suffix(line: str) -> str:
    return f'{CHECKSUM}{hashlib.sha256(line.encode()).hexdigest()[:16]}"}}'
