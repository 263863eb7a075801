"""Blocks of a norm and one part each (Nemotron-H, Mamba-2), joined to layers as other families have
them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from runner_engine.decode.layouts.parts import OF_ATTENTION, NotFusable, names_of_parts
from runner_engine.recurrent import MIXERS

PARTS_OF_BLOCK = {"norm", "mixer"}


class JoinedLayer(nn.Module):
    """A block that mixes tokens, and behind it one with an MLP, if the next block has one."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.add_module("input_layernorm", block.norm)
        self.add_module("self_attn", block.mixer)
        self.blocks = 1  # of the model

    @property
    def has_mlp(self) -> bool:
        """Whether it is complete."""
        return self.blocks > 1

    def take_mlp(self, block: Any) -> None:
        """Take the block behind it."""
        self.add_module("post_attention_layernorm", block.norm)
        self.add_module("mlp", block.mixer)
        self.blocks += 1


def joined(blocks: Iterable[nn.Module]) -> list[Any]:
    """Return the layers of a model, whose blocks may be complete layers already."""
    blocks = list(blocks)
    if any(names_of_parts(block) != PARTS_OF_BLOCK for block in blocks):
        return blocks
    layers: list[JoinedLayer] = []
    for block in blocks:
        if _mixes_tokens(block.mixer):
            layers.append(JoinedLayer(block))
        elif layers and not layers[-1].has_mlp:
            layers[-1].take_mlp(block)
        else:
            raise NotFusable("it has an MLP that is behind no attention")
    return layers


def _mixes_tokens(part: Any) -> bool:
    """Whether a part is attention, or carries a state, and is no MLP."""
    return type(part).__name__ in MIXERS or any(names.all <= names_of_parts(part) for names in OF_ATTENTION)
