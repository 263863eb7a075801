"""Converts the error codes that C kernels return to Python exceptions."""

from __future__ import annotations

from runner_engine.kernels.c_interface import MAX_DIM, MAX_GROUP, Refusal
from runner_engine.render.refusals import REFUSALS


def build_kernel_refusal_error(refusal_code: int, function_name: str) -> Exception:
    reason = Refusal(refusal_code >> 32)
    values = {"at": refusal_code & 0xFFFFFFFF, "max_group": MAX_GROUP, "max_dim": MAX_DIM}
    message = f"{function_name}: {REFUSALS[reason.name].format_map(values)}"
    return MemoryError(message) if reason is Refusal.NO_MEMORY else IndexError(message)
