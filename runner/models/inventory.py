"""What is on after a load: counts, bytes, memory and words, read off the loaded model and never off the config.

The keys are the same for every task; `runner/report.py` draws them, MLflow and result.json keep them.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import torch

from runner.config.lora import AdapterConfig
from runner.core import machine
from runner.core.mapped_files import MappedFiles
from runner.models.lora.peft import AdapterReport
from runner.quantization import CHOICES, HOLDERS
from runner.quantization.base import QuantizationConfig

NAMES_SHOWN = 4

Described = tuple[dict[str, float], dict[str, str]]  # as metrics and in words


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


def weight_bytes(model: torch.nn.Module) -> Counter[str]:
    """Bytes of parameters and buffers by dtype, tied tensors once, quantization constants included."""
    seen: set[int] = set()
    by_dtype: Counter[str] = Counter()
    constants = {choice.constants for choice in CHOICES.values()}

    def add(tensor: Any) -> None:
        if hasattr(tensor, "__tensor_flatten__"):  # a shell, as torchao's: the bytes are those of what it holds
            for inner in tensor.__tensor_flatten__()[0]:
                add(getattr(tensor, inner))
        elif hasattr(tensor, "data_ptr") and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            by_dtype[_dtype_of(tensor)] += tensor.nbytes

    for parameter in [*model.parameters(), *model.buffers()]:
        add(parameter)
        for of_choice in constants:
            for tensor in of_choice(parameter):
                add(tensor)
    return by_dtype


def mapped_mib(model: torch.nn.Module) -> float:
    """How much of the parameters lies in mapped files, such as the checkpoint, and not in memory of its own."""
    files = MappedFiles()
    places = {parameter.data_ptr(): parameter.nbytes for parameter in model.parameters() if not parameter.is_cuda}
    return sum(size for place, size in places.items() if files.has(place)) / machine.MIB


def adapter_bytes(model: Any) -> Counter[str]:
    """Bytes of the adapter's own tensors by dtype; none once it is merged."""
    by_dtype: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if "lora_" in name or ".lora." in name:  # as PEFT names them, and as runner/compat/pth.py does
            by_dtype[_dtype_of(parameter)] += parameter.nbytes
    return by_dtype


def _dtype_of(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def describe_quantization(model: Any, quantization: QuantizationConfig) -> Described:
    """Count the linear layers by what became of them."""
    kinds: Counter[str] = Counter()
    alone = []
    for path, module in model.named_modules():
        if kind := _quantized_kind(module):
            kinds[kind] += 1
        elif isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":  # GPT-2's linear layer
            alone.append(path)
    quantized, total = kinds.total(), kinds.total() + len(alone)
    held = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    how = quantization.name if quantization.packed else "as the checkpoint is"
    on = f"{how}: {quantized} of {total} linear layers ({held})"
    rest = some(alone) if quantized else f"all {total} linear layers"
    metrics = {"quantized_modules": float(quantized), "unquantized_linears": float(len(alone))}
    return metrics, {"quantized": on if quantized else "none", "left_alone": rest if alone else "none"}


def unpacked_mib(model: Any, quantization: QuantizationConfig) -> float:
    """Return what the copy takes that a product makes of the largest quantized weight."""
    packed = (module for module in model.modules() if _quantized_kind(module))
    sizes = (getattr(one, "in_features", 0) * getattr(one, "out_features", 0) for one in packed)
    return max(sizes, default=0) * quantization.unpacked_bytes(model.dtype.itemsize) / machine.MIB


def _quantized_kind(module: torch.nn.Module) -> str:
    """Name what holds quantized weights, whatever was asked for: the layer's class, or its weight's; else nothing."""
    holders = (module, module._parameters.get("weight"))
    return next((type(one).__name__ for one in holders if type(one).__module__.startswith(HOLDERS)), "")


def describe_lora(adapter: AdapterConfig | None, report: AdapterReport | None) -> Described:
    """Say what of an adapter is on: modules, rank, parameters, norm of the delta, and where it is from."""
    on = report or AdapterReport(0, 0, 0, 0.0, ())
    metrics = {f"lora_{key}": float(getattr(on, key)) for key in ("modules", "rank", "parameters", "delta_norm")}
    if adapter is None:
        return metrics, {"lora": "none"}
    words = (
        f"{adapter.name} {adapter.path}: {on.modules} modules · rank {on.rank} · "
        f"norm of the delta {on.delta_norm:.3g} · {on.parameters:,} parameters"
        f"{' · merged into the weights' if adapter.merge else ''}"
    )
    return metrics, {"lora": words}


def describe_weights(bytes_by_dtype: Counter[str]) -> Described:
    """Return MiB of all weights and by dtype."""
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
