"""The layers of a fused pass whose heads come out of latents, as C reads them
(kernels/latent_structs.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from runner_engine.decode.layouts import LatentLayout, NormLayout
from runner_engine.kernels.shared_numbers import LATENT_PHASES, PHASE_BYTES, FusedNorm, Latent, Matrix
from runner_engine.kv_cache import Heads

MatrixOf = Callable[[Any, int, int], Matrix]  # of a linear layer with so many inputs and outputs
NormOf = Callable[[NormLayout | None, int | None], FusedNorm]


class FusedLatents:
    """Those layers of a model; none in most."""

    def __init__(self, heads: Heads, matrix_of: MatrixOf, norm_of: NormOf) -> None:
        self.heads, self.matrix_of, self.norm_of = heads, matrix_of, norm_of
        self._of_layers: list[LatentLayout] = []
        self._kept: list[Any] = []  # what C has the addresses of

    def widths(self, of: LatentLayout) -> tuple[int, int]:
        """Return how many numbers the two matrices of a token give."""
        return of.query_width or self._queries(of), of.pair_width + of.rotated

    def address(self, of: LatentLayout) -> int:
        """Return where C reads what a layer's heads come out of."""
        count = self.heads.kv_heads
        pairs = self.matrix_of(of.to_pairs, of.pair_width, count * (of.unrotated + of.value))
        queries = None
        if of.query_width:
            queries = self.matrix_of(of.to_queries, of.query_width, self._queries(of))
        made = Latent(
            norm_queries=self.norm_of(of.norm_queries, None),
            norm_pairs=self.norm_of(of.norm_pairs, None),
            query_width=of.query_width,
            pair_width=of.pair_width,
            unrotated=of.unrotated,
            rotated=of.rotated,
            value=of.value,
            to_queries=None if queries is None else ctypes.addressof(queries),
            to_pairs=ctypes.addressof(pairs),
        )
        self._of_layers.append(of)
        self._kept += [pairs, queries, made]
        return ctypes.addressof(made)

    @property
    def widest(self) -> int:
        return max((max(of.query_width, of.pair_width) for of in self._of_layers), default=0)

    def workspace_pieces(self, tokens: int) -> list[int]:
        """Return the bytes of what a pass allocates for its latents, as latent_structs.h does."""
        layers = self._of_layers
        if not layers:
            return []
        widths = (
            max(sum(self.widths(of)) for of in layers),
            max(of.query_width for of in layers),
            max(of.pair_width for of in layers),
            max(self._queries(of) if of.query_width else 0 for of in layers),
            max(self.heads.kv_heads * (of.unrotated + of.value) for of in layers),
        )
        pieces = [tokens * width * self.heads.dtype.itemsize for width in widths]
        return [*pieces, len(layers) * LATENT_PHASES * PHASE_BYTES]

    def _queries(self, of: LatentLayout) -> int:
        """Return how many numbers the queries of a token have."""
        return self.heads.kv_heads * (of.unrotated + of.rotated)
