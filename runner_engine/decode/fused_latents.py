"""Multi-head latent attention (MLA) layers in the fused forward pass.

C structures: kernels/latent_structs.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from runner_engine.decode.layouts import LatentLayout, NormLayout
from runner_engine.kernels.c_interface import LATENT_PHASES, PHASE_BYTES, Latent
from runner_engine.kernels.matrix_structures import FusedNorm, Matrix
from runner_engine.kv_cache import KvCacheSpec

MatrixOf = Callable[[Any, int, int], Matrix]  # of a linear layer with so many inputs and outputs
NormOf = Callable[[NormLayout | None, int | None], FusedNorm]


class FusedLatents:
    """The latent attention layers of a model, stored in C structures for the fused forward pass."""

    def __init__(self, kv_spec: KvCacheSpec, build_matrix: MatrixOf, build_norm: NormOf) -> None:
        self.heads, self.matrix_of, self.norm_of = kv_spec, build_matrix, build_norm
        self._of_layers: list[LatentLayout] = []
        self._kept: list[Any] = []  # what C has the addresses of

    def output_widths(self, layout: LatentLayout) -> tuple[int, int]:
        return layout.query_width or self._query_width(layout), layout.pair_width + layout.rotated

    def struct_address(self, layout: LatentLayout) -> int:
        """Build the C structure of a latent attention layer and return its memory address."""
        count = self.heads.kv_heads
        pairs = self.matrix_of(layout.to_pairs, layout.pair_width, count * (layout.unrotated + layout.value))
        queries = None
        if layout.query_width:
            queries = self.matrix_of(layout.to_queries, layout.query_width, self._query_width(layout))
        made = Latent(
            norm_queries=self.norm_of(layout.norm_queries, None),
            norm_pairs=self.norm_of(layout.norm_pairs, None),
            query_width=layout.query_width,
            pair_width=layout.pair_width,
            unrotated=layout.unrotated,
            rotated=layout.rotated,
            value=layout.value,
            to_queries=None if queries is None else ctypes.addressof(queries),
            to_pairs=ctypes.addressof(pairs),
        )
        self._of_layers.append(layout)
        self._kept += [pairs, queries, made]
        return ctypes.addressof(made)

    @property
    def max_inputs(self) -> int:
        return max((max(of.query_width, of.pair_width) for of in self._of_layers), default=0)

    def compute_workspace_sizes(self, num_tokens: int) -> list[int]:
        """Return the size in bytes of each workspace buffer of latent attention (see latent_structs.h)."""
        layers = self._of_layers
        if not layers:
            return []
        widths = (
            max(sum(self.output_widths(of)) for of in layers),
            max(of.query_width for of in layers),
            max(of.pair_width for of in layers),
            max(self._query_width(of) if of.query_width else 0 for of in layers),
            max(self.heads.kv_heads * (of.unrotated + of.value) for of in layers),
        )
        pieces = [num_tokens * width * self.heads.dtype.itemsize for width in widths]
        return [*pieces, len(layers) * LATENT_PHASES * PHASE_BYTES]

    def _query_width(self, layout: LatentLayout) -> int:
        return self.heads.kv_heads * (layout.unrotated + layout.rotated)
