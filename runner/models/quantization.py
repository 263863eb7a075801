"""quantization – what was really quantized, read off the loaded model, whichever library did it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.quantization import CHOICES, HOLDERS

if TYPE_CHECKING:
    import torch


def is_quantized(module: torch.nn.Module) -> bool:
    """Whether this is a linear layer whose weights are quantized, by what it is and not by what was asked for."""
    return _is_known(module) or _is_known(module._parameters.get("weight"))


def kind_of(module: torch.nn.Module) -> str:
    """Name what holds the weights: the class of the layer, or of its weight where only that was exchanged."""
    return type(module if _is_known(module) else module._parameters.get("weight")).__name__


def weight_bytes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of parameters and buffers by dtype, tied tensors once, quantization constants included."""
    seen: set[int] = set()
    by_dtype: dict[str, int] = {}
    constants = {choice.constants for choice in CHOICES.values()}

    def add(tensor: Any) -> None:
        if hasattr(tensor, "__tensor_flatten__"):  # a shell, as torchao's: the bytes are those of what it holds
            for inner in tensor.__tensor_flatten__()[0]:
                add(getattr(tensor, inner))
            return
        if tensor is None or not hasattr(tensor, "data_ptr") or tensor.data_ptr() in seen:
            return
        seen.add(tensor.data_ptr())
        name = str(tensor.dtype).removeprefix("torch.")
        by_dtype[name] = by_dtype.get(name, 0) + tensor.numel() * tensor.element_size()

    for parameter in [*model.parameters(), *model.buffers()]:
        add(parameter)
        for of_choice in constants:
            for tensor in of_choice(parameter):
                add(tensor)
    return by_dtype


def _is_known(holder: Any) -> bool:
    return type(holder).__module__.startswith(HOLDERS)
