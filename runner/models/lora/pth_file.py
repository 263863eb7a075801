"""The file of a `.pth` adapter: read as tensors alone, never run, and checked by key and shape.

Keys are `{module path}.lora.A.weight` [r, d] and `{module path}.lora.B.weight` [d, r], some behind `module.`.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.core.errors import ConfigError

KEY = re.compile(r"(?P<path>.+)\.lora\.(?P<side>[AB])\.weight")
PREFIX = "module."  # DistributedDataParallel puts it before every key
EXPECTED = "{module path}.lora.A.weight and {module path}.lora.B.weight"
PICKLE_BYTES = 16 * 2**20  # of a refused file, as much as is searched for what it would have called


class Pair(NamedTuple):
    """The two matrices of one module: a [r, d], b [d, r]."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Adapter:
    """A `.pth` adapter as the file has it: module path → pair, all of one rank."""

    pairs: dict[str, Pair]
    rank: int


def read(file: Path, label: str, rank: int | None = None) -> Adapter:
    """Read a `.pth` adapter without running anything in it; `label` is how the user named it."""
    sides: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for key, tensor in load_tensors(file, label).items():
        match = KEY.fullmatch(key.removeprefix(PREFIX))
        if match is None:
            strangers.append(key)
        elif match["side"] in sides.setdefault(match["path"], {}):
            raise ConfigError(f"{label}: {match['path']}.lora.{match['side']} stands twice, with and without {PREFIX}")
        else:
            sides[match["path"]][match["side"]] = _checked(tensor, key, label)
    if not sides:
        raise ConfigError(f"{label} holds no LoRA key: {EXPECTED} expected, found {few(strangers)}")
    if strangers:
        raise ConfigError(f"{label}: {len(strangers)} keys are not LoRA keys ({EXPECTED}): {few(strangers)}")
    for path, found in sides.items():
        if len(found) == 1:
            (side,) = found
            other = "B" if side == "A" else "A"
            raise ConfigError(f"{label}: {path} has {side} and no {other}: the file is incomplete")
    pairs = {path: Pair(found["A"], found["B"]) for path, found in sides.items()}
    return Adapter(pairs, one_rank(pairs, label, rank))


def load_tensors(file: Path, label: str) -> dict[str, Any]:
    """Load a dictionary of tensors; a file that holds anything that would run is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd files torch warns first and fails then
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the file may be anything, and torch has an exception for each
        if code := code_in(file, str(error)):
            raise ConfigError(
                f"{label} holds code ({code}) and was refused: nothing in it was run. A LoRA file holds tensors alone: "
                "have it saved anew with torch.save of the LoRA tensors"
            ) from error
        reason = " ".join(str(error).split()).rpartition("WeightsUnpickler error: ")[2].partition(" Check the doc")[0]
        raise ConfigError(
            f"{label} is no .pth file that torch can read: empty, cut short or another format "
            f"({type(error).__name__}{': ' * bool(reason)}{reason[:120]})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ConfigError(f"{label} holds a {type(state).__name__}: a dictionary from name to tensor is expected")
    return state


def code_in(file: Path, message: str) -> str:
    """Name what unpickling a refused file would have called; nothing where it is no pickle at all."""
    if named := re.search(r"GLOBAL ([\w.]+)", message):
        return named[1]
    if "TorchScript" in message:
        return "a TorchScript program"
    words: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(_pickle_bytes(file)):
            if code.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
            elif code.name == "STACK_GLOBAL":
                name = ".".join(words[-2:])
            else:
                words += [argument] if isinstance(argument, str) else []
                continue
            if re.fullmatch(r"[\w.]+", name) and not name.startswith(("torch.", "collections.OrderedDict")):
                return name
    except Exception:  # noqa: BLE001  # it is odd all the way: that torch cannot read it is what the user is told
        return ""
    return ""


def _pickle_bytes(file: Path) -> bytes:
    if not zipfile.is_zipfile(file):
        with file.open("rb") as stream:
            return stream.read(PICKLE_BYTES)
    with zipfile.ZipFile(file) as archive:
        name = next((name for name in archive.namelist() if name.endswith("data.pkl")), "")
        with archive.open(name) as stream:
            return stream.read(PICKLE_BYTES)


def _checked(tensor: Any, key: str, label: str) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ConfigError(f"{label}: {key} is a {type(tensor).__name__}, a tensor is expected")
    if tensor.layout is not torch.strided or not tensor.is_floating_point() or tensor.dim() != 2:
        raise ConfigError(
            f"{label}: {key} is {tensor.dtype} of shape {list(tensor.shape)}, a matrix of floating-point numbers "
            "is expected"
        )
    return tensor.detach()


def one_rank(pairs: dict[str, Pair], label: str, wanted: int | None = None) -> int:
    """Return the one rank that all shapes agree on; it must be the wanted one where one is given."""
    first_path, first = next(iter(pairs.items()))
    rank = first.a.shape[0]
    for path, (a, b) in pairs.items():
        if a.shape[0] != b.shape[1]:
            raise ConfigError(f"{label}: {path} has A {list(a.shape)} and B {list(b.shape)}: A [r, d], B [d, r] needed")
        if a.shape[0] != rank:
            raise ConfigError(f"{label}: two ranks in one file: {rank} in {first_path}, {a.shape[0]} in {path}")
    if rank == 0:
        raise ConfigError(f"{label} changes nothing: its rank is 0")
    if wanted not in (None, rank):
        raise ConfigError(f"lora.rank={wanted}, but {label} has rank {rank}: use lora.rank={rank}, or leave it out")
    return rank


def few(names: Sequence[str], limit: int = 3) -> str:
    """List the first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
