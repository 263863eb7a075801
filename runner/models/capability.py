"""What cannot work, said before any weight is read, each with its fix; what may not work well, as a note.

Two halves. `check` needs no torch: a plan asks it, and a job before it begins. The others are asked by the load, when
torch is there and the device is known, with the model's shape but not its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checkpoints import footprint, formats, random_weights
from runner.checkpoints.footprint import Footprint
from runner.checkpoints.resolve import for_transformers
from runner.config.lora import AdapterConfig, PeftConfig, PthConfig
from runner.config.model import Attention, StubConfig
from runner.config.root import RunnerConfig
from runner.core import machine
from runner.core.errors import ConfigError, DataError
from runner.core.machine import MIB
from runner.quantization import SMALLEST
from runner.quantization.base import Source

if TYPE_CHECKING:
    import torch

UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def check(config: RunnerConfig) -> list[str]:
    """Refuse what is known to be impossible without torch and without a weight; return notes about what is close."""
    if isinstance(config.model, StubConfig):
        return []  # nothing is loaded
    formats.check(config)
    if config.model.random_weights:
        random_weights.check_disk(config.model)
    on_gpu = config.model.device.startswith("cuda") or (config.model.device == "auto" and machine.gpu_models())
    # how much of a GPU is free is known to torch alone
    return [] if on_gpu else check_memory(config, limited({"cpu": machine.available_mib()}, config.model.max_memory))


# --------------------------------------------------------------------------------------------------- memory


def check_memory(config: RunnerConfig, rooms_mib: Mapping[str, float]) -> list[str]:
    """Hold the predicted weights, KV cache and activations against what is free in the places they may go to."""
    if not config.model.check_memory:
        return []
    try:
        predicted = predict(config)
    except DataError:
        return []  # a damaged header: the load will read it, too, and name the tensor
    return [] if predicted is None else judge_memory(config, predicted, rooms_mib)


def predict(config: RunnerConfig) -> Footprint | None:
    """Predict what the job will hold at its largest; of a sweep, in its smallest cell, as the others may fail."""
    return footprint.predict(config, *config.task.workload(config.generation))


def judge_memory(config: RunnerConfig, predicted: Footprint, rooms_mib: Mapping[str, float]) -> list[str]:
    """Refuse weights that do not fit; say it when they do, but not with what comes on top while completing."""
    free_mib = sum(rooms_mib.values())
    where = " and ".join(f"{room_mib:,.0f} MiB of {place}" for place, room_mib in rooms_mib.items())
    model, quantization = config.model, config.quantization.name
    if predicted.weight_mib > free_mib:
        fixes = [*smaller(config, free_mib), "a smaller model", *elsewhere(config, rooms_mib)]
        raise ConfigError(
            f"model.name={model.name} with quantization={quantization}: the weights need {predicted.weight_mib:,.0f} "
            f"MiB, and {where} are free: use {', '.join(fixes)}, or model.check_memory=false to try it all the same"
        )
    if predicted.total_mib > free_mib:
        return [
            f"memory is short: {predicted.weight_mib:,.0f} MiB of weights, {predicted.kv_cache_mib:,.0f} MiB of KV "
            f"cache and {predicted.activation_mib:,.0f} MiB of activations are predicted, and {where} are free: "
            "a smaller generation.batch_size or generation.max_new_tokens needs less"
        ]
    return []


def smaller(config: RunnerConfig, free_mib: float) -> list[str]:
    """Name the smallest quantization as the fix where it would be one."""
    merged = isinstance(config.lora, AdapterConfig) and config.lora.merge
    if config.quantization.source is not Source.plain or merged:
        return []
    smallest = SMALLEST()
    predicted = predict(replace(config, quantization=smallest))
    if predicted is None or predicted.weight_mib > free_mib:
        return []
    return [f"quantization={smallest.name} ({predicted.weight_mib:,.0f} MiB)"]


def elsewhere(config: RunnerConfig, rooms_mib: Mapping[str, float]) -> list[str]:
    """Name the device map as the fix where weights may go to one GPU only."""
    on_one_gpu = config.model.device_map is None and "main memory" not in rooms_mib
    return ["model.device=auto model.device_map=auto (spreads it over GPUs and main memory)"] if on_one_gpu else []


def rooms(config: RunnerConfig, device: torch.device) -> dict[str, float]:
    """Return what is free in each place that the weights may go to, in MiB; asked when nothing is loaded yet."""
    import torch

    gpus = range(torch.cuda.device_count()) if config.model.device_map is not None else []
    if device.type == "cuda":
        gpus = gpus or [device.index or 0]
    free = {str(gpu): gpu_room_mib(*gpu_figures(gpu)) for gpu in gpus}
    if device.type == "cpu" or config.model.device_map is not None:
        free["cpu"] = machine.available_mib()
    return limited(free, config.model.max_memory)


def gpu_figures(gpu: int) -> tuple[int, int, int]:
    """Return bytes of a GPU: free for everybody, reserved by this process, and in use by this process."""
    import torch

    return torch.cuda.mem_get_info(gpu)[0], torch.cuda.memory_reserved(gpu), torch.cuda.memory_allocated(gpu)


def gpu_room_mib(free: int, reserved: int, allocated: int) -> float:
    """Return what this process can still take: what is free, and what it keeps without using it."""
    return (free + reserved - allocated) / MIB


def limited(free_mib: Mapping[str, float], max_memory: Mapping[str, str] | None) -> dict[str, float]:
    """Cut each place to what model.max_memory allows there, and name it as people do."""
    max_memory = max_memory or {}
    names = {place: "main memory" if place == "cpu" else f"GPU {place}" for place in free_mib}
    allowed = {place: size_mib(max_memory[place]) if place in max_memory else math.inf for place in free_mib}
    if max_memory:  # as accelerate has it: a place that is not named gets nothing
        allowed |= dict.fromkeys(free_mib.keys() - max_memory.keys(), 0.0)
    return {names[place]: min(room, allowed[place]) for place, room in free_mib.items()}


def size_mib(size: str) -> float:
    """Turn 3GB, 800MiB and the like into MiB."""
    number = size.rstrip("KMGiB")
    return float(number) * UNITS[size[len(number) : -1]] / MIB


# ------------------------------------------------------------------------------------------------- the shape


def pick_attention(wanted: Attention, device: str, model_class: Any) -> tuple[Attention, list[str]]:
    """Turn model.attention into one that runs here and that the model has; a fallback is said, never silent."""
    has = {
        Attention.sdpa: getattr(model_class, "_supports_sdpa", True),
        Attention.flash_attention_2: getattr(model_class, "_supports_flash_attn", True),
    }
    if not has.get(wanted, True):
        others = [name.value for name in (Attention.sdpa, Attention.flash_attention_2) if has[name]]
        raise ConfigError(
            f"model.attention={wanted.value}: {model_class.__name__} does not support it: "
            f"use model.attention={' or '.join([*others, 'eager'])}, or auto"
        )
    if wanted is not Attention.flash_attention_2:
        return wanted, []
    missing = "there is no CUDA GPU" if device != "cuda" else ""
    if not missing and find_spec("flash_attn") is None:
        missing = "the package flash_attn is not installed"
    if not missing:
        return wanted, []
    instead = Attention.sdpa if has[Attention.sdpa] else Attention.eager
    return instead, [f"model.attention=flash_attention_2: {missing}, so {instead.value} is used"]


def class_of(path: Path, trust_remote_code: bool) -> Any:
    """Return the class that a checkpoint's config leads to; None where only its own code knows."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as KNOWN

    folder, here = for_transformers(path)
    try:
        settings = AutoConfig.from_pretrained(folder, **here, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError):
        return None  # the load says it, with what was asked for
    found = KNOWN.get(type(settings), None)
    return found[0] if isinstance(found, list | tuple) else found


def check_adapter(config: RunnerConfig, folder: Path, adapter: Path | None) -> None:
    """Hold an adapter against the model's shape: what does not fit is said before the weights are read."""
    if adapter is None:
        return
    from runner.models.lora import peft, pth

    name, trust = config.model.name, config.model.trust_remote_code
    if isinstance(config.lora, PthConfig):
        pth.check(config.lora, adapter, folder, name, trust)
    elif isinstance(config.lora, PeftConfig):
        try:
            bare = pth.skeleton(folder, trust)
        except Exception:  # noqa: BLE001  # custom code may not do without weights: PEFT checks on the real base
            return
        peft.check(config.lora, adapter, bare, footprint.read_tensors(adapter), name)
