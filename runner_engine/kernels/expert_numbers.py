"""What C and Python both rely on where there are experts: a part of shared_numbers.py, which
compares it with C's."""

from __future__ import annotations

import ctypes
from enum import IntEnum

from runner_engine.kernels.c_fields import fields_of

EXPERT_PHASES, MIXTURE_PHASES = 9, 19  # of a layer of experts, and of a mixture in a fused pass
EXPERT_MATRICES = 3  # gate, up, down
EXPERT_PRODUCT_BYTES = 144  # of what C notes on the rows of an expert
EXPERT_PASS_BYTES = 384  # and on those of a layer


class Scores(IntEnum):
    """What a router's sums become (mixture_structs.h)."""

    softmax_scores = 0
    sigmoid_scores = 1


class ExpertSet(ctypes.Structure):
    """expert_set in expert_structs.h."""

    _fields_ = (
        *fields_of(
            ctypes.c_int64,
            "experts",
            "chosen",
            "hidden",
            "inner",
            "activation",
            "has_gate",
            "needs_workspace",
        ),
        *fields_of(ctypes.c_float, "alpha", "limit", "shift"),
        ("matrices", ctypes.c_void_p),
    )


class Mixture(ctypes.Structure):
    """mixture in mixture_structs.h."""

    _fields_ = (
        ("set", ExpertSet),
        *fields_of(ctypes.c_void_p, "router", "bias", "correction", "counts"),
        *fields_of(ctypes.c_int64, "scores", "rounds_logits", "rounds_weights"),
        *fields_of(ctypes.c_int64, "groups", "chosen_groups", "best_of_group", "normalizes"),
        *fields_of(ctypes.c_float, "epsilon", "scale"),
        *fields_of(ctypes.c_int64, "shared_inner", "shared_count", "shared_activation", "shared_has_gate"),
        *fields_of(ctypes.c_void_p, "shared_scale", "shared_into", "shared_down"),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {"expert_set": ExpertSet, "mixture": Mixture}


def numbers() -> dict[str, int]:
    """Return sizes, and the numbers of enums, by their names in C."""
    sizes = {
        "EXPERT_PHASES": EXPERT_PHASES,
        "EXPERT_MATRICES": EXPERT_MATRICES,
        "MIXTURE_PHASES": MIXTURE_PHASES,
    }
    sizes |= {"sizeof expert_product": EXPERT_PRODUCT_BYTES, "sizeof expert_pass": EXPERT_PASS_BYTES}
    return sizes | {one.name.upper(): int(one) for one in Scores}
