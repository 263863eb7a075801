"""Gives adapters unique names within an output folder.

Adapters with equal names are distinguished by rank and alpha.

Folders such as `polite/lr1/final` and `polite/lr2/final` may otherwise get the same name.
The assigned names are stored in the output folder, so that a job keeps its name when it is
recorded again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runner.config.model_names import make_adapter_display_name
from runner.config.root import RunnerConfig
from runner_base import DataError, load_json_object, lock_file, replace_text_file_atomically
from runner_base.texts import read_json_cache

FILE = ".adapters.json"  # in the output folder: name → the adapter's place → what it is called


def make_unique_adapter_name(config: RunnerConfig) -> str:
    """Return the adapter's name for a job, which is unique in the output folder.

    Empty if the job has no adapter.

    Installed and Hub adapters are unique already.
    """
    adapter = config.lora.single_adapter
    if adapter is None:
        return ""
    name, path = make_adapter_display_name(config.lora), Path(adapter.path).expanduser()
    if not path.exists():
        return name
    place, file = str(path.absolute()), Path(config.output_dir).expanduser() / FILE
    with suppress(OSError), lock_file(file.with_suffix(".lock")):
        known = read_json_cache(file)
        called: dict[str, str] = known.setdefault(name, {})
        if place not in called:
            called[place] = next(
                free for free in _generate_candidate_adapter_names(name, path) if free not in called.values()
            )
            replace_text_file_atomically(file, json.dumps(known, indent=0))
        return called[place]
    return name


def _generate_candidate_adapter_names(adapter_name: str, adapter_folder: Path) -> Iterator[str]:
    yield adapter_name
    if shape := _read_rank_and_alpha(adapter_folder):
        adapter_name = f"{adapter_name} ({shape})"
        yield adapter_name
    number = 2
    while True:
        yield f"{adapter_name} #{number}"
        number += 1


def _read_rank_and_alpha(path: Path) -> str:
    """Return rank and alpha of an adapter as text, or "" if unknown."""
    settings = path / "adapter_config.json"
    with suppress(DataError):
        found = load_json_object(settings) if settings.is_file() else {}
        words = {"rank": found.get("r"), "alpha": found.get("lora_alpha")}
        return ", ".join(f"{word} {value}" for word, value in words.items() if value is not None)
    return ""
