"""How weights come into a model: one module for each way, which defines a `Way` by the contract in
contract.py."""

from __future__ import annotations

from importlib import import_module

from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.models.loading.contract import WayOfLoading
from runner_engine.models.loading.weights import load_weights
from runner_engine.models.target import Target

__all__ = ["WAYS", "load_weights", "name_of_way", "way_for"]

WAYS = {
    "gguf": "a .gguf file of an architecture that is known here, read without transformers",
    "mixed": "a plain checkpoint, whose layers are then quantized one by one, each as its pattern says",
    "merged": "a plain checkpoint that an adapter is merged into, before it is quantized as for a mix",
    "stored_groups": "a checkpoint of codes with scales, which layers of our own hold as they are",
    "adopted_groups": "a checkpoint whose library loads the codes, which layers of our own then hold",
    "made_groups": "a plain checkpoint, quantized into layers of our own while transformers reads it",
    "library": "any other: transformers reads it, and a library may quantize it meanwhile",
}


def name_of_way(resolved: ResolvedModel) -> str:
    """Return which of the ways loads a model."""
    files, held = resolved.files, resolved.mix.base
    is_on_one_device = files.model.device_map is None
    if files.path.is_file() and is_on_one_device and gguf_file.is_known(gguf_file.read_header(files.path)):
        return "gguf"
    if resolved.spec.lora.merges_first:
        return "merged"
    if held.is_mixed:
        return "mixed"
    if held.keeps_groups:
        return "stored_groups"
    if held.makes_groups:
        return "made_groups" if files.stored is None else "adopted_groups"
    return "library"


def way_for(resolved: ResolvedModel, target: Target) -> WayOfLoading:
    """Return the way of loading a model; its module is imported here, because others are not
    needed."""
    way: WayOfLoading = import_module(f"{__name__}.{name_of_way(resolved)}").Way(resolved, target)
    return way
