"""Linear layers and embeddings whose weights are blocks of a .gguf file.

They stay in the mapped file, as a safetensors checkpoint's do; on a CPU the local engine multiplies
the blocks (runner_engine/matmul/blocks.py). models/loading/gguf.py reads them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_engine.models.gguf_types import TYPES, unpacked
from runner_engine.models.grouped import multiply_in_steps, rounded_by_parts

# weights of a layer that is multiplied by torch, which take some 25 bytes each meanwhile
UNPACKED_AT_ONCE = 2**20


class GgufLinear(nn.Linear):
    """A linear layer whose weight, uint8 [outputs, bytes], is a file's blocks."""

    def __init__(
        self,
        like: nn.Linear,
        stored: torch.Tensor,
        kind: str,
        order: torch.Tensor | None,
        has_byte_rows: bool = False,
    ) -> None:
        """like: the layer in whose place it is. order: the rows of the file in the model's order;
        None: they are.

        has_byte_rows: inputs are rounded to 8 bits before they are multiplied.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        # a head that is tied to the embedding has the same parameter
        self.weight = (
            stored if isinstance(stored, nn.Parameter) else nn.Parameter(stored, requires_grad=False)
        )
        self.bias, self.kind, self.order, self.has_byte_rows = like.bias, kind, order, has_byte_rows

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Return the blocks of these outputs."""
        return self.weight[first:last] if self.order is None else self.weight[self.order[first:last]]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Round the rows if that is asked for, and multiply them."""
        return self.multiplied(
            rounded_by_parts(input, TYPES[self.kind].row_part) if self.has_byte_rows else input
        )

    def multiplied(self, input: torch.Tensor) -> torch.Tensor:
        """Unpack some outputs at a time: slow, for places where there are no kernels."""

        def weights(first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
            return unpacked(self.rows(first, last), self.kind, self.in_features).to(dtype)

        return multiply_in_steps(self, weights, input, max(1, UNPACKED_AT_ONCE // self.in_features))


class InOrder(nn.Module):
    """A layer before which the inputs are put in the order of the file's columns."""

    def __init__(self, layer: GgufLinear, order: torch.Tensor) -> None:
        """order: which one of the file's columns each input is."""
        super().__init__()
        self.layer = layer
        self.register_buffer("order", order.argsort(), persistent=False)
        self.order: torch.Tensor
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the layer's outputs."""
        return self.layer(input[..., self.order])  # type: ignore[no-any-return]


class OfDtype(nn.Module):
    """A head in blocks for a model that asks its head's weight for the dtype of what it gets."""

    def __init__(self, layer: GgufLinear, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("weight", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the head's outputs."""
        return self.layer(input)  # type: ignore[no-any-return]


def with_columns(
    like: nn.Linear, stored: torch.Tensor, kind: str, order: torch.Tensor | None, columns: torch.Tensor
) -> nn.Module:
    """Return a layer whose inputs have another order than the file's columns; blocks move where
    whole ones can."""
    block = TYPES[kind].inputs
    starts = columns.view(-1, block)[:, :1] if len(columns) % block == 0 else columns[:0, None]
    moves_blocks = len(starts) and bool((starts % block == 0).all())
    if moves_blocks and bool((columns.view(-1, block) == starts + torch.arange(block)).all()):
        in_blocks = stored.view(stored.shape[0], -1, TYPES[kind].stored_bytes)
        return GgufLinear(like, in_blocks[:, starts[:, 0] // block].flatten(1), kind, order)
    return InOrder(GgufLinear(like, stored, kind, order), columns)


class GgufEmbedding(nn.Embedding):
    """An embedding whose table, uint8 [tokens, bytes], is a file's blocks; a pass unpacks the rows
    of its tokens."""

    makes_rows = True  # a pass in a single call asks for those of its tokens

    def __init__(self, like: nn.Embedding, stored: torch.Tensor, kind: str, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim, self.padding_idx = (
            like.num_embeddings,
            like.embedding_dim,
            None,
        )
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.kind, self.dtype = kind, dtype
        self.factor = getattr(like, "embed_scale", None)  # Gemma's

    def extra_repr(self) -> str:
        """Return what `print(model)` shows of it."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.kind}"

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the rows of these tokens."""
        rows = self.weight[input.reshape(-1)]
        table = (
            unpacked(rows, self.kind, self.embedding_dim)
            .to(self.dtype)
            .view(*input.shape, self.embedding_dim)
        )
        return self.scaled(table)

    def scaled(self, table: torch.Tensor) -> torch.Tensor:
        """Return rows as the model gets them."""
        return table if self.factor is None else table * self.factor.to(self.dtype)


def parameters(model: Any) -> int:
    """Count a model's parameters: those in blocks as the numbers that they stand for."""
    stored = {
        module.weight.data_ptr(): module
        for module in model.modules()
        if isinstance(module, GgufLinear | GgufEmbedding)
    }
    numbers = sum(map(numbers_in_blocks, stored.values()))
    return int(model.num_parameters() - sum(one.weight.numel() for one in stored.values()) + numbers)


def numbers_in_blocks(layer: GgufLinear | GgufEmbedding) -> int:
    """Return how many numbers the blocks of a layer stand for."""
    return int(TYPES[layer.kind].inputs * layer.weight.numel() // TYPES[layer.kind].stored_bytes)
