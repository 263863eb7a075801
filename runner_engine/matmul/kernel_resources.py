"""Collects the C kernels and the matmul backends for a model's layers."""

from __future__ import annotations

import torch
from torch import nn

from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.matmul.backend_selection import choose_backend_for_unpacked_weights
from runner_engine.matmul.int8_matmul import choose_int8_backend
from runner_engine.matmul.layer_replacement import KernelResources
from runner_engine.models.gguf_blocks import GgufEmbedding


def create_kernel_resources(model: nn.Module, heap: HeapTrimmer) -> KernelResources:
    kernels = native.load_kernels()
    dtype = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)
    of_bytes, unpacked = (
        choose_int8_backend(model, kernels),
        choose_backend_for_unpacked_weights(model, kernels),
    )
    embeddings = {
        module.weight.data_ptr(): module for module in model.modules() if isinstance(module, GgufEmbedding)
    }
    means = KernelResources(
        kernels,
        dtype,
        0 if of_bytes is None else of_bytes.tile_rows,
        0 if unpacked is None else unpacked.tile_rows,
        heap,
        embeddings,
    )
    if of_bytes is not None and of_bytes.note:
        means.add_note_once(of_bytes.note)
    return means
