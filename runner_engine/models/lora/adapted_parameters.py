"""Marks modules whose parameters an adapter replaces during each forward pass.

Code must not read these parameters directly. Most adapters wrap a layer, whose weights stay
unchanged. PEFT's `target_parameters` (all experts of a mixture at once) instead replaces a
parameter during each pass, and only the module's own forward sees the sum.
"""

from __future__ import annotations

from typing import Any

from torch import nn

MARK = "adapted_inside"


def mark_modules_with_adapted_parameters(model: nn.Module) -> None:
    """Mark each module with parameters that PEFT replaces during a forward pass."""
    modules: list[Any] = [*model.modules()]
    for module in modules:
        if hasattr(module, "parameter_name") and hasattr(module, "get_base_layer"):  # PEFT's ParamWrapper
            setattr(module.get_base_layer(), MARK, True)


def unmark_adapted_modules(model: nn.Module) -> None:
    for module in model.modules():
        module.__dict__.pop(MARK, None)


def has_adapted_parameters(module: nn.Module) -> bool:
    """Whether PEFT replaces this module's parameters during a forward pass.

    Other code would read unadapted parameters.
    """
    return getattr(module, MARK, False) is True
