"""What was loaded: counts, bytes, memory and words, taken from the loaded model and never from the
config.

The keys are the same for every task; `runner/report.py` draws them, MLflow and result.json keep
them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from runner_base import Dtype, machine
from runner_base.notes import Note, note
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.models.held_bytes import dtype_name, held_bytes
from runner_engine.models.lora.report import AdapterReport
from runner_engine.models.share import share_of
from runner_engine.quantization import holders, share
from runner_engine.quantization.base import CheckpointSource
from runner_engine.quantization.mixed import Mix
from runner_engine.render.notes import render
from runner_engine.settings.lora import AdapterConfig, LoraConfig, MergeOrder

NAMES_SHOWN = 4
# in the names of an adapter's tensors: PEFT's, and those of runner_engine/models/lora/pth.py
OF_ADAPTERS = ("lora_", ".lora.", ".modules_to_save.", ".trainable_tokens_delta.")

Described = tuple[dict[str, float], dict[str, str]]  # as metrics and in words


def start_memory() -> list[Note]:
    """Reset the high-water marks of main memory and of the GPUs in use; return a note if that
    fails."""
    is_reset = machine.restart_peak()
    for gpu in gpus():
        torch.cuda.reset_peak_memory_stats(gpu)
    return [] if is_reset else [note("peak_not_reset")]


def gpus() -> range:
    """Return the GPUs that this process uses; querying another one would take memory there."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return range(torch.cuda.device_count() if in_use else 0)


def peaks() -> dict[str, float]:
    """Return the peaks since `start_memory`, with those of the GPUs in use."""
    figures = {"load_peak_rss_mib": machine.peak_rss_mib()}
    if gpus():
        figures["load_peak_gpu_mib"] = sum(map(torch.cuda.max_memory_allocated, gpus())) / machine.MIB
    return figures


def memory_in_use(before: dict[str, float]) -> dict[str, float]:
    """Return the memory in use now, and the larger of this and the peaks of loading the base.

    A base may have been loaded for an earlier job: the process's own mark then includes that job's
    work, too.
    """
    machine.trim()  # what the load has freed does not count; collecting cycles first would take half a second
    resident_mib = machine.rss_mib()
    figures = {"load_rss_mib": resident_mib} if resident_mib else {}
    figures["load_peak_rss_mib"] = max(before["load_peak_rss_mib"], resident_mib)
    if gpus():
        figures["gpu_mib"] = sum(map(torch.cuda.memory_allocated, gpus())) / machine.MIB
        figures["load_peak_gpu_mib"] = max(before.get("load_peak_gpu_mib", 0.0), figures["gpu_mib"])
    return figures


def weight_bytes(model: torch.nn.Module) -> Counter[str]:
    """Return the bytes of parameters and buffers by dtype; tied tensors once, quantization
    constants included."""
    return held_bytes([*model.parameters(), *model.buffers()])


def mapped_mib(model: torch.nn.Module) -> float:
    """Return how much of the parameters is in mapped files, such as the checkpoint."""
    files = MappedFiles()
    sizes = {
        parameter.data_ptr(): parameter.nbytes for parameter in model.parameters() if not parameter.is_cuda
    }
    return sum(size for address, size in sizes.items() if files.has(address)) / machine.MIB


def adapter_bytes(model: Any) -> Counter[str]:
    """Return the bytes of the adapter's own tensors by dtype; none once it is merged."""
    by_dtype: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if any(part in name for part in OF_ADAPTERS):
            by_dtype[dtype_name(parameter)] += parameter.nbytes
    return by_dtype


