"""Replaces the fused experts of a mixture by separate linear layers.

transformers fuses the experts of a layer into three-dimensional parameters, which no library
quantizes. Separated, each matrix is a linear layer like any other, under its usual name in
checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner_base.lazy_imports import create_lazy_getattr

if TYPE_CHECKING:
    from runner_engine.experts.expert_blocks import UnsortedRouter as UnsortedRouter
    from runner_engine.experts.expert_blocks import is_expert_block as is_expert_block
    from runner_engine.experts.expert_format import ExpertFormat as ExpertFormat
    from runner_engine.experts.expert_format import detect_expert_format as detect_expert_format
    from runner_engine.experts.expert_format import join_gate_and_up as join_gate_and_up
    from runner_engine.experts.expert_format import select_expert_matrix as select_expert_matrix
    from runner_engine.experts.expert_usage import ExpertUsageCounter as ExpertUsageCounter
    from runner_engine.experts.omitted_experts import OmittedExperts as OmittedExperts
    from runner_engine.experts.omitted_experts import count_omitted_weights as count_omitted_weights
    from runner_engine.experts.omitted_experts import (
        omit_experts_during_model_build as omit_experts_during_model_build,
    )
    from runner_engine.experts.separate_experts import Expert as Expert
    from runner_engine.experts.separate_experts import SeparateExperts as SeparateExperts
    from runner_engine.experts.separate_experts import build_separate_experts as build_separate_experts
    from runner_engine.experts.separate_experts import separate_all_experts as separate_all_experts
    from runner_engine.experts.separate_experts import (
        takes_rows_sorted_by_expert as takes_rows_sorted_by_expert,
    )

PLACES = {
    # a layer's experts
    "SeparateExperts": "separate_experts",  # replaces a family's module of fused experts; each expert is a child
    "Expert": "separate_experts",  # one expert: gate_proj unless its family has none, up_proj, down_proj
    "build_separate_experts": "separate_experts",  # builds the replacement of a module of fused experts
    "separate_all_experts": "separate_experts",  # replaces all modules of fused experts in a model
    "ExpertUsageCounter": "expert_usage",  # counts how often each expert is chosen
    # while a model is read
    "omit_experts_during_model_build": "omitted_experts",  # build models without fused experts
    "OmittedExperts": "omitted_experts",  # placeholder for omitted experts
    "count_omitted_weights": "omitted_experts",  # number of weights that a model lacks without its experts
    # how a family fuses them
    "ExpertFormat": "expert_format",  # transposed, interleaved, with a gate, with biases …
    "detect_expert_format": "expert_format",  # the format of a module's fused experts, or None
    "takes_rows_sorted_by_expert": "separate_experts",  # whether experts get rows in their order, as Llama 4's
    "select_expert_matrix": "expert_format",  # a matrix of one expert, out of a fused parameter
    "is_expert_block": "expert_blocks",  # a router and the matrices of experts as JetMoE has them
    "UnsortedRouter": "expert_blocks",  # the router of such a block, with the choice of each token
    "join_gate_and_up": "expert_format",  # gate and up activations in the order that the family's gate function takes
}

__all__ = [*PLACES]

__getattr__ = create_lazy_getattr(__name__, PLACES)
