"""Unmerged LoRA adapters in the fused forward pass: the C kernels add them to matmuls.

C structures: kernels/adapter_structs.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from runner_engine.decode.layouts import NotFusable
from runner_engine.kernels import native
from runner_engine.kernels.adapter_structures import AdaptedTokens, AdapterTile, LowRank
from runner_engine.kernels.c_interface import ADAPTER_PHASES, LANES, PHASE_BYTES, REGISTER_ROWS
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.kernels.state_structures import MIXER_MATRICES
from runner_engine.models.lora import multi_adapter
from runner_engine.models.lora.unmerged import UnmergedMatrices, find_unmerged_lora


class FusedAdapters:
    """The unmerged adapters of a model, stored in C structures for the fused forward pass."""

    def __init__(self, model: Any) -> None:
        # None where all rows have the same adapter, or none
        self.rows = multi_adapter.find_per_token_adapter_selector(model)
        self._most_rank = self._layers = 0
        self._seen = set[nn.Module]()
        self._kept: list[Any] = []  # what C has the addresses of
        self._of_pass: Any = None

    def attach_adapters_to_matrix(self, layer: Any, matrix: Matrix) -> Matrix:
        own = find_unmerged_lora(layer)
        if own is None:
            return matrix
        sizes, (a, b) = own.sizes, own.matrices
        ends = (*sizes.starts, len(a))
        start = (ctypes.c_int64 * len(ends))(*ends)
        scaling = (ctypes.c_float * len(sizes.scalings))(*sizes.scalings)
        made = LowRank(
            native.get_tensor_address(a.detach(), torch.float32, *a.shape),
            native.get_tensor_address(b.detach(), torch.float32, len(b), matrix.outputs),
            ctypes.addressof(start),
            ctypes.addressof(scaling),
        )
        self._kept += [own, start, scaling, made]
        self._seen.add(own)
        self._most_rank = max(self._most_rank, *sizes.ranks)
        adapted = Matrix.from_buffer_copy(matrix)
        adapted.adapters = ctypes.addressof(made)
        return adapted

    def check_adapted_layers_are_fusable(
        self, model: Any, num_layers: int, separate_modules: Iterable[nn.Module]
    ) -> None:
        """Raise NotFusable if an adapter changes a layer that the fused forward pass cannot adapt.

        The C kernels and the separate modules can apply adapters.
        """
        self._layers = num_layers
        seen = self._seen.union(*(module.modules() for module in separate_modules))
        for path, module in model.named_modules():
            if isinstance(module, UnmergedMatrices) and module not in seen:
                raise NotFusable(f"adapters change {path.rpartition('.')[0]}")

    def group_tokens_by_adapter(self, num_tokens: int) -> AdaptedTokens | None:
        """Group the tokens of the current forward pass by adapter.

        Returns None if no token uses an adapter.
        """
        if not self._most_rank:
            return None
        numbers: Sequence[int] = [0] * num_tokens
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

    def compute_workspace_sizes(
        self, adapted_tokens: AdaptedTokens | None, max_input_width: int
    ) -> list[int]:
        if adapted_tokens is None:
            return []
        rows = REGISTER_ROWS * -(-max_input_width // LANES) * LANES
        width = MIXER_MATRICES * self._most_rank
        phases = self._layers * ADAPTER_PHASES * PHASE_BYTES
        return [phases, 4 * adapted_tokens.tokens * width, 4 * torch.get_num_threads() * rows]
