"""ctypes structures and constants for experts.

c_interface.py compares them with the C code.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

from runner_engine.kernels.ctypes_fields import build_same_type_fields

EXPERT_PHASES, MIXTURE_PHASES = 9, 19  # of a layer of experts, and of a mixture in a fused pass
EXPERT_MATRICES = 3  # gate, up, down
EXPERT_PRODUCT_BYTES = 144  # of what C notes on the rows of an expert
EXPERT_PASS_BYTES = 384  # and on those of a layer


class RouterScores(IntEnum):
    """The function that converts a router's logits to scores (mixture_structs.h)."""

    softmax_scores = 0
    sigmoid_scores = 1


class ExpertSet(ctypes.Structure):
    """C structure expert_set in expert_structs.h."""

    _fields_ = (
        *build_same_type_fields(
            ctypes.c_int64,
            "experts",
            "chosen",
            "hidden",
            "inner",
            "activation",
            "has_gate",
            "needs_workspace",
        ),
        *build_same_type_fields(ctypes.c_float, "alpha", "limit", "shift"),
        ("matrices", ctypes.c_void_p),
    )


class Mixture(ctypes.Structure):
    """C structure mixture in mixture_structs.h."""

    _fields_ = (
        ("set", ExpertSet),
        *build_same_type_fields(ctypes.c_void_p, "router", "bias", "correction", "counts"),
        *build_same_type_fields(ctypes.c_int64, "scores", "rounds_logits", "rounds_weights"),
        ("scales_inputs", ctypes.c_int64),
        *build_same_type_fields(ctypes.c_int64, "groups", "chosen_groups", "best_of_group", "normalizes"),
        *build_same_type_fields(ctypes.c_float, "epsilon", "scale"),
        *build_same_type_fields(
            ctypes.c_int64, "shared_inner", "shared_count", "shared_activation", "shared_has_gate"
        ),
        *build_same_type_fields(ctypes.c_void_p, "shared_scale", "shared_into", "shared_down"),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {"expert_set": ExpertSet, "mixture": Mixture}


def list_c_constants_for_experts() -> dict[str, int]:
    """Return the structure sizes and enum values for experts, by C name."""
    sizes = {
        "EXPERT_PHASES": EXPERT_PHASES,
        "EXPERT_MATRICES": EXPERT_MATRICES,
        "MIXTURE_PHASES": MIXTURE_PHASES,
    }
    sizes |= {"sizeof expert_product": EXPERT_PRODUCT_BYTES, "sizeof expert_pass": EXPERT_PASS_BYTES}
    return sizes | {one.name.upper(): int(one) for one in RouterScores}
