"""Write docs/compare_json.md from the schema of a comparison: `python -m tools.compare_json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from tools.check_docs import ROOT

PAGE = ROOT / "docs" / "compare_json.md"
SCHEMA = ROOT / "runner_compare" / "comparison.schema.json"
HEAD = """# JSON of a comparison

`runner-compare --format json` prints one JSON object. `runner-compare --save FOLDER` writes this object into the file
`comparison.json`. The JSON Schema [comparison.schema.json](../runner_compare/comparison.schema.json) (draft 2020-12)
defines the type of each key. The command `python -m tools.compare_json` generates this page from the schema.

Accuracies, recalls and their differences are fractions of the questions, so 0.5 means 50 %. Differences in
log-likelihood are in nats per token. Keys that end in `_low` and `_high` are the ends of an interval. Unknown values
are null. A minor version of `runner` can add keys, but never renames a key. If a key has the same meaning in several
objects, this page explains the key only once.
"""


def sections(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of the schema with its path, outer objects first."""
    properties = schema.get("properties", {})
    if properties:
        yield path, properties
    for key, part in properties.items():
        yield from sections(part, f"{path}.{key}")
    if "items" in schema:
        yield from sections(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from sections(schema["additionalProperties"], f"{path}.NAME")


def page() -> str:
    """Return the page with one table per object. Keys of an object with the same description share a
    row. A table omits keys that an earlier table explains with the same description."""
    text, described = HEAD, set[tuple[str, str]]()
    for path, properties in sections(json.loads(SCHEMA.read_text(encoding="utf-8")), "comparison"):
        keys = {key: part.get("description", "") for key, part in properties.items()}
        names = dict[str, list[str]]()
        for key, meaning in keys.items():
            base = key.removesuffix("_low").removesuffix("_high")
            if (key, meaning) in described or (base != key and base in keys):
                continue
            described.add((key, meaning))
            ends = [end for end in (f"{key}_low", f"{key}_high") if end in keys]
            names.setdefault(meaning, []).extend(f"`{name}`" for name in (key, *ends))
        if names:
            lines = [f"| {', '.join(same)} | {meaning} |" for meaning, same in names.items()]
            text += "\n".join([f"\n## `{path}`\n", "| key | meaning |", "|---|---|", *lines, ""])
    return text


def main() -> int:
    """Write the page; return the exit code."""
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
