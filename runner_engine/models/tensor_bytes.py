"""Counts the bytes of tensors, including quantization constants and the tensors inside tensor subclasses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from runner_engine.quantization import CHOICES


def count_tensor_bytes(tensors: Iterable[Any]) -> Counter[str]:
    """Count the bytes of tensors by dtype. Tied tensors count once; quantization constants are
    included.
    """
    seen: set[int] = set()
    by_dtype: Counter[str] = Counter()
    constants = {choice.library.constants for choice in CHOICES.values()}

    def add_tensor(tensor: Any) -> None:
        if hasattr(
            tensor, "__tensor_flatten__"
        ):  # a wrapper, such as torchao's: the inner tensors have the bytes
            for inner in tensor.__tensor_flatten__()[0]:
                add_tensor(getattr(tensor, inner))
        elif hasattr(tensor, "data_ptr") and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            by_dtype[format_dtype(tensor)] += tensor.nbytes

    for held in tensors:
        add_tensor(held)
        for constants_of in constants:
            for tensor in constants_of(held):
                add_tensor(tensor)
    return by_dtype


def format_dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
