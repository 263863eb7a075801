"""The bytes of tensors in memory, as libraries hold them: inner tensors of wrappers, and
quantization constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from runner_engine.quantization import CHOICES


def held_bytes(tensors: Iterable[Any]) -> Counter[str]:
    """Return the bytes of parameters and buffers by dtype; tied tensors once, quantization
    constants included."""
    seen: set[int] = set()
    by_dtype: Counter[str] = Counter()
    constants = {choice.library.constants for choice in CHOICES.values()}

    def add(tensor: Any) -> None:
        if hasattr(
            tensor, "__tensor_flatten__"
        ):  # a wrapper, such as torchao's: the inner tensors have the bytes
            for inner in tensor.__tensor_flatten__()[0]:
                add(getattr(tensor, inner))
        elif hasattr(tensor, "data_ptr") and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            by_dtype[dtype_name(tensor)] += tensor.nbytes

    for held in tensors:
        add(held)
        for constants_of in constants:
            for tensor in constants_of(held):
                add(tensor)
    return by_dtype


def dtype_name(tensor: Tensor) -> str:
    """Return a dtype as it is shown: bfloat16."""
    return str(tensor.dtype).removeprefix("torch.")
