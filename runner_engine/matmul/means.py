"""What the layers of a model are multiplied with: the kernels, and from how many rows on tiles are
used."""

from __future__ import annotations

import torch
from torch import nn

from runner_engine.devices.heap import Heap
from runner_engine.kernels import native
from runner_engine.matmul.byte_products import choose_bytes
from runner_engine.matmul.products import choose_unpacked
from runner_engine.matmul.replacing import Means
from runner_engine.models.gguf_blocks import GgufEmbedding


def means_for(model: nn.Module, heap: Heap) -> Means:
    """Return what a model's layers are multiplied with."""
    kernels = native.kernels()
    dtype = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)
    of_bytes, unpacked = choose_bytes(model, kernels), choose_unpacked(model, kernels)
    embeddings = {
        module.weight.data_ptr(): module for module in model.modules() if isinstance(module, GgufEmbedding)
    }
    means = Means(
        kernels,
        dtype,
        0 if of_bytes is None else of_bytes.tile_rows,
        0 if unpacked is None else unpacked.tile_rows,
        heap,
        embeddings,
    )
    if of_bytes is not None and of_bytes.note:
        means.note(of_bytes.note)
    return means
