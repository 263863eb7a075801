"""Loading backends: one module per backend, with a `Backend` class as defined in contract.py.

gguf: reads a .gguf file of a supported architecture, without transformers.
mixed: a plain checkpoint, whose layers are quantized one by one after the load, by pattern.
merged: a plain checkpoint; an adapter is merged before it is quantized as for mixed.
stored_groups: a checkpoint of codes with scales, which our own layers hold unchanged.
adopted_groups: a checkpoint whose library loads the codes, which our own layers then hold.
made_groups: a plain checkpoint, quantized into our own layers while transformers reads it.
library: any other; transformers reads it, and a library may quantize it meanwhile.
"""

from __future__ import annotations

from importlib import import_module

from runner_engine.models.load_target import LoadTarget
from runner_engine.models.loading.contract import LoadingBackend
from runner_engine.models.loading.weight_loading import load_weights

__all__ = ["create_loading_backend", "load_weights"]


def create_loading_backend(target: LoadTarget) -> LoadingBackend:
    """Create the loading backend that the plan names.

    Imports only that backend's module, because other backends may need missing packages.
    """
    way: LoadingBackend = import_module(f"{__name__}.{target.plan.loading_backend_name}").Backend(target)
    return way
