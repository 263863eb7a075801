"""Why C refuses a call, as an error."""

from __future__ import annotations

from runner_engine.kernels.shared_numbers import MAX_DIM, MAX_GROUP, Refusal
from runner_engine.render.refusals import REFUSALS


def error_of(refusal: int, function: str) -> Exception:
    """Return what is wrong with a call, from the number that a function of C returned."""
    reason = Refusal(refusal >> 32)
    values = {"at": refusal & 0xFFFFFFFF, "max_group": MAX_GROUP, "max_dim": MAX_DIM}
    message = f"{function}: {REFUSALS[reason.name].format_map(values)}"
    return MemoryError(message) if reason is Refusal.NO_MEMORY else IndexError(message)
