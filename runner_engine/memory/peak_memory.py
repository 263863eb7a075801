"""Records the peak memory of a model: keys and values, and activations.

Bytes of keys and values are counted as sequences enter and leave. Activations are
computed from the largest pass that ran, because main memory allocators do not count per
model. On a GPU the allocator's peak is used.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_base import MIB
from runner_engine.checkpoints.pass_memory import estimate_pass_nbytes
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.inventory import list_gpus_in_use
from runner_engine.sessions import EngineStats


def record_kv_peak(stats: EngineStats, nbytes: int) -> None:
    stats.peak_kv_bytes = max(stats.peak_kv_bytes, nbytes)


def record_cache_peak(stats: EngineStats, cache: Any) -> None:
    """Update the peak KV memory from a transformers cache, with recurrent states."""
    record_kv_peak(stats, sum(map(_count_cache_layer_nbytes, getattr(cache, "layers", ()))))


def record_activation_peak(stats: EngineStats, loaded: LoadedModel, num_tokens: int, num_logits: int) -> None:
    """Update the peak activation memory from the size of a forward pass."""
    if num_tokens <= stats.peak_pass_tokens and num_logits <= stats.peak_pass_logits:
        return
    stats.peak_pass_tokens = max(stats.peak_pass_tokens, num_tokens)
    stats.peak_pass_logits = max(stats.peak_pass_logits, num_logits)
    # the larger of two sums, each of which grows with one of the two counts: so this is the largest
    # pass's
    numbers = estimate_pass_nbytes(
        read_integer_config_values(loaded.model),
        loaded.model.dtype.itemsize,
        stats.peak_pass_logits,
        stats.peak_pass_tokens,
    )
    stats.peak_activation_bytes = numbers + int(loaded.metrics.get("unpacked_mib", 0.0) * MIB)


class PeakMemory:
    """Records the peak memory of a model's KV cache and forward passes in the engine's statistics."""

    def __init__(self, stats: EngineStats, loaded: LoadedModel) -> None:
        self.stats, self.loaded = stats, loaded

    def record_kv_peak(self, nbytes: int) -> None:
        record_kv_peak(self.stats, nbytes)

    def record_pass_peak(self, num_tokens: int, num_logits: int) -> None:
        record_activation_peak(self.stats, self.loaded, num_tokens, num_logits)


def read_integer_config_values(model: Any) -> dict[str, Any]:
    """Return the integer values of a model's config.

    For a multimodal model, the config of its language model counts.
    """
    settings: dict[str, Any] = model.config.get_text_config().to_dict()
    return {
        key: value for key, value in settings.items() if isinstance(value, int) or _is_list_of_ints(value)
    }


def reset_cuda_peaks(loaded: LoadedModel) -> None:
    """Reset the GPUs' peak memory statistics, so that loading is not counted."""
    if _is_entirely_on_gpus(loaded):
        for gpu in list_gpus_in_use():
            torch.cuda.reset_peak_memory_stats(gpu)


def record_cuda_peak(stats: EngineStats, loaded: LoadedModel) -> None:
    """Update the peak memory of the CUDA allocator, if the whole model is on GPUs."""
    if _is_entirely_on_gpus(loaded):
        stats.peak_cuda_bytes = max(
            stats.peak_cuda_bytes, sum(map(torch.cuda.max_memory_allocated, list_gpus_in_use()))
        )


def _is_entirely_on_gpus(loaded: LoadedModel) -> bool:
    mapped: dict[Any, Any] = getattr(loaded.model, "hf_device_map", None) or {"": loaded.device}
    return not {str(place) for place in mapped.values()} & {"cpu", "disk", "mps"}


def _count_cache_layer_nbytes(layer: Any) -> int:
    """Return the bytes of all tensors in a layer of a transformers cache, also in lists and dicts."""

    def sum_nbytes(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.nbytes
        if isinstance(value, dict):
            return sum(map(sum_nbytes, value.values()))
        return sum(map(sum_nbytes, value)) if isinstance(value, list | tuple) else 0

    return sum(map(sum_nbytes, vars(layer).values()))


def _is_list_of_ints(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, int) for one in value)
