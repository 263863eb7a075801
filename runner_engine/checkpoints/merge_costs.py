"""Estimates the work and memory of merging an adapter, from file headers. Imports no torch.

The steps are those of models/lora/merging.py: quantized weights are dequantized, all of them before
the first is merged; each layer's A and B are multiplied and added to its weight; quantization
follows after that, layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from runner_base import BYTES, Dtype
from runner_engine.checkpoints.adapter_shapes import read_adapter_shapes
from runner_engine.checkpoints.linear_layers import find_linear_layers
from runner_engine.checkpoints.resolved_model import ModelFiles, ResolvedModel
from runner_engine.settings.lora import MergeOrder

COPIES = 3  # in float32 of the largest layer, as measured with PEFT 0.21: B A, scaled, and the sum


@dataclass(frozen=True)
class MergeCosts:
    """The cost of merging an adapter: changed layers and weights, multiplications, and bytes."""

    layers: int
    numbers: int  # of all weights that change
    largest: int  # of one of them
    products: int  # multiplications of B A, all together
    adapter_bytes: int  # of its own matrices, while they are merged
    number_bytes: int  # of a weight, while the adapter is added to it
    model_bytes: int  # of a weight before and after that
    order: MergeOrder | None  # before or after the weights are quantized; None: they are not

    @property
    def dequantizes(self) -> bool:
        return self.order is MergeOrder.quantize_first

    def estimate_merge_peak_nbytes(self, merged_bytes: int, other_unquantized_bytes: int) -> int:
        """Return the peak memory of the merge in bytes. Memory-mapped pages are excluded.

        merged_bytes: bytes of the merged model; other_unquantized_bytes: bytes of its other weights
        before
        quantization.
        """
        merging = self.adapter_bytes + COPIES * BYTES["float32"] * self.largest
        changing = self.numbers * max(self.number_bytes, self.model_bytes)
        if self.order is None:
            return merged_bytes + merging + changing - self.numbers * self.model_bytes
        if self.dequantizes:  # when all are unpacked, the codes are freed
            return changing + max(merged_bytes, merging)
        return changing + merging + other_unquantized_bytes


def estimate_merge_costs(resolved: ResolvedModel) -> MergeCosts | None:
    """Estimate the cost of merging the adapter. None if no adapter is merged or no header is readable."""
    files, lora = resolved.files, resolved.files.lora
    if lora is None or not lora.merge:
        return None
    shapes = _list_adapted_layer_shapes(files)
    if not shapes:
        return None
    sizes = [outputs * inputs for outputs, _, inputs in shapes]
    dtype = files.dtype if lora.merge_dtype is Dtype.auto else lora.merge_dtype.value
    return MergeCosts(
        layers=len(shapes),
        numbers=sum(sizes),
        largest=max(sizes),
        products=sum(prod(shape) for shape in shapes),
        adapter_bytes=files.num_adapter_parameters * BYTES["float32"],
        number_bytes=BYTES[dtype],
        model_bytes=files.dtype_bytes,
        order=lora.merge_order,
    )


def _list_adapted_layer_shapes(files: ModelFiles) -> list[tuple[int, int, int]]:
    """Return (outputs, rank, inputs) of each layer that the adapter changes.

    If headers cannot be read, all square layers count as adapted.
    """
    assert files.adapter is not None
    if files.adapter.is_dir():
        return [
            _get_adapted_layer_shape(sides)
            for sides in read_adapter_shapes(files.adapter).values()
            if len(sides) == 2
        ]
    layers, _ = find_linear_layers(files.tensors_with_split_experts, files.text_settings, files.fuses_experts)
    square = [one.shape for one in layers.values() if len({*one.shape}) == 1]
    columns = sum(outputs + inputs for outputs, inputs in square)
    rank = files.num_adapter_parameters // columns if columns else 0
    return [(outputs, rank, inputs) for outputs, inputs in square]


def _get_adapted_layer_shape(matrix_shapes: dict[str, tuple[int, ...]]) -> tuple[int, int, int]:
    (rank, inputs), (outputs, _) = matrix_shapes["A"], matrix_shapes["B"]
    return outputs, rank, inputs
