"""Lines of JSON with a checksum over the rest, so that a line that was changed since is not read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from runner_base.texts import parse_json

CHECKSUM = ', "checksum": "'


def without_unset_keys(value: Any) -> Any:
    """Return a value without keys that are None or False; an extractor that found nothing stays."""
    if isinstance(value, list):
        return [without_unset_keys(entry) for entry in value]
    if isinstance(value, dict):
        kept = {key: entry for key, entry in value.items() if entry is not None and entry is not False}
        return {
            key: entry if key == "extracted" else without_unset_keys(entry) for key, entry in kept.items()
        }
    return value


def sealed(values: Mapping[str, Any]) -> str:
    """Return an object as one line of JSON with a checksum over the rest."""
    line = json.dumps(values, ensure_ascii=False)
    return f"{line[:-1]}{_checksum(line)}"


def unsealed(line: str) -> dict[str, Any]:
    """Read such a line; raises ValueError if it is not a JSON object, or was changed since it was
    written."""
    values = parse_json(line)
    if not isinstance(values, dict):
        raise ValueError("a JSON object was expected")
    if "checksum" not in values:
        raise ValueError("it has no checksum")
    del values["checksum"]
    content = f"{line.rpartition(CHECKSUM)[0]}}}"
    if line != f"{content[:-1]}{_checksum(content)}":
        raise ValueError("its checksum does not fit: it has been changed since it was written")
    return values


def _checksum(line: str) -> str:
    """Return the end of the line of an object: its checksum."""
    return f'{CHECKSUM}{hashlib.sha256(line.encode()).hexdigest()[:16]}"}}'
