"""The memory attributable to a model: the peaks of keys and values, and of activations.

Keys and values are counted in bytes as rows enter and leave. The activations are computed from the
largest pass that really ran, since allocators of main memory do not count by model. On a GPU the
allocator's peak is used.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_base import MIB
from runner_engine.checkpoints.pass_memory import pass_bytes
from runner_engine.models.inventory import gpus
from runner_engine.models.load import Loaded
from runner_engine.sessions import EngineStats


def note_kv(stats: EngineStats, nbytes: int) -> None:
    """Note how many bytes of keys and values are stored now."""
    stats.peak_kv_bytes = max(stats.peak_kv_bytes, nbytes)


def note_cache(stats: EngineStats, cache: Any) -> None:
    """Note how many bytes a cache of transformers holds: keys and values, and other states."""
    note_kv(stats, sum(map(_nbytes, getattr(cache, "layers", ()))))


def note_pass(stats: EngineStats, loaded: Loaded, tokens: int, logits: int) -> None:
    """Note the size of a pass: how many tokens it read, and after how many of them it computed
    logits."""
    if tokens <= stats.peak_pass_tokens and logits <= stats.peak_pass_logits:
        return
    stats.peak_pass_tokens = max(stats.peak_pass_tokens, tokens)
    stats.peak_pass_logits = max(stats.peak_pass_logits, logits)
    # the larger of two sums, each of which grows with one of the two counts: so this is the largest
    # pass's
    numbers = pass_bytes(
        int_settings(loaded.model),
        loaded.model.dtype.itemsize,
        stats.peak_pass_logits,
        stats.peak_pass_tokens,
    )
    stats.peak_activation_bytes = numbers + int(loaded.metrics.get("unpacked_mib", 0.0) * MIB)


class PeakMemory:
    """Notes the peaks of a loaded model's keys, values and passes in the counts of its engine."""

    def __init__(self, stats: EngineStats, loaded: Loaded) -> None:
        self.stats, self.loaded = stats, loaded

    def note_kv(self, nbytes: int) -> None:
        """Note how many bytes of keys and values are stored now."""
        note_kv(self.stats, nbytes)

    def note_pass(self, tokens: int, logits: int) -> None:
        """Note the size of a pass: how many tokens it read, and after how many of them it computed
        logits."""
        note_pass(self.stats, self.loaded, tokens, logits)


def int_settings(model: Any) -> dict[str, Any]:
    """Return a model's sizes; of a multimodal model, those of its language model."""
    settings: dict[str, Any] = model.config.get_text_config().to_dict()
    return {key: value for key, value in settings.items() if isinstance(value, int) or _are_ints(value)}


def restart_cuda(loaded: Loaded) -> None:
    """Reset the GPUs' peaks: the peak of loading does not belong to the work."""
    if _is_on_gpus(loaded):
        for gpu in gpus():
            torch.cuda.reset_peak_memory_stats(gpu)


def note_cuda(stats: EngineStats, loaded: Loaded) -> None:
    """Note the allocator's peak, if the whole model is on GPUs."""
    if _is_on_gpus(loaded):
        stats.peak_cuda_bytes = max(stats.peak_cuda_bytes, sum(map(torch.cuda.max_memory_allocated, gpus())))


def _is_on_gpus(loaded: Loaded) -> bool:
    mapped: dict[Any, Any] = getattr(loaded.model, "hf_device_map", None) or {"": loaded.device}
    return not {str(place) for place in mapped.values()} & {"cpu", "disk", "mps"}


def _nbytes(layer: Any) -> int:
    """Return the bytes of all tensors that a layer of a cache holds, also of those in its lists and
    dicts."""

    def of(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.nbytes
        if isinstance(value, dict):
            return sum(map(of, value.values()))
        return sum(map(of, value)) if isinstance(value, list | tuple) else 0

    return sum(map(of, vars(layer).values()))


def _are_ints(value: Any) -> bool:
    """Whether it is a list with a number for each layer."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, int) for one in value)
