"""From how many rows on weights are multiplied by tiles (AMX) that are first unpacked to bfloat16.

These are weights of 4 bits, and those of 8 whose rows stay numbers: in groups, in blocks of a .gguf file, of torchao.
Some inputs of a panel are unpacked, in the order of plain ones, and multiplied as these are. So what is measured of
plain weights of the same shapes (products.py) decides here, too.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from runner.engines.local.kernels.native import Kernels
from runner.engines.local.matmul.int8_dynamic import is_dynamic
from runner.engines.local.matmul.products import Choice, Way, choose_for
from runner.models.gguf_blocks import GgufLinear
from runner.models.grouped import GroupedLinear


def choice_for(model: nn.Module, kernels: Kernels | None) -> Choice | None:
    """Return the way of a model's unpacked weights where it is by tiles; None elsewhere."""
    if kernels is None or kernels.tiles_problem:
        return None
    layers = [one for one in model.modules() if isinstance(one, nn.Linear) and is_unpacked(one)]
    shapes = Counter((layer.out_features, layer.in_features) for layer in layers)
    if not shapes:
        return None
    choice = choose_for(shapes, torch.bfloat16, kernels, is_own=True)
    return choice if choice.way is Way.tiles else None


def is_unpacked(layer: nn.Linear) -> bool:
    """Whether the kernels unpack a layer's weights to multiply them by rows of numbers."""
    if isinstance(layer, GgufLinear | GroupedLinear):
        return not layer.has_byte_rows
    is_int8 = type(layer.weight).__name__ == "Int8Tensor" and not is_dynamic(layer)
    return is_int8 or any(one.__name__ == "Linear4bit" for one in type(layer).__mro__)