def describe_quantization(model: Any, mix: Mix) -> tuple[Described, list[Note]]:
    """Count the linear layers by their kind of quantization, and the parameters; return notes on
    what is not reached.

    ConfigError if most of the model is not, and nothing has allowed it: where no header told it
    before the load.
    """
    kinds: Counter[str] = Counter()
    unquantized, of_layers = [], holders()
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding):
            continue
        if kind := _quantized_kind(module, of_layers):
            kinds[kind] += 1
        elif isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":  # GPT-2's linear layer
            unquantized.append(path)
    quantized, total = kinds.total(), kinds.total() + len(unquantized)
    metrics = {"quantized_modules": float(quantized), "unquantized_linears": float(len(unquantized))}
    if not quantized:
        return (metrics, {"quantized": "none", "left_alone": f"all {total} linear layers"}), []
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    how = mix.base.label if mix.quantizes else "as the checkpoint is"
    reached, left = share_of(model, lambda module: _quantized_kind(module, of_layers), mix)
    if mix.quantizes and mix.base.source is CheckpointSource.plain:
        share.check_reach(how, reached, left, mix.base.allow_partial)
    words = f"{how}: {reached.words} ({quantized} of {total} linear layers: {counts})"
    metrics |= {"quantized_share": reached.of_blocks, "quantized_share_of_all": reached.of_all}
    metrics |= {"quantized_share_of_bytes": reached.of_bytes or 0.0}
    metrics |= {"quantized_share_of_wanted": reached.of_wanted} if reached.named else {}
    facts = {"quantized": words, "left_alone": share.kinds_of(left, NAMES_SHOWN) or "none"}
    return (metrics, facts), share.notes(how, reached, left)


def unpacked_mib(model: Any, mix: Mix) -> float:
    """Return the memory of the unpacked copy that a product makes of the largest quantized
    weight."""
    of_layers = holders()
    packed = (module for module in model.modules() if _quantized_kind(module, of_layers))
    sizes = (getattr(one, "in_features", 0) * getattr(one, "out_features", 0) for one in packed)
    most = max(choice.products(model.dtype.itemsize).unpacked_bytes for choice in mix.choices)
    return max(sizes, default=0) * most / machine.MIB


def _quantized_kind(module: torch.nn.Module, of_layers: tuple[str, ...]) -> str:
    """Return the class of a quantized layer, or of its quantized weight; empty for any other
    layer."""
    held = (module, module._parameters.get("weight"))
    names = (
        getattr(one, "class_name", type(one).__name__)
        for one in held
        if type(one).__module__.startswith(of_layers)
    )
    return next(names, "")


def describe_lora(lora: LoraConfig, report: AdapterReport | None) -> Described:
    """Describe the applied adapter: modules, rank, parameters, norm of the delta, and where it is
    from."""
    applied = report or AdapterReport(0, 0, 0, 0.0, ())
    metrics = {
        f"lora_{key}": float(getattr(applied, key)) for key in ("modules", "rank", "parameters", "delta_norm")
    }
    if lora.each:
        words = f"{lora.name}, beside the weights: {'; '.join(applied.besides)} · {applied.parameters:,} parameters"
        return metrics, {"lora": words}
    if (adapter := lora.adapter) is None:
        return metrics, {"lora": "none"}
    words = (
        f"{adapter.name} {adapter.path}: {applied.modules} modules · rank {applied.rank} · "
        f"norm of the delta {applied.delta_norm:.3g} · {applied.parameters:,} parameters"
        f"{''.join(f' · {words}' for words in [*applied.besides, *map(render, _merging_of(adapter))])}"
    )
    if adapter.merge:
        metrics["merge_s"] = applied.merge_s
    return metrics, {"lora": words}


def _merging_of(adapter: AdapterConfig) -> list[Note]:
    """Return in which numbers an adapter was added to the weights, and whether these were quantized
    already."""
    if not adapter.merge:
        return []
    order = {
        None: note("merged"),
        MergeOrder.merge_first: note("merged_first"),
        MergeOrder.quantize_first: note("quantized_first"),
    }[adapter.merge_order]
    is_auto = adapter.merge_dtype is Dtype.auto
    return [order if is_auto else note("added_in", how=order, dtype=adapter.merge_dtype.value)]


def describe_weights(bytes_by_dtype: Counter[str]) -> Described:
    sizes = {name: size / machine.MIB for name, size in sorted(bytes_by_dtype.items())}
    metrics = {"weight_mib": sum(sizes.values())} | {
        f"weight_mib/{name}": size for name, size in sizes.items()
    }
    return metrics, {"dtype": ", ".join(f"{name} {size:.2f} MiB" for name, size in sizes.items())}


def places(model: Any, device: torch.device) -> str:
    """Say where the weights are: on one device, or how many modules are in each place of a device
    map."""
    mapped: dict[Any, Any] = getattr(model, "hf_device_map", None) or {}
    if len(set(map(str, mapped.values()))) < 2:
        return str(device)
    counts = Counter(map(str, mapped.values()))
    return ", ".join(f"{place}: {count} modules" for place, count in counts.items())
