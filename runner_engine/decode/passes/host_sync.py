"""Detects GPU operations that make the host wait. CUDA graphs must not contain such operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
WAITING = {  # their result, or the size of their result, depends on numbers that only the GPU has
    _ATEN._local_scalar_dense.default,
    _ATEN.bincount.default,
    _ATEN.equal.default,
    _ATEN.is_nonzero.default,
    _ATEN.masked_select.default,
    _ATEN.nonzero.default,
    _ATEN.repeat_interleave.Tensor,
    _ATEN._unique2.default,
    _ATEN.unique_consecutive.default,
    _ATEN.unique_dim.default,
}


class HostSyncError(Exception):
    """Raised for an operation that makes the host wait for the GPU. The message names the operation."""


class ForbidHostSync(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises HostSyncError at the first operation that copies values to the host or between devices."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a torch operation. Raises HostSyncError if the operation waits for the GPU."""
        kwargs = kwargs or {}
        if (
            func in WAITING
            or _is_boolean_mask_indexing(func, args)
            or _is_copy_between_devices(func, args, kwargs)
        ):
            raise HostSyncError(f"{func} waits for the device")
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # in inference mode, an operation made of others arrives whole
                return func.decompose(*args, **kwargs)
        return func(*args, **kwargs)


def _is_boolean_mask_indexing(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operation indexes by a boolean mask.

    The host cannot know the size of the result without waiting.
    """
    if func not in (_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default):
        return False
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])


def _is_copy_between_devices(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation copies a non-scalar tensor from one device to another."""
    if func is _ATEN._to_copy.default:
        wanted = kwargs.get("device")
        return wanted is not None and torch.device(wanted).type != args[0].device.type
    if func is _ATEN.copy_.default:
        return bool(args[0].device.type != args[1].device.type and args[1].dim())
    return False
