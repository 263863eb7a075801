"""Which GPUs this process may use, and their free memory, without importing torch.

NVML tells it (the package nvidia-ml-py), else nvidia-smi, else a child process that asks torch: for
AMD's GPUs, Jetson and systems that have neither. What torch has said is kept until the machine
restarts.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from runner_base import child, kept

log = logging.getLogger(__name__)

MIB = 1024 * 1024
CUDA_VARIABLE, HIP_VARIABLE = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
VARIABLES = (CUDA_VARIABLE, HIP_VARIABLE, "ROCR_VISIBLE_DEVICES")
WSL_SMI = "/usr/lib/wsl/lib/nvidia-smi"
SMI_S, TORCH_S = 20, 120  # how long they may take
STANDS_S = 2.0  # how long the free memory counts as it was read
# where none of these exists, torch finds no GPU either: NVIDIA's driver, AMD's, Windows' (WSL2),
# Jetson's
DEVICE_FILES = (
    "/dev/nvidiactl",
    "/dev/nvidia0",
    "/dev/kfd",
    "/dev/dxg",
    "/dev/nvhost-gpu",
    "/dev/nvmap",
    "/dev/nvgpu",
)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NUMBER = re.compile(r"\d+(\.\d+)?")
LISTED = re.compile(
    r"(?:GPU \d+:|\s+(?P<part>MIG)) (?P<model>.*?)(?:\s+Device\s+\d+:)? \(UUID: (?P<uuid>\S+)\)"
)
ASK_TORCH = (
    "import json, torch; one = torch.cuda.get_device_properties; "
    "print(json.dumps([[one(n).name, one(n).total_memory] for n in range(torch.cuda.device_count())]))"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a part of one (MIG)."""

    name: str  # by which the variable of visible GPUs selects it
    model: str
    uuid: str = ""  # empty if only torch knows the GPU
    is_part: bool = False  # CUDA shows a process one part at most
    total_mib: float = 0.0  # 0 if its free memory can be asked for


@dataclass(frozen=True)
class Card:
    """A GPU of the machine; its parts are what can be used of it if it has any."""

    model: str
    uuid: str
    parts: tuple[tuple[str, str], ...] = ()  # model and UUID
    is_split: bool = False

    def usable(self, name: str) -> list[Gpu]:
        """Return the GPU under a name, or its parts, whose names are their UUIDs."""
        if self.is_split:
            return [Gpu(uuid, model, uuid, is_part=True) for model, uuid in self.parts]
        return [Gpu(name, self.model, self.uuid)]


def visible() -> list[Gpu]:
    """Return the GPUs that this process may use, in the order of their numbers."""
    wanted = os.environ.get(CUDA_VARIABLE)
    if "+rocm" not in _torch_version() and (cards := _cards()):
        return select(cards, wanted)
    found = _torch_gpus()
    names = [name.strip() for name in (os.environ.get(variable()) or wanted or "").split(",")]
    names = names if len(names) == len(found) else [str(number) for number in range(len(found))]
    return [
        Gpu(name, model, total_mib=nbytes / MIB) for name, (model, nbytes) in zip(names, found, strict=True)
    ]


def variable() -> str:
    """Return the variable that selects GPUs for a child process."""
    return HIP_VARIABLE if "+rocm" in _torch_version() else CUDA_VARIABLE


