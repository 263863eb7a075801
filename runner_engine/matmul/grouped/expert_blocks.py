"""Prepares the experts of JetMoE's blocks for the C kernels, which read the weights where torch has them.

The blocks keep their own code, since only the fused forward pass uses these layers.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_base.notes import note
from runner_engine.experts import UnsortedRouter
from runner_engine.experts.expert_blocks import MATRICES
from runner_engine.kernels.c_interface import Activation
from runner_engine.matmul.grouped.expert_layer import ExpertLayer, PlainExpertWeights, UnsupportedExperts
from runner_engine.matmul.grouped.expert_sources import ExpertReadContext, require_unquantized_parameter
from runner_engine.matmul.grouped.gate_formulas import GateFormula, find_c_formula_for_gate
from runner_engine.matmul.layer_weights import LayerWeights
from runner_engine.models.lora.adapted_parameters import has_adapted_parameters

TRIAL_ROWS = 3
# of the largest number of a trial beside the block's own code
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def read_expert_block(block: Any, context: ExpertReadContext) -> ExpertLayer:
    """Convert a block's experts to the format of the C kernels.

    The block's bias is added to the output of each expert: their weights sum to 1.

    Raises UnsupportedExperts if the kernels do not support the experts, or give other results.
    """
    layers = [getattr(block, name) for name in MATRICES]
    if any(map(has_adapted_parameters, layers)):
        raise UnsupportedExperts(note("adapted_whole_layer"))
    first, second = (require_unquantized_parameter(layer, "weight").detach() for layer in layers)
    bias = require_unquantized_parameter(block, "bias").detach()
    if len({first.dtype, second.dtype, bias.dtype}) > 1:
        raise UnsupportedExperts(note("expert_formats_differ"))
    has_gate = hasattr(block, "activation")
    formula: GateFormula | None = GateFormula(Activation.relu)  # of the trial: a pass has attention there
    if has_gate:
        formula = find_c_formula_for_gate(lambda gate, up: block.activation(gate) * up, block, True)
    if formula is None:
        raise UnsupportedExperts(note("other_gate_formula"))
    weights: list[LayerWeights] = []
    for into, out in zip(first, second, strict=True):
        weights += [PlainExpertWeights(matrix, None) for matrix in into.chunk(1 + has_gate)]
        weights.append(PlainExpertWeights(out, bias))
    layer = ExpertLayer.from_weights(
        weights, formula, has_gate, context.kernels, context.workspace, first.dtype
    )
    _check_results(block, layer, has_gate)
    return layer


def _check_results(block: Any, layer: ExpertLayer, has_gate: bool) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(TRIAL_ROWS, layer.set.hidden, generator=random, dtype=torch.float32).to(layer.dtype)
    with torch.no_grad():
        _, weights, index = UnsortedRouter(block)(rows)
        if has_gate:
            expected = block(rows[None])[0]
        else:
            queries, _, order = block.map(rows[None])
            expected = block.reduce(torch.relu(queries), order)[0]
    found, expected = layer(rows, index, weights).float(), expected.float()
    off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
    if not off <= TOLERANCE[layer.dtype]:
        raise UnsupportedExperts(note("results_off", off=off))
