"""List the GPUs that this process may use, and their free memory, without importing torch.

The source is NVML (package nvidia-ml-py), else nvidia-smi, else torch in a child process:
for AMD GPUs, Jetson and systems that have neither. Torch's reply is cached until the
machine restarts.
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

from runner_base import child_process, user_cache

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
    """A GPU that a process can use: a whole GPU or a MIG instance."""

    name: str  # by which the variable of visible GPUs selects it
    model: str
    uuid: str = ""  # empty if only torch knows the GPU
    is_part: bool = False  # CUDA shows a process one part at most
    total_mib: float = 0.0  # 0 if its free memory can be asked for


@dataclass(frozen=True)
class PhysicalGpu:
    """A GPU of the machine. A GPU that is split by MIG can be used only through its MIG instances."""

    model: str
    uuid: str
    parts: tuple[tuple[str, str], ...] = ()  # model and UUID
    is_split: bool = False

    def list_usable_gpus(self, name: str) -> list[Gpu]:
        """Return the GPU under `name`, or its MIG instances by UUID if the GPU is split."""
        if self.is_split:
            return [Gpu(uuid, model, uuid, is_part=True) for model, uuid in self.parts]
        return [Gpu(name, self.model, self.uuid)]


def find_visible_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use, in device order."""
    wanted = os.environ.get(CUDA_VARIABLE)
    if "+rocm" not in _torch_version() and (cards := _find_physical_gpus()):
        return select_gpus(cards, wanted)
    found = _find_torch_gpus()
    names = [name.strip() for name in (os.environ.get(visible_devices_variable()) or wanted or "").split(",")]
    names = names if len(names) == len(found) else [str(number) for number in range(len(found))]
    return [
        Gpu(name, model, total_mib=nbytes / MIB) for name, (model, nbytes) in zip(names, found, strict=True)
    ]


def visible_devices_variable() -> str:
    """Return the environment variable that selects GPUs for a child process."""
    return HIP_VARIABLE if "+rocm" in _torch_version() else CUDA_VARIABLE


