"""LoRA matrices whose output is added to a layer's output. The layer's weights stay unchanged.

A forward hook adds their product to the layer's output, or C code does so in a fused forward
(decode/fused_adapters.py).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CHILD = "lora"  # the name of a layer's matrices among its modules


class AdapterSizes(NamedTuple):
    """The rank, offset in the concatenated ranks, and scaling of each adapter in one layer.

    An adapter with rank 0 skips the layer.
    """

    ranks: tuple[int, ...]
    starts: tuple[int, ...]
    scalings: tuple[float, ...]


class UnmergedMatrices(nn.Module, ABC):
    """Base class for a layer's LoRA matrices, from one or several unmerged adapters."""

    hook: Any = None  # its handle, for removing it

    @property
    @abstractmethod
    def sizes(self) -> AdapterSizes: ...

    @property
    @abstractmethod
    def matrices(self) -> tuple[Tensor, Tensor]:
        """The LoRA matrices A [ranks, inputs] and B [ranks, outputs]."""


class SingleAdapterMatrices(UnmergedMatrices):
    """The LoRA matrices of one unmerged adapter, applied to all tokens.

    The object is a child module of the layer, so that its parameter names equal the keys of a
    `.pth` file.
    """

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
    def sizes(self) -> AdapterSizes:
        return AdapterSizes((self.A.out_features,), (0,), (self.scaling,))

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        return self.A.weight, self.B.weight.t()

    def add_lora_output(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook that returns output + scaling * B(A(x)).

        The product is computed in the dtype of A and B. The result has the dtype of the output.
        """
        like = self.A.weight
        low: Tensor = self.B(self.A(inputs[0].to(like.device, like.dtype)))
        if self.scaling != 1:
            low = low * self.scaling
        return (output + low.to(output.device)).to(output.dtype)


def attach_lora_matrices(layer: nn.Module, a: Tensor, b: Tensor, scaling: float = 1.0) -> None:
    """Attach LoRA matrices to a layer. Their dtype is float32 as in PEFT, or float64 for a float64 layer."""
    weight = next(itertools.chain(layer.parameters(), layer.buffers()))
    device = weight.device
    if (
        device.type == "meta"
    ):  # its weights are in main memory or on disk, and move to this device when needed
        device = torch.device(layer._hf_hook.execution_device)  # type: ignore[union-attr, arg-type]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    own = SingleAdapterMatrices(a, b, scaling, device, dtype).eval()
    layer.add_module(CHILD, own)
    own.hook = layer.register_forward_hook(own.add_lora_output)


def find_unmerged_lora(layer: Any) -> UnmergedMatrices | None:
    """Return the unmerged LoRA matrices of a layer. None if the layer has none."""
    found = getattr(layer, "_modules", {}).get(CHILD)
    return found if isinstance(found, UnmergedMatrices) else None


def has_hooks_besides_adapter(module: nn.Module) -> bool:
    """Whether a module has forward hooks besides the hook of its unmerged adapter."""
    own = find_unmerged_lora(module)
    hooks = {*module._forward_hooks, *module._forward_pre_hooks}
    return bool(hooks - ({own.hook.id} if own is not None else set()))


def detach_lora_matrices(model: nn.Module) -> bool:
    """Detach the unmerged LoRA matrices of all layers, which restores the base model."""
    for layer in list(model.modules()):
        if (own := find_unmerged_lora(layer)) is not None:
            own.hook.remove()
            del layer._modules[CHILD]
    return True
