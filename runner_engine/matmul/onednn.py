"""Multiplies with oneDNN and weights that are packed once.

torch would pack the weights again in every matmul.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from runner_base.notes import Note, note, text_note

ROWS = (
    128  # for which oneDNN chooses the layout; it works for any other number, but is not always the fastest
)
MatmulFunction = Callable[[torch.Tensor], torch.Tensor]


def build_onednn_matmul(weight: torch.Tensor, bias: torch.Tensor | None) -> MatmulFunction:
    with torch.no_grad():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)

    def product(activations: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(activations, packed, bias, "none", [], "")
        return result

    return product


@cache
def find_onednn_problem(dtype: torch.dtype) -> Note | None:
    """Return the reason why oneDNN cannot pack weights of a dtype on this machine, or None if it can.

    The functions are not public in torch and depend on the processor, so each dtype is tried.
    """
    try:
        probe, weight = torch.ones(2, 32, dtype=dtype), torch.eye(32, dtype=dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
        same = (torch.ops.mkldnn._linear_pointwise(probe, packed, None, "none", [], "") == probe).all()
        return None if same else note("packed_product_wrong")
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        if "memory" in str(error):  # memory may be free later, but the result is cached for the whole process
            raise
        return text_note(" ".join(str(error).split())[:160])
