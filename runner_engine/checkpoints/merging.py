"""What merging an adapter into the weights takes, by the headers of both files: how many numbers
change, what is multiplied for them, and how much memory that needs; no torch.

The steps are those of models/lora/merging.py: weights that are codes are unpacked, all of them
before the first is merged; each layer's A and B are multiplied and added to its weight; what is to
be quantized is quantized after that, layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from runner_base import BYTES, Dtype
from runner_engine.checkpoints.adapter_header import adapter_shapes
from runner_engine.checkpoints.linear_layers import linear_layers
from runner_engine.checkpoints.resolve import ModelFiles, ResolvedModel
from runner_engine.settings.lora import MergeOrder

COPIES = 3  # in float32 of the largest layer, as measured with PEFT 0.21: B A, scaled, and the sum


@dataclass(frozen=True)
class Merging:
    """The layers that an adapter changes, and in which numbers they are added."""

    layers: int
    numbers: int  # of all weights that change
    largest: int  # of one of them
    products: int  # multiplications of B A, all together
    adapter_bytes: int  # of its own matrices, while they are merged
    number_bytes: int  # of a weight, while the adapter is added to it
    model_bytes: int  # of a weight before and after that
    order: MergeOrder | None  # before or after the weights are quantized; None: they are not

    @property
    def unpacks(self) -> bool:
        """Whether the weights are codes, which are unpacked, and quantized again."""
        return self.order is MergeOrder.quantize_first

    def peak_bytes(self, held: int, plain: int) -> int:
        """Return the most that is held while the adapter is merged, beside pages of files.

        held: what is held of the merged model; plain: of its other weights before they are
        quantized.
        """
        merging = self.adapter_bytes + COPIES * BYTES["float32"] * self.largest
        changing = self.numbers * max(self.number_bytes, self.model_bytes)
        if self.order is None:
            return held + merging + changing - self.numbers * self.model_bytes
        if self.unpacks:  # when all are unpacked, the codes are freed
            return changing + max(held, merging)
        return changing + merging + plain


def merging_of(resolved: ResolvedModel) -> Merging | None:
    """Return what merging the adapter takes; None where nothing is merged, or no header tells."""
    files, lora = resolved.files, resolved.files.lora
    if lora is None or not lora.merge:
        return None
    shapes = _shapes(files)
    if not shapes:
        return None
    sizes = [outputs * inputs for outputs, _, inputs in shapes]
    dtype = files.dtype if lora.merge_dtype is Dtype.auto else lora.merge_dtype.value
    return Merging(
        layers=len(shapes),
        numbers=sum(sizes),
        largest=max(sizes),
        products=sum(prod(shape) for shape in shapes),
        adapter_bytes=files.adapter_numbers * BYTES["float32"],
        number_bytes=BYTES[dtype],
        model_bytes=files.dtype_bytes,
        order=lora.merge_order,
    )


def _shapes(files: ModelFiles) -> list[tuple[int, int, int]]:
    """Return outputs, rank and inputs of each layer that changes; of a file whose headers cannot be
    read, as if all square layers did."""
    assert files.adapter is not None
    if files.adapter.is_dir():
        return [_shape(sides) for sides in adapter_shapes(files.adapter).values() if len(sides) == 2]
    layers, _ = linear_layers(files.matrices, files.text_settings, files.fuses_experts)
    square = [one.shape for one in layers.values() if len({*one.shape}) == 1]
    columns = sum(outputs + inputs for outputs, inputs in square)
    rank = files.adapter_numbers // columns if columns else 0
    return [(outputs, rank, inputs) for outputs, inputs in square]


def _shape(sides: dict[str, tuple[int, ...]]) -> tuple[int, int, int]:
    (rank, inputs), (outputs, _) = sides["A"], sides["B"]
    return outputs, rank, inputs
