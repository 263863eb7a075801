"""Checks the zip archive that torch.save writes, before its content is read. Imports no torch.

torch never compresses entries. A compressed one can be a thousand times as large in memory as on
disk, so none is ever unpacked here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner_base import MIB, DataError
from runner_base.notes import Note, note

# keys under which training scripts save the tensors
WRAPPERS = ("model_state_dict", "state_dict", "module", "model")
SAVE_ANEW = "save the tensors again: torch.save(TENSORS, NEW)"


def list_archive_entries(path: Path, error_key: str = "") -> list[zipfile.ZipInfo]:
    """List the entries of a torch.save archive.

    Raises DataError for compressed entries, and BadZipFile if the file is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    for entry in infos:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise DataError(
                f"the entry {entry.filename} is compressed ({entry.compress_size / MIB:,.1f} MiB for "
                f"{entry.file_size / MIB:,.1f} MiB), but torch writes uncompressed entries. "
                f"Nothing was unpacked. If you trust the file, unzip it, load it and {SAVE_ANEW}",
                key=error_key or path,
                code="refused",
            )
    return infos


def reject_compressed_archive(path: Path, label: str) -> None:
    """Raise DataError if a file is a zip archive with compressed entries."""
    if zipfile.is_zipfile(path):
        try:
            list_archive_entries(path, label)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
            return


def unwrap_state_dict(
    state: dict[Any, Any], label: str, is_tensor: Callable[[Any], bool]
) -> tuple[dict[Any, Any], tuple[Note, ...]]:
    """Return the state dict inside a training checkpoint, and a note with the key under which it
    was found.
    """
    keys: list[str] = []
    left_out: list[str] = []
    while found := [
        key
        for key in WRAPPERS
        if isinstance(state.get(key), dict) and _contains_tensors(state[key], is_tensor)
    ]:
        if len(found) > 1:
            raise DataError(
                f"{label} has tensors under several keys, {' and '.join(found)}. Fix: {SAVE_ANEW} of one key",
                code="ambiguous",
            )
        left_out += [str(key) for key in state if key not in found]
        keys, state = [*keys, *found], state[found[0]]
    if not keys:
        return state, ()
    return state, (note("tensors_under", file=label, keys=".".join(keys), left_out=tuple(left_out)),)


def _contains_tensors(state_dict: dict[Any, Any], is_tensor: Callable[[Any], bool]) -> bool:
    wrapped = (state_dict[key] for key in WRAPPERS if isinstance(state_dict.get(key), dict))
    return any(map(is_tensor, state_dict.values())) or any(
        _contains_tensors(inner, is_tensor) for inner in wrapped
    )
