"""A model whose fused experts are left out while the rest of it is read: they come in one after
another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from runner_engine.experts.form import Form, form_of


class LeftOut(nn.Module):
    """Stands in place of a family's fused experts: has their other modules, such as a norm, and not
    their weights."""

    def __init__(self, family: nn.Module, form: Form) -> None:
        super().__init__()
        self.family, self.form = [family], form  # in a list, so that it is no child
        for name, child in family.named_children():
            self.add_module(name, child)

    @property
    def numbers(self) -> int:
        """How many numbers the weights have that are left out."""
        return sum(
            int(weight.numel()) for weight in self.family[0]._parameters.values() if weight is not None
        )


@contextmanager
def leaving_out() -> Iterator[None]:
    """Leave fused experts out of any model that this thread builds meanwhile."""
    thread = threading.get_ident()

    def instead(_: nn.Module, __: str, module: Any) -> Any:
        if threading.get_ident() != thread or not isinstance(module, nn.Module):
            return None
        form = form_of(module)
        return None if form is None else LeftOut(module, form)

    hook = register_module_module_registration_hook(instead)
    try:
        yield
    finally:
        hook.remove()


def numbers_left_out(model: nn.Module) -> int:
    """Return how many numbers a model will have besides those of its own parameters."""
    return sum(module.numbers for module in model.modules() if isinstance(module, LeftOut))
