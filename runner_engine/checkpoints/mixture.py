"""Counts the total and active parameters of a mixture of experts, from config.json and weight
headers. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner_engine.checkpoints.linear_layers import IN_A_BLOCK, classify_tensor
from runner_engine.checkpoints.mtp_head import exclude_mtp_head_tensors
from runner_engine.checkpoints.resolved_model import ModelFiles
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.quantization.base import StoredFormat

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
USED = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_k",
)
ROUTED = re.compile(r"(^|\.)experts\.|_exps\.")  # not shared_experts, which all tokens use
# Granite's and JetMoE's: of experts if it has three dimensions
FUSED = re.compile(r"\.(input|output)_linear\.weight$")
CODES = ("U8", "I8", "I32", "F8_E4M3")  # stored types of which a number takes less than an element


@dataclass(frozen=True)
class MixtureSize:
    """Total and active parameter counts of a mixture of experts."""

    experts: int
    used: int  # by each token, in each layer that has them
    parameters: int
    routed: int  # of these, the parameters of experts among which is chosen
    in_blocks: int  # of these, the parameters in blocks

    @property
    def active_parameters(self) -> int:
        """Number of parameters that process one token, including the embedding."""
        return self.parameters - self.routed + self.routed * self.used // self.experts

    def estimate_used_expert_fraction(self, num_tokens: float) -> float:
        """Return the expected fraction of experts that `num_tokens` tokens use.

        All experts are assumed to be equally likely.
        """
        unused: float = (1 - self.used / self.experts) ** num_tokens
        return 1 - unused

    @property
    def routed_share(self) -> float:
        """Fraction of the decoder block parameters that belong to routed experts."""
        return self.routed / max(self.in_blocks, 1)

    def __str__(self) -> str:
        return (
            f"{self.used} of {self.experts} · {format_parameter_count(self.active_parameters)} "
            f"of {format_parameter_count(self.parameters)} active"
        )


def compute_expert_mixture_size(
    config: Mapping[str, Any], tensors: Iterable[TensorLocation], stored_format: StoredFormat | None = None
) -> MixtureSize | None:
    """Count a mixture's parameters from its config and weight headers. None if the model has no experts."""
    experts, used = (_read_first_configured_number(config, keys) for keys in (COUNTS, USED))
    if experts < 2 or not used:
        return None
    total = of_output = routed = in_blocks = 0
    has_embedding = False
    for tensor in tensors:
        part, count = classify_tensor(tensor), count_encoded_weights(tensor, stored_format)
        has_embedding |= part == "embedding"
        of_output += count * (part == "head")
        total += count
        if IN_A_BLOCK.search(tensor.name):
            in_blocks += count
            is_fused = len(tensor.shape) == 3 and FUSED.search(tensor.name)
            routed += count * bool(is_fused or ROUTED.search(tensor.name))
    if config.get("tie_word_embeddings") and has_embedding:
        total -= of_output  # a copy of the embedding
    return MixtureSize(experts, min(used, experts), total, routed, in_blocks) if routed else None


def compute_checkpoint_expert_mixture_size(files: ModelFiles) -> MixtureSize | None:
    """Count a mixture's parameters, excluding the MTP head. None if the model has no experts."""
    tensors = exclude_mtp_head_tensors(files, files.tensors)
    return compute_expert_mixture_size(files.text_settings, tensors, files.stored_format)


def count_encoded_weights(tensor: TensorLocation, stored_format: StoredFormat | None) -> int:
    if stored_format is None or tensor.dtype not in CODES:
        return (
            tensor.num_elements
            if stored_format is None or tensor.name.endswith((".weight", "_proj", ".bias", "_bias"))
            else 0
        )
    is_fused = len(tensor.shape) == 3 and tensor.name.endswith("_proj")  # of all experts of a layer
    is_codes = is_fused or tensor.name.endswith((*stored_format.config.tensors.codes, ".weight"))
    return stored_format.count_weights(tensor.nbytes, tensor.dtype) if is_codes else 0


def format_parameter_count(count: float) -> str:
    """Format a number of parameters in the usual short form, such as 30.5B."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            return f"{count / unit:.1f}{letter}"
    return f"{count:.0f}"


def _read_first_configured_number(config: Mapping[str, Any], keys: Iterable[str]) -> int:
    value = next((config[key] for key in keys if config.get(key)), 0)
    if isinstance(value, list):
        value = max(value)
    return int(value) if isinstance(value, int) else 0
