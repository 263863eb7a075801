"""A GPU that was lost, as torch reports it: an error at each use, until the process ends."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from runner_engine.devices import gpu

ASSERTION = "CUDA error: device-side assert triggered"


def fake_torch(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, in_use: tuple[int, ...] = (1,)
) -> list[int]:
    """Put a torch in place whose GPU 1 raises this error at each use; return the GPUs that were
    waited for."""
    waited: list[int] = []

    def use(device: int = 1) -> None:
        waited.append(device)
        if error is not None and device == 1:
            raise error

    cuda: dict[str, Any] = {
        "is_initialized": lambda: True,
        "device_count": lambda: 3,
        "memory_reserved": lambda device: int(device in in_use),
        "synchronize": use,
        "empty_cache": use,
    }
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(**cuda)))
    return waited


def test_only_gpus_in_use_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = fake_torch(monkeypatch, torch.AcceleratorError(ASSERTION), in_use=(0, 2))
    assert gpu.get_gpu_failure_message() == ""
    assert waited == [0, 2]


def test_a_lost_gpu_is_found_and_hides_no_error_when_its_memory_is_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_torch(monkeypatch, torch.AcceleratorError(ASSERTION))
    assert gpu.get_gpu_failure_message() == f"AcceleratorError: {ASSERTION}"
    gpu.free_cached_gpu_memory()
    fake_torch(monkeypatch, torch.AcceleratorError("CUDA error: out of memory"))
    assert gpu.get_gpu_failure_message() == "", "another job may fit"
    fake_torch(monkeypatch, RuntimeError("INTERNAL ASSERT FAILED"))
    with pytest.raises(RuntimeError, match="INTERNAL ASSERT"):
        gpu.free_cached_gpu_memory()
