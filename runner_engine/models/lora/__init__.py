"""lora: adapters, one module for each kind, with four functions; merging.py merges any of them.

check(lora, path, bare, base_name)   reject an adapter that does not fit the model without weights; `bare` is None
                                     if that cannot be built
apply(base, lora, path, base_name)   apply the adapter; returns the adapted model, and an AdapterReport
adapted_paths(lora, path)            the paths of the modules that the adapter has matrices for
remove(model)                        remove an adapter that was not merged; False if the base is not as before
"""

from __future__ import annotations

import importlib
from typing import Any

from runner_engine.settings.lora import AdapterConfig


def module_of(lora: AdapterConfig) -> Any:
    """Return the module for this kind of adapter; imported here, because some libraries are slow to
    import."""
    return importlib.import_module(lora.module)
