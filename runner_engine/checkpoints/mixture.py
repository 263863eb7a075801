"""How many of a mixture's parameters each token uses, by config.json and the headers of its
weights; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner_engine.checkpoints.linear_layers import IN_A_BLOCK, part_of
from runner_engine.checkpoints.own_head import without_head
from runner_engine.checkpoints.resolve import ModelFiles
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.quantization.base import Format

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
class Mixture:
    """A model of whose experts each token uses a few."""

    experts: int
    used: int  # by each token, in each layer that has them
    parameters: int
    routed: int  # of these, the parameters of experts among which is chosen
    in_blocks: int  # of these, the parameters in blocks

    @property
    def active(self) -> int:
        """The parameters that a token goes through, the embedding counted as others do."""
        return self.parameters - self.routed + self.routed * self.used // self.experts

    def touched(self, rows: float) -> float:
        """Return the share of experts that so many tokens use together, if each is chosen equally
        often."""
        unused: float = (1 - self.used / self.experts) ** rows
        return 1 - unused

    @property
    def routed_share(self) -> float:
        """The share of the parameters in blocks that experts have."""
        return self.routed / max(self.in_blocks, 1)

    def __str__(self) -> str:
        return f"{self.used} of {self.experts} · {short(self.active)} of {short(self.parameters)} active"


def mixture_of(
    settings: Mapping[str, Any], tensors: Iterable[Tensor], stored: Format | None = None
) -> Mixture | None:
    """Return what a model's settings and the headers of its weights say; None if it is no
    mixture."""
    experts, used = (_first(settings, keys) for keys in (COUNTS, USED))
    if experts < 2 or not used:
        return None
    total = of_output = routed = in_blocks = 0
    has_embedding = False
    for tensor in tensors:
        part, count = part_of(tensor), numbers_of(tensor, stored)
        has_embedding |= part == "embedding"
        of_output += count * (part == "head")
        total += count
        if IN_A_BLOCK.search(tensor.name):
            in_blocks += count
            is_fused = len(tensor.shape) == 3 and FUSED.search(tensor.name)
            routed += count * bool(is_fused or ROUTED.search(tensor.name))
    if settings.get("tie_word_embeddings") and has_embedding:
        total -= of_output  # a copy of the embedding
    return Mixture(experts, min(used, experts), total, routed, in_blocks) if routed else None


def mixture_in(files: ModelFiles) -> Mixture | None:
    """Return what a job's files say of their model's experts, without those of its own head; None if
    it has none."""
    tensors = without_head(files, files.tensors)
    return mixture_of(files.text_settings, tensors, files.stored)


def numbers_of(tensor: Tensor, stored: Format | None) -> int:
    """Return how many numbers a tensor stands for: of a quantized layer, those that its codes
    do."""
    if stored is None or tensor.dtype not in CODES:
        return (
            tensor.params
            if stored is None or tensor.name.endswith((".weight", "_proj", ".bias", "_bias"))
            else 0
        )
    is_fused = len(tensor.shape) == 3 and tensor.name.endswith("_proj")  # of all experts of a layer
    is_codes = is_fused or tensor.name.endswith((*stored.config.tensors.codes, ".weight"))
    return stored.numbers(tensor.nbytes, tensor.dtype) if is_codes else 0


def short(count: float) -> str:
    """Return a number of parameters as models are named by them: 30.5B."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            return f"{count / unit:.1f}{letter}"
    return f"{count:.0f}"


def _first(settings: Mapping[str, Any], keys: Iterable[str]) -> int:
    value = next((settings[key] for key in keys if settings.get(key)), 0)
    if isinstance(value, list):
        value = max(value)
    return int(value) if isinstance(value, int) else 0
