"""How weights come into a model: one module for each way, which defines a `Way` by the contract in
contract.py.

gguf: a .gguf file of an architecture that is known here, read without transformers.
mixed: a plain checkpoint, whose layers are then quantized one by one, each as its pattern says.
merged: a plain checkpoint that an adapter is merged into, before it is quantized as for a mix.
stored_groups: a checkpoint of codes with scales, which layers of our own hold as they are.
adopted_groups: a checkpoint whose library loads the codes, which layers of our own then hold.
made_groups: a plain checkpoint, quantized into layers of our own while transformers reads it.
library: any other: transformers reads it, and a library may quantize it meanwhile.
"""

from __future__ import annotations

from importlib import import_module

from runner_engine.models.loading.contract import WayOfLoading
from runner_engine.models.loading.weights import load_weights
from runner_engine.models.target import Target

__all__ = ["load_weights", "way_for"]


def way_for(target: Target) -> WayOfLoading:
    """Return the way of loading that is planned; its module is imported here, because others are not
    needed."""
    way: WayOfLoading = import_module(f"{__name__}.{target.plan.way}").Way(target)
    return way
