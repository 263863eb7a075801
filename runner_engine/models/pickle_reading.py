"""Reads tensors from files written by torch.save, without running code in them."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner_base import ConfigError
from runner_base.notes import Note
from runner_engine.checkpoints import torch_archive

# how much of a rejected file is searched for the code that it would have called
PICKLE_BYTES = 16 * 2**20


def load_pickled_tensors(file: Path, label: str) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """Load a dictionary of tensors from a torch.save file. Raises ConfigError for files with code.

    Returns a note if the dictionary was nested.
    """
    torch_archive.reject_compressed_archive(file, label)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about odd files before it fails
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the file may be anything, and torch has an exception for each
        if code := find_code_in_pickle(file, str(error)):
            raise ConfigError(
                f"{label} was rejected because it contains code ({code}). The code was not run. "
                "Save only the LoRA tensors, with torch.save",
                code="refused",
            ) from error
        reason = (
            " ".join(str(error).split())
            .rpartition("WeightsUnpickler error: ")[2]
            .partition(" Check the doc")[0]
        )
        raise ConfigError(
            f"torch cannot read {label} as a .pth file. It may be empty, truncated or in another format "
            f"({type(error).__name__}{(': ' if reason else '')}{reason[:120]})",
            code="damaged",
        ) from error
    notes: tuple[Note, ...] = ()
    if isinstance(state, dict):
        state, notes = torch_archive.unwrap_state_dict(state, label, lambda value: isinstance(value, Tensor))
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ConfigError(
            f"{label} must contain a dictionary of tensors by name, but contains a {type(state).__name__}",
            code="damaged",
        )
    return state, notes


def find_code_in_pickle(file: Path, error_message: str) -> str:
    """Return the name of the function that unpickling a rejected file would call. Empty if none is found."""
    if match := re.search(r"GLOBAL ([\w.]+)", error_message):
        return match[1]
    if "TorchScript" in error_message:
        return "a TorchScript program"
    words: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(_read_pickle_bytes(file)):
            if code.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
            elif code.name == "STACK_GLOBAL":
                name = ".".join(words[-2:])
            else:
                words += [argument] if isinstance(argument, str) else []
                continue
            if re.fullmatch(r"[\w.]+", name) and not name.startswith(("torch.", "collections.OrderedDict")):
                return name
    except Exception:  # noqa: BLE001  # not a readable pickle: the caller reports that torch cannot read it
        return ""
    return ""


def _read_pickle_bytes(file: Path) -> bytes:
    if not zipfile.is_zipfile(file):
        with file.open("rb") as stream:
            return stream.read(PICKLE_BYTES)
    with zipfile.ZipFile(file) as archive:
        name = next((name for name in archive.namelist() if name.endswith("data.pkl")), "")
        with archive.open(name) as stream:
            return stream.read(PICKLE_BYTES)
