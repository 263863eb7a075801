"""An adapter's matrices beside a layer, which stays the model's own: what the layer computes is added
to by a hook, or in C where a pass is a single call (decode/fused_adapters.py).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CHILD = "lora"  # the name of a layer's matrices among its modules


class Sizes(NamedTuple):
    """Of one layer, by adapter: the rank (0: it leaves the layer alone), where its matrices begin,
    and what their product is multiplied by."""

    ranks: tuple[int, ...]
    starts: tuple[int, ...]
    scalings: tuple[float, ...]


class Beside(nn.Module, ABC):
    """The matrices of one adapter or of several beside a layer."""

    hook: Any = None  # its handle, for removing it

    @property
    @abstractmethod
    def sizes(self) -> Sizes:
        """Return the ranks of the adapters."""

    @property
    @abstractmethod
    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return A [all ranks, inputs] and B [all ranks, outputs]."""


class LowRank(Beside):
    """The matrices of one adapter beside a layer, for all rows. As the layer's child they have the
    names of a `.pth` file's keys."""

    def __init__(
        self, a: Tensor, b: Tensor, scaling: float, device: torch.device, dtype: torch.dtype
    ) -> None:
        """a: [rank, inputs]; b: [outputs, rank]."""
        super().__init__()
        self.A = nn.Linear(a.shape[1], a.shape[0], bias=False, device="meta")
        self.B = nn.Linear(b.shape[1], b.shape[0], bias=False, device="meta")
        # B lies as C reads it: a rank's numbers side by side
        matrices = a.to(device, dtype), b.to(device, dtype).t().contiguous().t()
        for linear, weight in zip((self.A, self.B), matrices, strict=True):
            linear.weight = nn.Parameter(weight, requires_grad=False)
        self.scaling = scaling

    @property
    def sizes(self) -> Sizes:
        """Return the rank of the adapter."""
        return Sizes((self.A.out_features,), (0,), (self.scaling,))

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return A and B, each with a row for each rank."""
        return self.A.weight, self.B.weight.t()

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return output + scaling B(A(x)), in the precision of A and B and then in that of the
        output."""
        like = self.A.weight
        low: Tensor = self.B(self.A(inputs[0].to(like.device, like.dtype)))
        if self.scaling != 1:
            low = low * self.scaling
        return (output + low.to(output.device)).to(output.dtype)


def attach(layer: nn.Module, a: Tensor, b: Tensor, scaling: float = 1.0) -> None:
    """Put an adapter's matrices beside a layer, in float32 as PEFT does, or in float64 on a float64
    base."""
    weight = next(itertools.chain(layer.parameters(), layer.buffers()))
    device = weight.device
    if (
        device.type == "meta"
    ):  # its weights are in main memory or on disk, and move to this device when needed
        device = torch.device(layer._hf_hook.execution_device)  # type: ignore[union-attr, arg-type]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    own = LowRank(a, b, scaling, device, dtype).eval()
    layer.add_module(CHILD, own)
    own.hook = layer.register_forward_hook(own.add)


def matrices_beside(layer: Any) -> Beside | None:
    """Return the matrices beside a layer; None without such."""
    found = getattr(layer, "_modules", {}).get(CHILD)
    return found if isinstance(found, Beside) else None


def has_other_hooks(module: nn.Module) -> bool:
    """Whether anything hooks into a module but the matrices beside it."""
    own = matrices_beside(module)
    hooks = {*module._forward_hooks, *module._forward_pre_hooks}
    return bool(hooks - ({own.hook.id} if own is not None else set()))


def remove(model: nn.Module) -> bool:
    """Remove the matrices beside all layers; the base is as before."""
    for layer in list(model.modules()):
        if (own := matrices_beside(layer)) is not None:
            own.hook.remove()
            del layer._modules[CHILD]
    return True
