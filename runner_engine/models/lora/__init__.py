"""LoRA adapters: one module per adapter kind. merging.py merges adapters of any kind.

check(lora, path, bare, base_name)   reject an adapter that does not fit the model without
weights;                                      `bare` is None if that cannot be built apply(base,
lora, path, base_name)   apply the adapter; returns the adapted model, and an AdapterReport
adapted_paths(lora, path)            the paths of the modules that the adapter has matrices for
remove(model)                        remove an unmerged adapter; False if the base is not
restored
"""

from __future__ import annotations

import importlib
from typing import Any

from runner_engine.settings.lora import AdapterConfig


def import_adapter_module(lora: AdapterConfig) -> Any:
    """Import the module for an adapter's kind. The import happens at the first use, because some
    libraries import slowly.
    """
    return importlib.import_module(lora.module)