def select(cards: Sequence[Card], wanted: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves, read as CUDA does: numbers, UUIDs or their
    beginnings.

    What follows an entry that is none of these does not count, so -1 and an empty value mean none;
    an entry that is there twice means none, too.
    """
    if wanted is None:
        every = [gpu for number, card in enumerate(cards) for gpu in card.usable(str(number))]
        # CUDA shows no whole GPU beside a part
        return [gpu for gpu in every if gpu.is_part] or every
    selected: list[Gpu] = []
    for entry in map(str.strip, wanted.split(",")):
        if not (found := _entry(cards, entry)):
            break
        selected += found
    return selected if max(Counter(selected).values(), default=1) == 1 else []


def _entry(cards: Sequence[Card], entry: str) -> list[Gpu]:
    """Return what one entry stands for; nothing if it is wrong."""
    if entry.startswith("MIG-"):
        parts = [
            gpu for card in cards for gpu in card.usable("") if gpu.is_part and gpu.uuid.startswith(entry)
        ]
        return parts if len(parts) == 1 else []
    if entry.startswith("GPU-"):
        meant = [card for card in cards if card.uuid.startswith(entry)]
        return meant[0].usable(entry) if len(meant) == 1 else []
    number = re.match(r"\+?\d+", entry)
    is_there = number is not None and int(number[0]) < len(cards)
    return cards[int(number[0])].usable(number[0]) if number is not None and is_there else []


def free_mib() -> list[float]:
    """Return the free memory of each GPU that this process may use; nothing if it is not known.

    Where only torch knows it, it is all that they have. A plan asks for each of its jobs, so an
    answer stands a while.
    """
    gpus = visible()
    return list(_free(tuple(gpus), int(time.monotonic() / STANDS_S))) if gpus else []


@lru_cache(maxsize=1)
def _free(gpus: tuple[Gpu, ...], _when: int) -> list[float]:
    free = [] if gpus[0].total_mib else _nvml_free(gpus) or _smi_free(gpus)
    return free or [nbytes / MIB for _, nbytes in _torch_gpus()]


@cache
def _torch_version() -> str:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("torch")
    return ""


@cache
def _cards() -> list[Card]:
    """Return all GPUs of the machine that NVML or nvidia-smi names."""
    return _nvml_cards() or listed(_smi("-L") or "")


@contextmanager
def nvml() -> Iterator[Any]:
    """Give the library NVML; None where it is not installed or finds no driver."""
    library: Any = None
    with suppress(ImportError):
        library = importlib.import_module("pynvml")
    try:
        if library is not None:
            library.nvmlInit()
    except library.NVMLError as error:
        log.info("NVML cannot be used: %s", error)
        library = None
    try:
        yield library
    finally:
        if library is not None:
            library.nvmlShutdown()


def _nvml_cards() -> list[Card]:
    with nvml() as library:
        if library is None:
            return []
        try:
            by_number = library.nvmlDeviceGetHandleByIndex
            return [_nvml_card(library, by_number(number)) for number in range(library.nvmlDeviceGetCount())]
        except library.NVMLError as error:
            log.info("NVML does not describe the GPUs: %s", error)
            return []


def _nvml_card(library: Any, gpu: Any) -> Card:
    is_split, parts = False, []
    with suppress(library.NVMLError):  # most GPUs cannot be split
        is_split = library.nvmlDeviceGetMigMode(gpu)[0] == 1
    for number in range(library.nvmlDeviceGetMaxMigDeviceCount(gpu) if is_split else 0):
        with suppress(library.NVMLError):  # no part has this number
            parts.append(_identity(library, library.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)))
    return Card(*_identity(library, gpu), tuple(parts), is_split)


def _identity(library: Any, gpu: Any) -> tuple[str, str]:
    texts = library.nvmlDeviceGetName(gpu), library.nvmlDeviceGetUUID(gpu)
    # bytes: of old versions
    model, uuid = (text.decode() if isinstance(text, bytes) else text for text in texts)
    return model, uuid


def _nvml_free(gpus: Sequence[Gpu]) -> list[float]:
    with nvml() as library:
        if library is None:
            return []
        try:
            handles = [library.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in gpus]
            return [library.nvmlDeviceGetMemoryInfo(handle).free / MIB for handle in handles]
        except library.NVMLError as error:
            log.info("NVML does not tell the free memory: %s", error)
            return []


def _smi_free(gpus: Sequence[Gpu]) -> list[float]:
    sizes = from_driver("memory.free")
    return [sizes[gpu.uuid] for gpu in gpus] if all(gpu.uuid in sizes for gpu in gpus) else []


def from_driver(what: str) -> dict[str, float]:
    """Return a number that nvidia-smi tells of each GPU of this machine, by its UUID; empty where
    it tells nothing."""
    lines = (_smi(f"--query-gpu=uuid,{what}", "--format=csv,noheader,nounits") or "").splitlines()
    cells = [line.partition(",")[::2] for line in lines]
    return {uuid.strip(): float(number) for uuid, number in cells if NUMBER.fullmatch(number.strip())}


def _smi(*arguments: str) -> str | None:
    """Return what nvidia-smi prints; None if there is none, or if it fails."""
    program = shutil.which("nvidia-smi") or shutil.which(WSL_SMI)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=True, timeout=SMI_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.info("nvidia-smi does not answer: %s", error)
        return None
    return done.stdout


def listed(text: str) -> list[Card]:
    """Return the GPUs and their parts that `nvidia-smi -L` lists."""
    cards: list[Card] = []
    for line in filter(None, map(LISTED.fullmatch, text.splitlines())):
        if line["part"] is None:
            cards.append(Card(line["model"], line["uuid"]))
        elif cards:
            *before, card = cards
            parts = (*card.parts, (f"{card.model} MIG {line['model']}", line["uuid"]))
            cards = [*before, Card(card.model, card.uuid, parts, is_split=True)]
    return cards


def _torch_gpus() -> list[tuple[str, int]]:
    """Return name and memory of each GPU that torch finds; it is only asked where there may be
    one."""
    version = _torch_version()
    if not version or "+cpu" in version or not any(os.path.exists(file) for file in DEVICE_FILES):
        return []
    return _as_torch_says(version, tuple(os.environ.get(name) for name in VARIABLES))


@cache
def _as_torch_says(version: str, variables: tuple[str | None, ...]) -> list[tuple[str, int]]:
    """Return what torch says in a child process, once until the machine restarts."""
    boot = BOOT_ID.read_text() if BOOT_ID.exists() else ""
    file = kept.file_of("gpus", [version, variables, boot])
    found = kept.read(file).get("gpus") if file is not None else None
    if found is None:
        found = _ask_torch()
        if found is not None and file is not None:
            kept.keep(file, {"gpus": found})
    return [(str(name), int(nbytes)) for name, nbytes in found or []]


def _ask_torch() -> list[Any] | None:
    pipe = subprocess.PIPE
    with child.start("-c", ASK_TORCH, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        try:
            printed, errors = process.communicate(timeout=TORCH_S)
            found: list[Any] = json.loads(printed)
        except subprocess.TimeoutExpired as error:
            process.kill()
            log.info("torch does not say which GPUs there are: %s", error)
            return None
        except ValueError:  # it has printed no list: it has failed
            log.info("torch does not say which GPUs there are: %s", errors.decode(errors="replace"))
            return None
    return found
