"""Modules whose own parameters an adapter adds to while they compute, so that nobody may read the
parameters instead.

Most adapters stand around a layer, whose weights stay what they are. PEFT's `target_parameters`
(all experts of a mixture at once) instead exchanges a parameter during each pass, and only the
module's own function sees the sum.
"""

from __future__ import annotations

from typing import Any

from torch import nn

MARK = "adapted_inside"


def mark_inside(model: nn.Module) -> None:
    """Mark the modules of a model with such an adapter."""
    modules: list[Any] = [*model.modules()]
    for module in modules:
        if hasattr(module, "parameter_name") and hasattr(module, "get_base_layer"):  # PEFT's ParamWrapper
            setattr(module.get_base_layer(), MARK, True)


def unmark_inside(model: nn.Module) -> None:
    """Let them be ordinary modules again."""
    for module in model.modules():
        module.__dict__.pop(MARK, None)


def is_adapted_inside(module: nn.Module) -> bool:
    """Whether only the module's own function computes with what its adapter adds."""
    return getattr(module, MARK, False) is True
