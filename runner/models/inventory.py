"""What is on after a load: counts, bytes, memory and words, read off the loaded model and never off the config.

The keys are the same for every task; `runner/report.py` draws them, MLflow and result.json keep them.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import torch

from runner.config.lora import LoraConfig, adapter_of
from runner.core import machine
from runner.models import quantization as quantization_room
from runner.models.lora.peft import AdapterReport
from runner.quantization.base import QuantizationConfig

NO_LORA = {"lora_modules": 0.0, "lora_rank": 0.0, "lora_parameters": 0.0, "lora_delta_norm": 0.0}
NAMES_SHOWN = 4


def start_memory() -> list[str]:
    """Start the high-water marks anew, that of the main memory and those of the GPUs in use; a note if that fails."""
    resettable = machine.restart_peak()
    for gpu in gpus():
        torch.cuda.reset_peak_memory_stats(gpu)
    why = "this system cannot reset the high-water mark: load_peak_rss_mib counts from the start of the process"
    return [] if resettable else [why]


def gpus() -> range:
    """Return the GPUs that this process uses; to ask one that it does not use would take memory there."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return range(torch.cuda.device_count() if in_use else 0)


def peaks() -> dict[str, float]:
    """Return the peaks since `start_memory`, those of the GPUs too when there are any in use."""
    figures = {"load_peak_rss_mib": machine.peak_rss_mib()}
    if gpus():
        figures["load_peak_gpu_mib"] = sum(map(torch.cuda.max_memory_allocated, gpus())) / machine.MIB
    return figures


def held(before: dict[str, float]) -> dict[str, float]:
    """Return what is held now, and the peaks of the load of the base as far as they are still the highest.

    A base may have been loaded for an earlier job: the process's own mark then holds that job's work, too.
    """
    machine.trim()  # what loading has let go of is no longer held; looking for cycles first would take half a second
    figures = {"load_rss_mib": machine.rss_mib()}
    figures["load_peak_rss_mib"] = max(before["load_peak_rss_mib"], figures["load_rss_mib"])
    if gpus():
        figures["gpu_mib"] = sum(map(torch.cuda.memory_allocated, gpus())) / machine.MIB
        figures["load_peak_gpu_mib"] = max(before.get("load_peak_gpu_mib", 0.0), figures["gpu_mib"])
    return figures


def linear_layers(model: Any) -> tuple[list[str], list[str]]:
    """Return the paths of the linear layers, those that are quantized and those that were left alone."""
    quantized, alone = [], []
    for path, module in model.named_modules():
        if quantization_room.is_quantized(module):
            quantized.append(path)
        elif isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":  # GPT-2's linear layer
            alone.append(path)
    return quantized, alone


def describe_quantization(model: Any, quantization: QuantizationConfig) -> tuple[dict[str, float], dict[str, str]]:
    """Count the linear layers by what became of them, as metrics and in words."""
    quantized, alone = linear_layers(model)
    kinds = Counter(quantization_room.kind_of(model.get_submodule(path)) for path in quantized)
    total = len(quantized) + len(alone)
    held = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    how = quantization.name if quantization.packed else "as the checkpoint is"
    on = f"{how}: {len(quantized)} of {total} linear layers ({held})"
    rest = some(alone) if quantized else f"all {total} linear layers"
    metrics = {"quantized_modules": float(len(quantized)), "unquantized_linears": float(len(alone))}
    return metrics, {"quantized": on if quantized else "none", "left_alone": rest if alone else "none"}


def describe_lora(lora: LoraConfig, report: AdapterReport | None) -> tuple[dict[str, float], dict[str, str]]:
    """Say what of an adapter is on: modules, rank, parameters, norm of the delta, and where it is from."""
    adapter = adapter_of(lora)
    if report is None or adapter is None:
        return dict(NO_LORA), {"lora": "none"}
    metrics = {
        "lora_modules": float(report.modules),
        "lora_rank": float(report.rank),
        "lora_parameters": float(report.parameters),
        "lora_delta_norm": report.delta_norm,
    }
    words = (
        f"{adapter.name} {adapter.path}: {report.modules} modules · rank {report.rank} · "
        f"norm of the delta {report.delta_norm:.3g} · {report.parameters:,} parameters"
        f"{' · merged into the weights' if adapter.merge else ''}"
    )
    return metrics, {"lora": words}


def describe_weights(bytes_by_dtype: dict[str, int]) -> tuple[dict[str, float], dict[str, str]]:
    """Return MiB of all weights and by dtype, as metrics and in words."""
    sizes = {name: size / machine.MIB for name, size in sorted(bytes_by_dtype.items())}
    metrics = {"weight_mib": sum(sizes.values())} | {f"weight_mib/{name}": size for name, size in sizes.items()}
    return metrics, {"dtype": ", ".join(f"{name} {size:.2f} MiB" for name, size in sizes.items())}


def places(model: Any, device: torch.device) -> str:
    """Name where the weights are: one device, or how many modules each place of a device map holds."""
    mapped: dict[Any, Any] = getattr(model, "hf_device_map", None) or {}
    if len(set(map(str, mapped.values()))) < 2:
        return str(device)
    counts = Counter(map(str, mapped.values()))
    return ", ".join(f"{place}: {count} modules" for place, count in counts.items())


def some(paths: list[str]) -> str:
    """Name layers shortly: those that differ in their number only stand once, with how many they are."""
    counts = Counter(re.sub(r"\.\d+(?=\.|$)", ".*", path) for path in paths)
    shown = itertools.islice(counts.items(), NAMES_SHOWN)
    names = [name if count == 1 else f"{name} ×{count}" for name, count in shown]
    more = len(counts) - len(names)
    return ", ".join(names) + (f" and {more} more kinds" if more else "")
