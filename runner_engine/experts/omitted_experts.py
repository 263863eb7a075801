"""Builds a model without its fused experts, which are loaded one by one afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from runner_engine.experts.expert_format import ExpertFormat, detect_expert_format


class OmittedExperts(nn.Module):
    """Placeholder for a module of fused experts, which has no weights.

    Keeps the module's other children, such as a norm.
    """

    def __init__(self, original_experts: nn.Module, expert_format: ExpertFormat) -> None:
        super().__init__()
        self.family, self.form = [original_experts], expert_format  # in a list, so that it is no child
        for name, child in original_experts.named_children():
            self.add_module(name, child)

    @property
    def num_weights(self) -> int:
        """Number of omitted expert weights."""
        return sum(
            int(weight.numel()) for weight in self.family[0]._parameters.values() if weight is not None
        )


@contextmanager
def omit_experts_during_model_build() -> Iterator[None]:
    thread = threading.get_ident()

    def replace_if_fused_experts(_parent: nn.Module, _name: str, module: Any) -> Any:
        if threading.get_ident() != thread or not isinstance(module, nn.Module):
            return None
        form = detect_expert_format(module)
        return None if form is None else OmittedExperts(module, form)

    hook = register_module_module_registration_hook(replace_if_fused_experts)
    try:
        yield
    finally:
        hook.remove()


def count_omitted_weights(model: nn.Module) -> int:
    return sum(module.num_weights for module in model.modules() if isinstance(module, OmittedExperts))
