"""What to call an adapter so that no other of its output folder has the name: with rank and alpha
if names are equal.

Folders such as `polite/lr1/final` and `polite/lr2/final` may have the same name where people read
it. Which adapter was called what is kept in the output folder, so that a job keeps its name
whenever it is recorded again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runner.config.model_names import adapter_name
from runner.config.root import RunnerConfig
from runner_base import DataError, hold, load_json, replace_text
from runner_base.texts import read_cache

FILE = ".adapters.json"  # in the output folder: name → the adapter's place → what it is called


def told_apart(config: RunnerConfig) -> str:
    """Return what to call a job's adapter; one that ships, or of a hub, has a name of its own;
    empty without one."""
    adapter = config.lora.adapter
    if adapter is None:
        return ""
    name, path = adapter_name(config.lora), Path(adapter.path).expanduser()
    if not path.exists():
        return name
    place, file = str(path.absolute()), Path(config.output_dir).expanduser() / FILE
    with suppress(OSError), hold(file.with_suffix(".lock")):
        known = read_cache(file)
        called: dict[str, str] = known.setdefault(name, {})
        if place not in called:
            called[place] = next(free for free in _names(name, path) if free not in called.values())
            replace_text(file, json.dumps(known, indent=0))
        return called[place]
    return name


def _names(name: str, path: Path) -> Iterator[str]:
    """Yield names for an adapter, each of which says more than the one before."""
    yield name
    if shape := _shape_of(path):
        name = f"{name} ({shape})"
        yield name
    number = 2
    while True:
        yield f"{name} #{number}"
        number += 1


def _shape_of(path: Path) -> str:
    """Return rank and alpha, by an adapter's own settings; empty if it has none."""
    settings = path / "adapter_config.json"
    with suppress(DataError):
        found = load_json(settings) if settings.is_file() else {}
        words = {"rank": found.get("r"), "alpha": found.get("lora_alpha")}
        return ", ".join(f"{word} {value}" for word, value in words.items() if value is not None)
    return ""
