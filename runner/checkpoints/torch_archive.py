"""The zip archive that torch.save writes: its directory, checked before anything in it is read. Imports no torch.

torch stores its entries as they are. One that is compressed can be a thousand times as large in memory as on disk, so
none is ever unpacked here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.core.errors import DataError
from runner.core.machine import MIB

WRAPPERS = ("model_state_dict", "state_dict", "module", "model")  # where training scripts put the tensors
SAVE_ANEW = "save the tensors anew: torch.save(TENSORS, NEW)"


def entries(path: Path, label: str = "") -> list[zipfile.ZipInfo]:
    """Return the entries of an archive; DataError where one is compressed. Raises BadZipFile where it is none."""
    with zipfile.ZipFile(path) as archive:
        found = archive.infolist()
    for entry in found:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise DataError(
                f"{label or path}: its entry {entry.filename} is compressed, {entry.compress_size / MIB:,.1f} MiB that "
                f"say to be {entry.file_size / MIB:,.1f}: torch writes no such file, and nothing in it was unpacked. "
                f"If it is yours, unzip it, load it and {SAVE_ANEW}"
            )
    return found


def refuse_compressed(path: Path, label: str) -> None:
    """Refuse an archive with compressed entries; a file that is none is for others to judge."""
    if zipfile.is_zipfile(path):
        try:
            entries(path, label)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
            return


def unwrap(
    state: dict[Any, Any], label: str, is_tensor: Callable[[Any], bool]
) -> tuple[dict[Any, Any], tuple[str, ...]]:
    """Return the dictionary of tensors inside the checkpoint of a training run, and a note that says where it was."""
    way: list[str] = []
    left_out: list[str] = []
    while found := [key for key in WRAPPERS if isinstance(state.get(key), dict) and _holds(state[key], is_tensor)]:
        if len(found) > 1:
            raise DataError(f"{label} holds tensors under {' and under '.join(found)}: {SAVE_ANEW} of the one you mean")
        left_out += [str(key) for key in state if key not in found]
        way, state = [*way, *found], state[found[0]]
    if not way:
        return state, ()
    others = f"; left out: {', '.join(left_out[:5])}{' …' * (len(left_out) > 5)}" if left_out else ""
    return state, (f"{label}: the tensors stand under {'.'.join(way)} and are taken from there{others}",)


def _holds(state: dict[Any, Any], is_tensor: Callable[[Any], bool]) -> bool:
    """Whether there is a tensor in a dictionary, or in one that is wrapped in it."""
    wrapped = (state[key] for key in WRAPPERS if isinstance(state.get(key), dict))
    return any(map(is_tensor, state.values())) or any(_holds(inner, is_tensor) for inner in wrapped)
