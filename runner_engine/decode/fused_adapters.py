"""Adapters beside a model's layers, as C adds them to the products of a fused pass
(kernels/adapter_structs.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from runner_engine.decode.layouts import NotFusable
from runner_engine.kernels import native
from runner_engine.kernels.adapter_numbers import AdaptedTokens, AdapterTile, LowRank
from runner_engine.kernels.shared_numbers import ADAPTER_PHASES, LANES, PHASE_BYTES, REGISTER_ROWS, Matrix
from runner_engine.kernels.state_numbers import MIXER_MATRICES
from runner_engine.models.lora import several
from runner_engine.models.lora.beside import Beside, matrices_beside


class FusedAdapters:
    """The adapters of a model; none in most."""

    def __init__(self, model: Any) -> None:
        self.rows = several.of_model(model)  # None where all rows have the same adapter, or none
        self._most_rank = self._layers = 0
        self._seen = set[nn.Module]()
        self._kept: list[Any] = []  # what C has the addresses of
        self._of_pass: Any = None

    def beside(self, layer: Any, matrix: Matrix) -> Matrix:
        """Return a layer's matrix, with what adapters add to it."""
        own = matrices_beside(layer)
        if own is None:
            return matrix
        sizes, (a, b) = own.sizes, own.matrices
        ends = (*sizes.starts, len(a))
        start = (ctypes.c_int64 * len(ends))(*ends)
        scaling = (ctypes.c_float * len(sizes.scalings))(*sizes.scalings)
        made = LowRank(
            native.pointer(a.detach(), torch.float32, *a.shape),
            native.pointer(b.detach(), torch.float32, len(b), matrix.outputs),
            ctypes.addressof(start),
            ctypes.addressof(scaling),
        )
        self._kept += [own, start, scaling, made]
        self._seen.add(own)
        self._most_rank = max(self._most_rank, *sizes.ranks)
        adapted = Matrix.from_buffer_copy(matrix)
        adapted.adapters = ctypes.addressof(made)
        return adapted

    def check_seen(self, model: Any, layers: int, apart: Iterable[nn.Module]) -> None:
        """Reject a model of so many layers with adapters beside some that neither C nor a module
        computes."""
        self._layers = layers
        seen = self._seen.union(*(module.modules() for module in apart))
        for path, module in model.named_modules():
            if isinstance(module, Beside) and module not in seen:
                raise NotFusable(f"adapters change {path.rpartition('.')[0]}")

    def of_pass(self, count: int) -> AdaptedTokens | None:
        """Return which of the tokens of the pass that runs have which adapter; None where none has
        one."""
        if not self._most_rank:
            return None
        numbers: Sequence[int] = [0] * count
        of_base = 1
        if self.rows is not None:
            if self.rows.of_tokens is None:
                return None
            numbers, of_base = self.rows.of_tokens.numbers, len(self.rows.names)
        tokens = [at for at, number in enumerate(numbers) if number != of_base]
        tokens.sort(key=numbers.__getitem__)
        tiles, first = [], 0
        for number, some in groupby(tokens, key=numbers.__getitem__):
            last = first + len([*some])
            for at in range(first, last, REGISTER_ROWS):
                tiles.append(AdapterTile(number, at, min(REGISTER_ROWS, last - at)))
            first = last
        of_c = (ctypes.c_int32 * len(tokens))(*tokens), (AdapterTile * len(tiles))(*tiles)
        self._of_pass = of_c
        return AdaptedTokens(
            ctypes.addressof(of_c[0]),
            len(tokens),
            ctypes.addressof(of_c[1]),
            len(tiles),
            of_base,
            self._most_rank,
        )

    def workspace_pieces(self, of_pass: AdaptedTokens | None, widest: int) -> list[int]:
        """Return the bytes of what a pass allocates for them; widest: inputs of its matrices."""
        if of_pass is None:
            return []
        rows = REGISTER_ROWS * -(-widest // LANES) * LANES
        width = MIXER_MATRICES * self._most_rank
        phases = self._layers * ADAPTER_PHASES * PHASE_BYTES
        return [phases, 4 * of_pass.tokens * width, 4 * torch.get_num_threads() * rows]
