"""One plan of a load: how the weights come in, what each tensor becomes, and which kernels multiply.

The prediction of memory (footprint.py) and the load (models/load.py) read the same plan. Where a load
knows better, because torch cannot use a GPU or lacks an attention, it replaces that field. What
follows from a plan is computed at its first use, because a damaged header is the load's to report.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner_base import BYTES, MIB, DataError, processor
from runner_base.dtypes import stored_dtype
from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.linear_layers import (
    PlainLayers,
    Walk,
    are_experts_apart,
    plain_layers,
    walk_files,
)
from runner_engine.checkpoints.own_head import as_one_layer, without_head
from runner_engine.checkpoints.resolve import ModelFiles, ResolvedModel
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.checkpoints.weight_sizes import weight_bytes
from runner_engine.quantization.base import CheckpointSource, OwnLayers, QuantizationConfig
from runner_engine.quantization.mixed import Mix
from runner_engine.settings.model import Attention
from runner_engine.spec import ModelSpec

# of free memory: linear layers are packed, in addition to the checkpoint, if they need no more
PACKED_SHARE = 0.25
# from here on an embedding gets its rows from the panels of a tied head; a smaller table is read
# where it is: a lookup takes as long as a small model's whole layer
SHARED_BYTES = 2**24


@dataclass(frozen=True)
class LoadPlan:
    """How a model is loaded."""

    resolved: ResolvedModel
    device: str  # cpu or cuda
    attention: Attention

    @property
    def spec(self) -> ModelSpec:
        return self.resolved.spec

    @property
    def files(self) -> ModelFiles:
        return self.resolved.files

    @property
    def mix(self) -> Mix:
        """The quantization of the loaded weights."""
        return self.resolved.mix

    @cached_property
    def way(self) -> str:
        """The way of loading: a module of models/loading/."""
        files, held = self.files, self.mix.base
        is_file = files.is_gguf_file and files.model.device_map is None
        if is_file and gguf_file.is_known(gguf_file.read_header(files.path)):
            return "gguf"
        if self.spec.lora.merges_first:
            return "merged"
        if held.is_mixed:
            return "mixed"
        if held.own_layers is OwnLayers.groups:
            return "stored_groups"
        if held.own_layers is OwnLayers.made_groups:
            return "made_groups" if files.stored is None else "adopted_groups"
        return "library"

    # -------------------------------------------------------------------- tensors, and their formats

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of the text model, or of the model's own head."""
        return as_one_layer(self.files)[1] if self.spec.is_own_head else self.files.text_settings

    @cached_property
    def takes_experts_apart(self) -> bool:
        """Whether each matrix of each expert becomes a layer of its own."""
        return are_experts_apart(self.files, self.mix)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The tensors of the loaded model; none if no file has a header that can be read."""
        files = self.files
        if self.spec.is_own_head:
            return as_one_layer(files)[0]
        if self.mix.base.own_layers is OwnLayers.blocks:
            return gguf_file.kept_tensors(gguf_file.read_header(files.path))
        return list(without_head(files, files.matrices if self.takes_experts_apart else files.tensors))

    @cached_property
    def walk(self) -> Walk:
        """What quantizing while loading makes of each tensor."""
        return walk_files(self.files, self.mix, self.device)

    @property
    def reach(self) -> Walk | None:
        """The same for checks; None if nothing is quantized, or no header can be read."""
        wanted = self.spec.mix
        if wanted.base.source is not CheckpointSource.plain or not wanted.quantizes:
            return None
        try:
            is_read = self.files.stored is None and self.files.tensors
        except DataError:
            return None  # a damaged header: the load reads it, too, and names the tensor
        return self.walk if is_read else None

    @property
    def choices(self) -> dict[str, QuantizationConfig]:
        """The format of each tensor that the load quantizes."""
        is_stored = self.files.stored is not None or self.mix.base.own_layers is OwnLayers.blocks
        return self.walk.choices if self.mix.quantizes and not is_stored else {}

    @cached_property
    def plain_layers(self) -> PlainLayers:
        """The linear layers that a mix leaves in model.dtype."""
        return plain_layers(self.files, self.mix)

    @cached_property
    def weights(self) -> dict[str, int]:
        """The bytes of the loaded weights by part."""
        files, lora = self.files, self.spec.lora
        weights = weight_bytes(
            self.tensors, self.settings, files.stored, self.choices, files.dtype_bytes, files.fuses_experts
        )
        if lora.adapts and not lora.merges:
            numbers = sum(one.files.adapter_numbers for one in self.resolved.apart or [self.resolved])
            weights["lora"] = numbers * BYTES["float32"]  # also for a 16-bit model
        return weights

    # ------------------------------------------------------------------- what stays in the mapped file

    @property
    def converts(self) -> bool:
        """Whether plain weights are converted to another number format."""
        return stored_dtype(self.files.settings) != self.files.dtype

    @property
    def is_mapped(self) -> bool:
        """Whether plain weights stay in the mapped checkpoint; a .gguf file is unpacked."""
        return not self.files.is_gguf_file and not self.converts

    @property
    def mapped_bytes(self) -> int:
        """The bytes of weights that stay in the mapped checkpoint."""
        weights, base = self.weights, self.mix.base
        if base.own_layers is OwnLayers.blocks:
            return sum(weights.values()) - weights["other"]
        if not self.is_mapped:
            return 0
        in_memory, left_plain = ["expert", "lora"], 0  # experts are joined
        makes_codes = self.mix.quantizes and self.files.stored is None
        if self.spec.lora.merges or makes_codes or base.own_layers is OwnLayers.made_groups:
            in_memory += ["linear", "scales"]
            left_plain = self.plain_layers.nbytes if base.is_mixed else 0
        return sum(size for part, size in weights.items() if part not in in_memory) + left_plain

    # --------------------------------------------------------------------------------- which kernels

    @property
    def is_streamed(self) -> bool:
        """Whether the scheduler decodes, with attention of its own; a trial may reject the model."""
        return self.attention is Attention.auto

    @property
    def uses_kernels(self) -> bool:
        """Whether the engine's C kernels compute a pass."""
        return self.is_streamed and self.device == "cpu" and processor.c_compiler() is not None

    @property
    def multiplies_packed(self) -> bool:
        """Whether these kernels multiply quantized layers, and unpack only a panel at a time."""
        return self.uses_kernels and self.mix.has_kernels(self.files.dtype_bytes)


def plan_load(resolved: ResolvedModel) -> LoadPlan:
    """Plan the load of a model by its keys and files alone."""
    return LoadPlan(resolved, resolved.files.device, resolved.files.model.attention)


def may_pack(nbytes: float, free_mib: float, packed_share: float = PACKED_SHARE) -> bool:
    """Whether plain weights are packed, which takes a second copy of them."""
    return nbytes <= packed_share * free_mib * MIB
