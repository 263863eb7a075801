"""Measures the parameters, bytes by dtype and memory use of a loaded model.

The keys are the same for every task. `runner/report.py` prints them, MLflow and result.json store
them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from runner_base import Dtype, machine
from runner_base.notes import Note, note
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.models.lora.adapter_report import AdapterReport
from runner_engine.models.quantized_share import measure_quantized_share
from runner_engine.models.tensor_bytes import count_tensor_bytes, format_dtype
from runner_engine.quantization import list_quantized_layer_modules, quantized_share
from runner_engine.quantization.base import CheckpointSource
from runner_engine.quantization.quantization_mix import QuantizationMix
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.lora import AdapterConfig, LoraConfig, MergeOrder

NAMES_SHOWN = 4
# in the names of an adapter's tensors: PEFT's, and those of runner_engine/models/lora/pth.py
OF_ADAPTERS = ("lora_", ".lora.", ".modules_to_save.", ".trainable_tokens_delta.")

MetricsAndFacts = tuple[dict[str, float], dict[str, str]]  # as metrics and in words


def reset_memory_peaks() -> list[Note]:
    """Reset the peak-memory counters of main memory and GPUs. Returns a note if the reset fails."""
    is_reset = machine.reset_peak_rss_counter()
    for gpu in list_gpus_in_use():
        torch.cuda.reset_peak_memory_stats(gpu)
    return [] if is_reset else [note("peak_not_reset")]


def list_gpus_in_use() -> range:
    """Return the indices of the GPUs that this process uses. Querying an unused GPU would allocate
    memory on it.
    """
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return range(torch.cuda.device_count() if in_use else 0)


def measure_peak_memory_mib() -> dict[str, float]:
    """Return the peak MiB of main memory and of the used GPUs since `reset_memory_peaks`."""
    figures = {"load_peak_rss_mib": machine.peak_rss_mib()}
    if list_gpus_in_use():
        figures["load_peak_gpu_mib"] = (
            sum(map(torch.cuda.max_memory_allocated, list_gpus_in_use())) / machine.MIB
        )
    return figures


def measure_memory_in_use_mib(load_metrics: dict[str, float]) -> dict[str, float]:
    """Return the current memory use and the peak during the load, in MiB.

    The base model may have been loaded for an earlier job. The peak of the process then includes
    the earlier job's work.
    """
    machine.release_free_memory()  # without collecting cycles, which takes half a second
    resident_mib = machine.rss_mib()
    figures = {"load_rss_mib": resident_mib} if resident_mib else {}
    figures["load_peak_rss_mib"] = max(load_metrics["load_peak_rss_mib"], resident_mib)
    if list_gpus_in_use():
        figures["gpu_mib"] = sum(map(torch.cuda.memory_allocated, list_gpus_in_use())) / machine.MIB
        figures["load_peak_gpu_mib"] = max(load_metrics.get("load_peak_gpu_mib", 0.0), figures["gpu_mib"])
    return figures


def count_weight_nbytes(model: torch.nn.Module) -> Counter[str]:
    """Count the bytes of a model's parameters and buffers by dtype. Tied tensors count once;
    quantization constants are included.
    """
    return count_tensor_bytes([*model.parameters(), *model.buffers()])


def measure_memory_mapped_weight_mib(model: torch.nn.Module) -> float:
    """Return the MiB of parameters stored in memory-mapped files, such as the checkpoint."""
    files = MappedFiles()
    sizes = {
        parameter.data_ptr(): parameter.nbytes for parameter in model.parameters() if not parameter.is_cuda
    }
    return sum(size for address, size in sizes.items() if files.is_mapped_address(address)) / machine.MIB


def count_adapter_nbytes(model: Any) -> Counter[str]:
    """Count the bytes of an adapter's tensors by dtype. Empty once the adapter is merged."""
    by_dtype: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if any(part in name for part in OF_ADAPTERS):
            by_dtype[format_dtype(parameter)] += parameter.nbytes
    return by_dtype


