"""The operations of torch that something calls: on tensors without numbers, those that a GPU would
be given."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

NO_KERNEL = {"empty", "empty_like", "new_empty", "_unsafe_view", "detach"}


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the name and the arguments of each operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, Any, Any]] = []
        self.kernels: Counter[str] = Counter()  # without those that only view or make a tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        self.calls.append((name, args, kwargs))
        views = [one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns]
        if not any(views) and name not in NO_KERNEL:
            self.kernels[name] += 1
        return func(*args, **(kwargs or {}))

    def of(self, name: str) -> list[tuple[Any, Any]]:
        """Return the arguments of all calls of operations with a name in which this occurs."""
        return [(args, kwargs) for one, args, kwargs in self.calls if name in one]
