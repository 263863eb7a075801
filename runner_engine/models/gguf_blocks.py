"""Linear layers and embeddings whose weights are quantized blocks of a .gguf file.

The blocks stay in the memory-mapped file, like a safetensors checkpoint's tensors. On a CPU the
local engine multiplies them (runner_engine/matmul/blocks.py). models/loading/gguf.py reads them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_engine.models.gguf_types import TYPES, dequantize_blocks
from runner_engine.models.grouped_linear import dequantize_and_multiply_in_chunks, round_activations_to_int8

# weights of a layer that is multiplied by torch, which take some 25 bytes each meanwhile
UNPACKED_AT_ONCE = 2**20


class GgufLinear(nn.Linear):
    """A linear layer whose weight stays quantized in .gguf blocks, stored as uint8 [outputs, bytes]."""

    def __init__(
        self,
        original: nn.Linear,
        blocks: torch.Tensor,
        type_name: str,
        output_order: torch.Tensor | None,
        has_byte_rows: bool = False,
    ) -> None:
        """Replace the layer `original`. `output_order` is the row index of each output in the file;
        None keeps the order.

        has_byte_rows: activations are rounded to 8 bits before the matmul.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = original.in_features, original.out_features
        # a head that is tied to the embedding has the same parameter
        self.weight = (
            blocks if isinstance(blocks, nn.Parameter) else nn.Parameter(blocks, requires_grad=False)
        )
        self.bias, self.kind, self.order, self.has_byte_rows = (
            original.bias,
            type_name,
            output_order,
            has_byte_rows,
        )

    def get_weight_blocks(self, first_output: int, last_output: int) -> torch.Tensor:
        return (
            self.weight[first_output:last_output]
            if self.order is None
            else self.weight[self.order[first_output:last_output]]
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.multiply_dequantized(
            round_activations_to_int8(input, TYPES[self.kind].activation_group)
            if self.has_byte_rows
            else input
        )

    def multiply_dequantized(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply the input by the weights, dequantizing a few outputs at a time. A slow fallback
        without C kernels.
        """

        def dequantize_range(first_output: int, last_output: int, dtype: torch.dtype) -> torch.Tensor:
            return dequantize_blocks(
                self.get_weight_blocks(first_output, last_output), self.kind, self.in_features
            ).to(dtype)

        return dequantize_and_multiply_in_chunks(
            self, dequantize_range, input, max(1, UNPACKED_AT_ONCE // self.in_features)
        )


class InputReorderedLinear(nn.Module):
    """A linear layer that reorders its inputs to match the column order of its weight in the .gguf file."""

    def __init__(self, layer: GgufLinear, column_order: torch.Tensor) -> None:
        """Wrap `layer`. `column_order` is the column index of each input in the file."""
        super().__init__()
        self.layer = layer
        self.register_buffer("order", column_order.argsort(), persistent=False)
        self.order: torch.Tensor
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.layer(input[..., self.order])  # type: ignore[no-any-return]


class LinearWithDtype(nn.Module):
    """Wraps the lm_head of a .gguf file and gives its weight a dtype.

    Some models read `lm_head.weight.dtype` to choose the input dtype.
    """

    def __init__(self, layer: GgufLinear, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("weight", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.layer(input)  # type: ignore[no-any-return]


def build_linear_with_reordered_inputs(
    original: nn.Linear,
    blocks: torch.Tensor,
    type_name: str,
    output_order: torch.Tensor | None,
    column_order: torch.Tensor,
) -> nn.Module:
    """Build a linear layer whose inputs are ordered differently from the weight's columns in the .gguf file.

    The quantized blocks are moved if whole blocks can be. Otherwise the layer reorders its inputs
    in each forward pass.
    """
    block = TYPES[type_name].inputs
    starts = column_order.view(-1, block)[:, :1] if len(column_order) % block == 0 else column_order[:0, None]
    moves_blocks = len(starts) and bool((starts % block == 0).all())
    if moves_blocks and bool((column_order.view(-1, block) == starts + torch.arange(block)).all()):
        in_blocks = blocks.view(blocks.shape[0], -1, TYPES[type_name].stored_bytes)
        return GgufLinear(original, in_blocks[:, starts[:, 0] // block].flatten(1), type_name, output_order)
    return InputReorderedLinear(GgufLinear(original, blocks, type_name, output_order), column_order)


class GgufEmbedding(nn.Embedding):
    """An embedding whose table stays quantized in .gguf blocks, stored as uint8 [tokens, bytes].

    A forward pass dequantizes only the entries of its tokens.
    """

    makes_rows = True  # a pass in a single call asks for those of its tokens

    def __init__(
        self, original: nn.Embedding, blocks: torch.Tensor, type_name: str, dtype: torch.dtype
    ) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim, self.padding_idx = (
            original.num_embeddings,
            original.embedding_dim,
            None,
        )
        self.weight = nn.Parameter(blocks, requires_grad=False)
        self.kind, self.dtype = type_name, dtype
        self.factor = getattr(original, "embed_scale", None)  # Gemma's

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.kind}"

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = self.weight[input.reshape(-1)]
        table = (
            dequantize_blocks(rows, self.kind, self.embedding_dim)
            .to(self.dtype)
            .view(*input.shape, self.embedding_dim)
        )
        return self.scale_embeddings(table)

    def scale_embeddings(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Multiply embeddings by the model's embedding scale, if the model has one."""
        return embeddings if self.factor is None else embeddings * self.factor.to(self.dtype)


def count_parameters(model: Any) -> int:
    """Count a model's parameters. A .gguf block counts as the number of weights that it encodes."""
    stored = {
        module.weight.data_ptr(): module
        for module in model.modules()
        if isinstance(module, GgufLinear | GgufEmbedding)
    }
    numbers = sum(map(count_encoded_weights, stored.values()))
    return int(model.num_parameters() - sum(one.weight.numel() for one in stored.values()) + numbers)


def count_encoded_weights(layer: GgufLinear | GgufEmbedding) -> int:
    return int(TYPES[layer.kind].inputs * layer.weight.numel() // TYPES[layer.kind].stored_bytes)
