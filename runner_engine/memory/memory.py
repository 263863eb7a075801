"""Free memory: how much there is, freeing it after a failed pass, and stopping before the system
runs out of it."""

from __future__ import annotations

import math
import time
from functools import cached_property
from typing import Any

import torch

from runner_base import machine
from runner_engine.checkpoints.pass_memory import PREFILL_TOKENS, pass_bytes, place_bytes
from runner_engine.memory.own_memory import int_settings
from runner_engine.models.capability import gpu_free_mib

MARGIN_MIB = 32.0  # of main memory stay free: libraries allocate a little for each new batch size
LAST_MIB = 8.0  # for a row alone, which cannot be made smaller
LOOK_EVERY_S = 0.1  # a look takes up to a millisecond


def free_mib(device: torch.device) -> float:
    """Return what this process can still take of a device's memory."""
    return gpu_free_mib(device.index or 0) if device.type == "cuda" else machine.available_mib()


def release_failed_pass(error: BaseException, device: torch.device) -> None:
    """Free what a failed pass has left in memory."""
    error.__traceback__ = None  # it holds the tensors of that pass
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        machine.trim()


class MemoryGuard:
    """Watches main memory while rows decode: the system kills a process that takes too much of it.

    A GPU raises an error instead, so it is not watched.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self.free_mib, self.looked_s = math.inf, -math.inf

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return int_settings(self.model)

    def look(self) -> bool:
        """Measure free memory, unless that was just done; return whether it was measured."""
        now = time.monotonic()
        if self.device.type != "cpu" or now - self.looked_s < LOOK_EVERY_S:
            return False
        self.free_mib, self.looked_s = free_mib(self.device), now
        return True

    def check(self, rows: int) -> None:
        """Raise MemoryError if the next token of so many rows may not fit; a single row may use
        nearly all memory."""
        if rows and self.look():
            spare = self.free_mib - (MARGIN_MIB if rows > 1 else LAST_MIB)
            if spare * machine.MIB < pass_bytes(self._settings, self._itemsize, rows, rows):
                raise MemoryError(f"{self.free_mib:.0f} MiB of main memory are left")

    def most_tokens(self) -> int:
        """Return how many tokens of prompts one pass may read."""
        self.look()
        most = PREFILL_TOKENS.get(self.device.type, PREFILL_TOKENS["cpu"])
        each = max(pass_bytes(self._settings, self._itemsize, 0, 1), 1)
        return int(min(most, max((self.free_mib - MARGIN_MIB) * machine.MIB / each, 1)))

    def fits(self, rows: int, prompt: int, new: int) -> bool:
        """Whether there seems to be memory for so many rows that are padded to one length, until
        they end."""
        self.look()
        cache = place_bytes(self._settings, self._itemsize) * rows * (prompt + new)
        needed = cache + pass_bytes(self._settings, self._itemsize, rows, rows * prompt)
        return needed <= (self.free_mib - MARGIN_MIB) * machine.MIB

    def forget(self) -> None:
        """Measure again at the next look: much has changed."""
        self.looked_s = -math.inf

    @property
    def _itemsize(self) -> int:
        itemsize: int = self.model.dtype.itemsize
        return itemsize
