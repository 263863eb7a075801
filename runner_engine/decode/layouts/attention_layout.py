"""Data structures that describe an attention layer for the C kernels.

attention.py and latents.py fill them from test runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner_engine.decode.layouts.mixtures import MixtureLayout
from runner_engine.decode.layouts.norms import NormLayout
from runner_engine.decode.layouts.query_scales import QueryScale
from runner_engine.decode.layouts.rotations import Rotation


@dataclass(frozen=True)
class LatentLayout:
    """Multi-head latent attention: a latent for keys and values, and an optional latent for queries."""

    norm_queries: NormLayout | None
    to_queries: Any  # None: queries are computed at once
    norm_pairs: NormLayout
    to_pairs: Any
    unrotated: int  # numbers of a head, of queries and keys the first ones
    rotated: int  # the last ones, which all heads of a key have in common
    value: int

    @property
    def query_width(self) -> int:
        """Size of the query latent. 0 if the layer has none."""
        return 0 if self.norm_queries is None else self.norm_queries.weight.numel()

    @property
    def pair_width(self) -> int:
        return self.norm_pairs.weight.numel()


@dataclass(frozen=True)
class HeadShapeLayout:
    """The shape of a layer's heads where layers differ in it, and the norms of these heads."""

    kv_heads: int
    dim: int
    reads_earlier: bool  # no keys and values of its own
    values_are_keys: bool  # before their norms
    norm_queries: NormLayout
    norm_keys: NormLayout | None
    norm_values: NormLayout | None


@dataclass(frozen=True)
class AttentionLayout:
    """Projections, norms, RoPE, scales, logit caps and sinks of an attention layer."""

    # queries, keys and values, or one layer for all, or what they come out of
    into: tuple[nn.Module, ...]
    out: nn.Module | None  # None: experts
    scale: float
    cap: float
    sinks: torch.Tensor | None
    rotation: Rotation | None
    norms: tuple[nn.Module, nn.Module] | None = None  # of queries and of keys
    norms_all_heads: bool = False  # together, and not each head
    norms_rotated: bool = False  # heads that have been rotated
    query_scale: QueryScale | None = None
    has_gates: bool = False  # behind each query, of what it finds
    has_heads_together: bool = False  # a head's query, key and value stand side by side
    key_scale: float = 1.0  # what keys are multiplied by
    latent: LatentLayout | None = None  # what heads come out of
    shape: HeadShapeLayout | None = None
    # compute queries and read what these find; `into` has the keys and values that they share
    experts: MixtureLayout | None = None