def report_quantized_layers(
    model: Any, quantization_mix: QuantizationMix
) -> tuple[MetricsAndFacts, list[Note]]:
    """Count quantized layers and parameters. Returns metrics, facts, and notes on unquantized parts.

    Raises ConfigError if most of the model is not quantized and `allow_partial` is not set.
    """
    kinds: Counter[str] = Counter()
    unquantized, of_layers = [], list_quantized_layer_modules()
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding):
            continue
        if kind := _find_quantized_class_name(module, of_layers):
            kinds[kind] += 1
        elif isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":  # GPT-2's linear layer
            unquantized.append(path)
    quantized, total = kinds.total(), kinds.total() + len(unquantized)
    metrics = {"quantized_modules": float(quantized), "unquantized_linears": float(len(unquantized))}
    if not quantized:
        return (metrics, {"quantized": "none", "left_alone": f"all {total} linear layers"}), []
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    how = quantization_mix.base.label if quantization_mix.quantizes else "as the checkpoint is"
    reached, left = measure_quantized_share(
        model, lambda module: _find_quantized_class_name(module, of_layers), quantization_mix
    )
    if quantization_mix.quantizes and quantization_mix.base.source is CheckpointSource.plain:
        quantized_share.require_enough_quantized_weights(
            how, reached, left, quantization_mix.base.allow_partial
        )
    words = f"{how}: {reached.description} ({quantized} of {total} linear layers: {counts})"
    metrics |= {"quantized_share": reached.of_blocks, "quantized_share_of_all": reached.of_all}
    metrics |= {"quantized_share_of_bytes": reached.of_bytes or 0.0}
    metrics |= (
        {"quantized_share_of_wanted": reached.quantized_fraction_of_requested_parameters}
        if reached.named
        else {}
    )
    facts = {
        "quantized": words,
        "left_alone": quantized_share.format_unquantized_matrices(left, NAMES_SHOWN) or "none",
    }
    return (metrics, facts), quantized_share.build_unquantized_weight_notes(how, reached, left)


def estimate_largest_dequantized_weight_mib(model: Any, quantization_mix: QuantizationMix) -> float:
    """Return the MiB of the temporary dequantized copy of the largest quantized weight during a matmul."""
    of_layers = list_quantized_layer_modules()
    packed = (module for module in model.modules() if _find_quantized_class_name(module, of_layers))
    sizes = (getattr(one, "in_features", 0) * getattr(one, "out_features", 0) for one in packed)
    most = max(
        choice.describe_matmul_costs(model.dtype.itemsize).unpacked_bytes
        for choice in quantization_mix.quantizing_configs
    )
    return max(sizes, default=0) * most / machine.MIB


def _find_quantized_class_name(module: torch.nn.Module, library_modules: tuple[str, ...]) -> str:
    """Return the class name of a quantized layer or of its weight. Empty if the layer is unquantized."""
    held = (module, module._parameters.get("weight"))
    names = (
        getattr(one, "report_name", type(one).__name__)
        for one in held
        if type(one).__module__.startswith(library_modules)
    )
    return next(names, "")


def describe_adapter(lora: LoraConfig, report: AdapterReport | None) -> MetricsAndFacts:
    """Describe the applied adapter: source, rank, and numbers of modules and parameters."""
    applied = report or AdapterReport(0, 0, 0, 0.0, ())
    metrics = {
        f"lora_{key}": float(getattr(applied, key)) for key in ("modules", "rank", "parameters", "delta_norm")
    }
    if lora.selectable_adapters:
        words = f"{lora.name}, not merged: {'; '.join(applied.besides)} · {applied.parameters:,} parameters"
        return metrics, {"lora": words}
    if (adapter := lora.single_adapter) is None:
        return metrics, {"lora": "none"}
    details = [*applied.besides, *map(render_engine_note, _build_adapter_merge_notes(adapter))]
    words = (
        f"{adapter.name} {adapter.path}: {applied.modules} modules · rank {applied.rank} · "
        f"norm of the delta {applied.delta_norm:.3g} · {applied.parameters:,} parameters"
        f"{''.join(f' · {detail}' for detail in details)}"
    )
    if adapter.merge:
        metrics["merge_s"] = applied.merge_s
    return metrics, {"lora": words}


def _build_adapter_merge_notes(adapter: AdapterConfig) -> list[Note]:
    if not adapter.merge:
        return []
    order = {
        None: note("merged"),
        MergeOrder.merge_first: note("merged_first"),
        MergeOrder.quantize_first: note("quantized_first"),
    }[adapter.merge_order]
    is_auto = adapter.merge_dtype is Dtype.auto
    return [order if is_auto else note("added_in", how=order, dtype=adapter.merge_dtype.value)]


def summarize_weight_bytes_by_dtype(bytes_by_dtype: Counter[str]) -> MetricsAndFacts:
    sizes = {name: size / machine.MIB for name, size in sorted(bytes_by_dtype.items())}
    metrics = {"weight_mib": sum(sizes.values())} | {
        f"weight_mib/{name}": size for name, size in sizes.items()
    }
    return metrics, {"dtype": ", ".join(f"{name} {size:.2f} MiB" for name, size in sizes.items())}


def describe_devices(model: Any, device: torch.device) -> str:
    """Return the device of the weights, or the number of modules on each device of a device map."""
    mapped: dict[Any, Any] = getattr(model, "hf_device_map", None) or {}
    if len(set(map(str, mapped.values()))) < 2:
        return str(device)
    counts = Counter(map(str, mapped.values()))
    return ", ".join(f"{place}: {count} modules" for place, count in counts.items())
