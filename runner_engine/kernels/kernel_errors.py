"""Converts C kernels' refusal codes to Python errors."""

from __future__ import annotations

from runner_engine.kernels.c_interface import MAX_DIM, MAX_GROUP, Refusal
from runner_engine.render.refusals import REFUSALS


def build_refusal_error(refusal: int, function: str) -> Exception:
    """Return the error for a C function's refusal code."""
    reason = Refusal(refusal >> 32)
    values = {"at": refusal & 0xFFFFFFFF, "max_group": MAX_GROUP, "max_dim": MAX_DIM}
    message = f"{function}: {REFUSALS[reason.name].format_map(values)}"
    return MemoryError(message) if reason is Refusal.NO_MEMORY else IndexError(message)
