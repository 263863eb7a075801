"""lora: adapters, one module for each kind, with three functions.

check(lora, path, bare, base_name)   refuse an adapter that does not fit the model without weights; `bare` is None
                                     where that cannot be built
apply(base, lora, path, base_name)   put the adapter on; returns the adapted model, and an AdapterReport
remove(model)                        take an adapter that was not merged off again
"""

from __future__ import annotations

import importlib
from typing import Any

from runner.config.lora import AdapterConfig


def home_of(lora: AdapterConfig) -> Any:
    """Return the module that knows this kind of adapter; imported here, as some libraries are slow to import."""
    return importlib.import_module(lora.module)
