"""Measures free memory, and guards forward passes against running out of memory."""

from __future__ import annotations

import math
import time
from functools import cached_property
from typing import Any

import torch

from runner_base import machine
from runner_engine.checkpoints.pass_memory import (
    PREFILL_TOKENS,
    compute_kv_bytes_per_token,
    estimate_pass_nbytes,
)
from runner_engine.memory.peak_memory import read_integer_config_values
from runner_engine.models.load_checks import measure_usable_gpu_mib

MARGIN_MIB = 32.0  # of main memory stay free: libraries allocate a little for each new batch size
LAST_MIB = 8.0  # for a row alone, which cannot be made smaller
LOOK_EVERY_S = 0.1  # a look takes up to a millisecond


def free_mib(device: torch.device) -> float:
    return (
        measure_usable_gpu_mib(device.index or 0) if device.type == "cuda" else machine.available_memory_mib()
    )


def release_memory_after_failure(error: BaseException, device: torch.device) -> None:
    error.__traceback__ = None  # it holds the tensors of that pass
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        machine.release_free_memory()


class MemoryGuard:
    """Watches main memory during decoding.

    The operating system kills a process that takes too much memory.

    A GPU raises an error instead, so it is not watched.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self.free_mib, self.looked_s = math.inf, -math.inf

    @cached_property
    def _model_config_values(self) -> dict[str, Any]:
        return read_integer_config_values(self.model)

    def update_free_memory_if_stale(self) -> bool:
        """Measure free memory unless the last measurement is recent. Returns whether a measurement was made."""
        now = time.monotonic()
        if self.device.type != "cpu" or now - self.looked_s < LOOK_EVERY_S:
            return False
        self.free_mib, self.looked_s = free_mib(self.device), now
        return True

    def check(self, num_sequences: int) -> None:
        """Raise MemoryError if the next tokens of all sequences may not fit.

        A single sequence may use nearly all memory.
        """
        if num_sequences and self.update_free_memory_if_stale():
            spare = self.free_mib - (MARGIN_MIB if num_sequences > 1 else LAST_MIB)
            if spare * machine.MIB < estimate_pass_nbytes(
                self._model_config_values, self._dtype_nbytes, num_sequences, num_sequences
            ):
                raise MemoryError(f"main memory is too small: only {self.free_mib:.0f} MiB are free")

    def max_prefill_tokens(self) -> int:
        self.update_free_memory_if_stale()
        most = PREFILL_TOKENS.get(self.device.type, PREFILL_TOKENS["cpu"])
        each = max(estimate_pass_nbytes(self._model_config_values, self._dtype_nbytes, 0, 1), 1)
        return int(min(most, max((self.free_mib - MARGIN_MIB) * machine.MIB / each, 1)))

    def has_memory_for_batch(self, num_sequences: int, prompt_tokens: int, new_tokens: int) -> bool:
        """Whether free memory suffices to decode this number of sequences, padded to equal length."""
        self.update_free_memory_if_stale()
        cache = (
            compute_kv_bytes_per_token(self._model_config_values, self._dtype_nbytes)
            * num_sequences
            * (prompt_tokens + new_tokens)
        )
        needed = cache + estimate_pass_nbytes(
            self._model_config_values, self._dtype_nbytes, num_sequences, num_sequences * prompt_tokens
        )
        return needed <= (self.free_mib - MARGIN_MIB) * machine.MIB

    def invalidate(self) -> None:
        """Discard the last measurement of free memory. Call this method after memory use has
        changed.
        """
        self.looked_s = -math.inf

    @property
    def _dtype_nbytes(self) -> int:
        itemsize: int = self.model.dtype.itemsize
        return itemsize
