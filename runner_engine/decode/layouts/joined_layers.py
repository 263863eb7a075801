"""Joins separate mixer and MLP blocks of a model into layers (Nemotron-H, Mamba-2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from runner_engine.decode.layouts.parts import OF_ATTENTION, NotFusable, computing_child_names
from runner_engine.recurrent import MIXERS

PARTS_OF_BLOCK = {"norm", "mixer"}


class JoinedLayer(nn.Module):
    """Layer made of an attention or recurrent block and the MLP block after it, if any."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.add_module("input_layernorm", block.norm)
        self.add_module("self_attn", block.mixer)
        self.blocks = 1  # of the model

    @property
    def has_mlp(self) -> bool:
        return self.blocks > 1

    def add_norm_and_mlp(self, block: Any) -> None:
        self.add_module("post_attention_layernorm", block.norm)
        self.add_module("mlp", block.mixer)
        self.blocks += 1


def join_blocks_into_layers(blocks: Iterable[nn.Module]) -> list[Any]:
    """Return a model's layers, and join separate attention, mixer and MLP blocks into layers.

    Complete layers are returned unchanged.
    """
    blocks = list(blocks)
    if any(computing_child_names(block) != PARTS_OF_BLOCK for block in blocks):
        return blocks
    layers: list[JoinedLayer] = []
    for block in blocks:
        if _is_token_mixer(block.mixer):
            layers.append(JoinedLayer(block))
        elif layers and not layers[-1].has_mlp:
            layers[-1].add_norm_and_mlp(block)
        else:
            raise NotFusable("an MLP block does not follow an attention block")
    return layers


def _is_token_mixer(module: Any) -> bool:
    """Whether a module is attention or a recurrent mixer, but no MLP."""
    return type(module).__name__ in MIXERS or any(
        names.all_names <= computing_child_names(module) for names in OF_ATTENTION
    )