def select_gpus(gpus: Sequence[PhysicalGpu], visible_devices: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES selects: numbers, UUIDs or UUID prefixes.

    Entries after an invalid one are ignored, so -1 and an empty value select none. A duplicate
    entry also selects none. This is CUDA's behaviour.
    """
    if visible_devices is None:
        every = [gpu for number, card in enumerate(gpus) for gpu in card.list_usable_gpus(str(number))]
        # CUDA shows no whole GPU beside a part
        return [gpu for gpu in every if gpu.is_part] or every
    selected: list[Gpu] = []
    for entry in map(str.strip, visible_devices.split(",")):
        if not (found := _resolve_visible_devices_entry(gpus, entry)):
            break
        selected += found
    return selected if max(Counter(selected).values(), default=1) == 1 else []


def _resolve_visible_devices_entry(gpus: Sequence[PhysicalGpu], entry: str) -> list[Gpu]:
    """Return the GPUs that one entry of CUDA_VISIBLE_DEVICES selects. Empty if the entry is invalid."""
    if entry.startswith("MIG-"):
        parts = [
            gpu
            for card in gpus
            for gpu in card.list_usable_gpus("")
            if gpu.is_part and gpu.uuid.startswith(entry)
        ]
        return parts if len(parts) == 1 else []
    if entry.startswith("GPU-"):
        meant = [card for card in gpus if card.uuid.startswith(entry)]
        return meant[0].list_usable_gpus(entry) if len(meant) == 1 else []
    number = re.match(r"\+?\d+", entry)
    is_there = number is not None and int(number[0]) < len(gpus)
    return gpus[int(number[0])].list_usable_gpus(number[0]) if number is not None and is_there else []


def measure_free_gpu_memory_mib() -> list[float]:
    """Return the free memory of each visible GPU; [] if it is unknown.

    If only torch knows the GPUs, their total memory is returned. The result is cached for two
    seconds.
    """
    gpus = find_visible_gpus()
    return list(_read_free_mib(tuple(gpus), int(time.monotonic() / STANDS_S))) if gpus else []


@lru_cache(maxsize=1)
def _read_free_mib(gpus: tuple[Gpu, ...], _time_slot: int) -> list[float]:
    free = [] if gpus[0].total_mib else _read_nvml_free_mib(gpus) or _read_smi_free_mib(gpus)
    return free or [nbytes / MIB for _, nbytes in _find_torch_gpus()]


@cache
def _torch_version() -> str:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("torch")
    return ""


@cache
def _find_physical_gpus() -> list[PhysicalGpu]:
    """Return all GPUs of the machine that NVML or nvidia-smi lists."""
    return _list_nvml_gpus() or parse_gpu_list(_run_nvidia_smi("-L") or "")


@contextmanager
def open_nvml() -> Iterator[Any]:
    """Open the NVML library. Yields None if the library or the driver is missing."""
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


def _list_nvml_gpus() -> list[PhysicalGpu]:
    with open_nvml() as library:
        if library is None:
            return []
        try:
            by_number = library.nvmlDeviceGetHandleByIndex
            return [
                _describe_nvml_gpu(library, by_number(number))
                for number in range(library.nvmlDeviceGetCount())
            ]
        except library.NVMLError as error:
            log.info("NVML cannot describe the GPUs: %s", error)
            return []


def _describe_nvml_gpu(library: Any, gpu: Any) -> PhysicalGpu:
    is_split, parts = False, []
    with suppress(library.NVMLError):  # most GPUs cannot be split
        is_split = library.nvmlDeviceGetMigMode(gpu)[0] == 1
    for number in range(library.nvmlDeviceGetMaxMigDeviceCount(gpu) if is_split else 0):
        with suppress(library.NVMLError):  # no part has this number
            parts.append(
                _read_model_and_uuid(library, library.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number))
            )
    return PhysicalGpu(*_read_model_and_uuid(library, gpu), tuple(parts), is_split)


def _read_model_and_uuid(library: Any, gpu: Any) -> tuple[str, str]:
    texts = library.nvmlDeviceGetName(gpu), library.nvmlDeviceGetUUID(gpu)
    # bytes: of old versions
    model, uuid = (text.decode() if isinstance(text, bytes) else text for text in texts)
    return model, uuid


def _read_nvml_free_mib(gpus: Sequence[Gpu]) -> list[float]:
    with open_nvml() as library:
        if library is None:
            return []
        try:
            handles = [library.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in gpus]
            return [library.nvmlDeviceGetMemoryInfo(handle).free / MIB for handle in handles]
        except library.NVMLError as error:
            log.info("NVML does not report free GPU memory: %s", error)
            return []


def _read_smi_free_mib(gpus: Sequence[Gpu]) -> list[float]:
    sizes = query_nvidia_smi("memory.free")
    return [sizes[gpu.uuid] for gpu in gpus] if all(gpu.uuid in sizes for gpu in gpus) else []


def query_nvidia_smi(field: str) -> dict[str, float]:
    """Return a numeric field of nvidia-smi for each GPU, by UUID. Empty if nvidia-smi is missing."""
    lines = (_run_nvidia_smi(f"--query-gpu=uuid,{field}", "--format=csv,noheader,nounits") or "").splitlines()
    cells = [line.partition(",")[::2] for line in lines]
    return {uuid.strip(): float(number) for uuid, number in cells if NUMBER.fullmatch(number.strip())}


def _run_nvidia_smi(*arguments: str) -> str | None:
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


def parse_gpu_list(text: str) -> list[PhysicalGpu]:
    """Parse the GPUs and MIG instances from the output of `nvidia-smi -L`."""
    cards: list[PhysicalGpu] = []
    for line in filter(None, map(LISTED.fullmatch, text.splitlines())):
        if line["part"] is None:
            cards.append(PhysicalGpu(line["model"], line["uuid"]))
        elif cards:
            *before, card = cards
            parts = (*card.parts, (f"{card.model} MIG {line['model']}", line["uuid"]))
            cards = [*before, PhysicalGpu(card.model, card.uuid, parts, is_split=True)]
    return cards


def _find_torch_gpus() -> list[tuple[str, int]]:
    """Return the name and memory of each GPU that torch finds.

    Torch is only started if a GPU device file exists.
    """
    version = _torch_version()
    if not version or "+cpu" in version or not any(os.path.exists(file) for file in DEVICE_FILES):
        return []
    return _load_cached_torch_gpus(version, tuple(os.environ.get(name) for name in VARIABLES))


@cache
def _load_cached_torch_gpus(version: str, visible_devices: tuple[str | None, ...]) -> list[tuple[str, int]]:
    """Return torch's list of GPUs, cached in the user cache until the machine restarts."""
    boot = BOOT_ID.read_text() if BOOT_ID.exists() else ""
    file = user_cache.get_cache_file("gpus", [version, visible_devices, boot])
    found = user_cache.read_cache_file(file).get("gpus") if file is not None else None
    if found is None:
        found = _query_torch_gpus_in_subprocess()
        if found is not None and file is not None:
            user_cache.write_cache_file(file, {"gpus": found})
    return [(str(name), int(nbytes)) for name, nbytes in found or []]


def _query_torch_gpus_in_subprocess() -> list[Any] | None:
    pipe = subprocess.PIPE
    with child_process.start_python_child_process(
        "-c", ASK_TORCH, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    ) as process:
        try:
            printed, errors = process.communicate(timeout=TORCH_S)
            found: list[Any] = json.loads(printed)
        except subprocess.TimeoutExpired as error:
            process.kill()
            log.info("torch cannot list the GPUs: %s", error)
            return None
        except ValueError:  # it has printed no list: it has failed
            log.info("torch cannot list the GPUs: %s", errors.decode(errors="replace"))
            return None
    return found
