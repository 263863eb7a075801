"""Free memory: measuring it, freeing it after a failed pass, and stopping before the system
runs out.
"""

from __future__ import annotations

import math
import time
from functools import cached_property
from typing import Any

import torch

from runner_base import machine
from runner_engine.checkpoints.pass_memory import PREFILL_TOKENS, compute_kv_bytes_per_token, pass_bytes
from runner_engine.memory.peak_memory import integer_config_values
from runner_engine.models.load_checks import gpu_free_mib

MARGIN_MIB = 32.0  # of main memory stay free: libraries allocate a little for each new batch size
LAST_MIB = 8.0  # for a row alone, which cannot be made smaller
LOOK_EVERY_S = 0.1  # a look takes up to a millisecond


def free_mib(device: torch.device) -> float:
    """Return how much of a device's memory this process can still allocate."""
    return gpu_free_mib(device.index or 0) if device.type == "cuda" else machine.available_memory_mib()


def release_failed_pass(error: BaseException, device: torch.device) -> None:
    """Free the memory that a failed pass still holds."""
    error.__traceback__ = None  # it holds the tensors of that pass
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        machine.release_free_memory()


class MemoryGuard:
    """Watches main memory during decoding, because the system kills a process that takes too
    much.

    A GPU raises an error instead, so it is not watched.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self.free_mib, self.looked_s = math.inf, -math.inf

    @cached_property
    def _config_values(self) -> dict[str, Any]:
        return integer_config_values(self.model)

    def measure(self) -> bool:
        """Measure free memory unless that was just done. Returns whether it was measured."""
        now = time.monotonic()
        if self.device.type != "cpu" or now - self.looked_s < LOOK_EVERY_S:
            return False
        self.free_mib, self.looked_s = free_mib(self.device), now
        return True

    def check(self, num_sequences: int) -> None:
        """Raise MemoryError if the next tokens may not fit. A single sequence may use nearly all
        memory.
        """
        if num_sequences and self.measure():
            spare = self.free_mib - (MARGIN_MIB if num_sequences > 1 else LAST_MIB)
            if spare * machine.MIB < pass_bytes(
                self._config_values, self._itemsize, num_sequences, num_sequences
            ):
                raise MemoryError(f"only {self.free_mib:.0f} MiB of main memory are free")

    def max_prefill_tokens(self) -> int:
        """Return how many prompt tokens one pass may read."""
        self.measure()
        most = PREFILL_TOKENS.get(self.device.type, PREFILL_TOKENS["cpu"])
        each = max(pass_bytes(self._config_values, self._itemsize, 0, 1), 1)
        return int(min(most, max((self.free_mib - MARGIN_MIB) * machine.MIB / each, 1)))

    def has_room_for(self, num_sequences: int, prompt_tokens: int, new_tokens: int) -> bool:
        """Whether memory seems sufficient for so many sequences, padded to equal length, until they
        end.
        """
        self.measure()
        cache = (
            compute_kv_bytes_per_token(self._config_values, self._itemsize)
            * num_sequences
            * (prompt_tokens + new_tokens)
        )
        needed = cache + pass_bytes(
            self._config_values, self._itemsize, num_sequences, num_sequences * prompt_tokens
        )
        return needed <= (self.free_mib - MARGIN_MIB) * machine.MIB

    def invalidate(self) -> None:
        """Discard the last measurement, because much has changed."""
        self.looked_s = -math.inf

    @property
    def _itemsize(self) -> int:
        itemsize: int = self.model.dtype.itemsize
        return itemsize
