"""The load plan of a model: loading backend, format of each tensor, and kernels.

The prediction of memory (footprint.py) and the load (models/base_loading.py) read the same plan. If
the load finds that torch cannot use a GPU or lacks an attention, it replaces that field. Derived
values are computed at first use, because the load must report a damaged header.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner_base import BYTES, MIB, DataError, processor
from runner_base.dtypes import find_stored_dtype
from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.linear_layers import (
    QuantizationPlan,
    UnquantizedLayers,
    measure_unquantized_layers,
    plan_model_quantization,
    will_separate_experts,
)
from runner_engine.checkpoints.mtp_head import convert_head_to_model, exclude_mtp_head_tensors
from runner_engine.checkpoints.resolved_model import ModelFiles, ResolvedModel
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.checkpoints.weight_sizes import compute_weight_nbytes
from runner_engine.quantization.base import CheckpointSource, OwnLayers, QuantizationConfig
from runner_engine.quantization.quantization_mix import QuantizationMix
from runner_engine.settings.model import Attention
from runner_engine.spec import ModelSpec

# of free memory: linear layers are packed, in addition to the checkpoint, if they need no more
PACKED_SHARE = 0.25
# from here on an embedding gets its rows from the panels of a tied head; a smaller table is read
# where it is: a lookup takes as long as a small model's whole layer
SHARED_BYTES = 2**24


@dataclass(frozen=True)
class LoadPlan:
    """The decisions on how to load a model, derived from its config and files."""

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
    def quantization_mix(self) -> QuantizationMix:
        """The quantization of the loaded weights."""
        return self.resolved.quantization_mix

    @cached_property
    def loading_backend_name(self) -> str:
        """The name of the loading backend, which is a module in models/loading/."""
        files, held = self.files, self.quantization_mix.base
        is_file = files.is_gguf_file and files.model.device_map is None
        if is_file and gguf_file.is_supported_architecture(gguf_file.read_gguf_header(files.path)):
            return "gguf"
        if self.spec.lora.merges_before_quantization:
            return "merged"
        if held.is_mixed:
            return "mixed"
        if held.own_layers is OwnLayers.groups:
            return "stored_groups"
        if held.own_layers is OwnLayers.made_groups:
            return "made_groups" if files.stored_format is None else "adopted_groups"
        return "library"

    # -------------------------------------------------------------------- tensors, and their formats

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config of the text model, or of its MTP head."""
        return convert_head_to_model(self.files)[1] if self.spec.is_mtp_head else self.files.text_settings

    @cached_property
    def separates_experts(self) -> bool:
        """Whether each matrix of each expert becomes a separate layer."""
        return will_separate_experts(self.files, self.quantization_mix)

    @cached_property
    def tensors(self) -> list[TensorLocation]:
        """The tensors of the loaded model. Empty if no weight file has a readable header."""
        files = self.files
        if self.spec.is_mtp_head:
            return convert_head_to_model(files)[0]
        if self.quantization_mix.base.own_layers is OwnLayers.blocks:
            return gguf_file.list_in_memory_tensors(gguf_file.read_gguf_header(files.path))
        return list(
            exclude_mtp_head_tensors(
                files, files.tensors_with_split_experts if self.separates_experts else files.tensors
            )
        )

    @cached_property
    def quantization_plan(self) -> QuantizationPlan:
        return plan_model_quantization(self.files, self.quantization_mix, self.device)

    @property
    def quantization_plan_if_available(self) -> QuantizationPlan | None:
        """The quantization plan. None if nothing is quantized or no header can be read."""
        wanted = self.spec.layer_mix
        if wanted.base.source is not CheckpointSource.plain or not wanted.quantizes:
            return None
        try:
            is_read = self.files.stored_format is None and self.files.tensors
        except DataError:
            return None  # a damaged header: the load reads it, too, and names the tensor
        return self.quantization_plan if is_read else None

    @property
    def quantization_configs(self) -> dict[str, QuantizationConfig]:
        """The quantization config of each tensor that is quantized at load time."""
        is_stored = (
            self.files.stored_format is not None or self.quantization_mix.base.own_layers is OwnLayers.blocks
        )
        return self.quantization_plan.choices if self.quantization_mix.quantizes and not is_stored else {}

    @cached_property
    def plain_layers(self) -> UnquantizedLayers:
        """Measures of the linear layers that stay unquantized, in model.dtype."""
        return measure_unquantized_layers(self.files, self.quantization_mix)

    @cached_property
    def weight_bytes_by_part(self) -> dict[str, int]:
        """Bytes of the loaded weights by part of the model, such as `linear` and `head`."""
        files, lora = self.files, self.spec.lora
        weights = compute_weight_nbytes(
            self.tensors,
            self.settings,
            files.stored_format,
            self.quantization_configs,
            files.dtype_bytes,
            files.fuses_experts,
        )
        if lora.adapts and not lora.merges_adapter:
            numbers = sum(
                one.files.num_adapter_parameters
                for one in self.resolved.single_adapter_models or [self.resolved]
            )
            weights["lora"] = numbers * BYTES["float32"]  # also for a 16-bit model
        return weights

    # ------------------------------------------------------------------- what stays in the mapped file

    @property
    def converts_dtype(self) -> bool:
        """Whether unquantized weights are converted to another dtype than the checkpoint's."""
        return find_stored_dtype(self.files.settings) != self.files.dtype

    @property
    def is_mapped(self) -> bool:
        """Whether unquantized weights stay in the memory-mapped checkpoint. Always False for .gguf files."""
        return not self.files.is_gguf_file and not self.converts_dtype

    @property
    def memory_mapped_weight_nbytes(self) -> int:
        """Bytes of the weights that stay in the memory-mapped checkpoint."""
        weights, base = self.weight_bytes_by_part, self.quantization_mix.base
        if base.own_layers is OwnLayers.blocks:
            return sum(weights.values()) - weights["other"]
        if not self.is_mapped:
            return 0
        in_memory, left_plain = ["expert", "lora"], 0  # experts are joined
        makes_codes = self.quantization_mix.quantizes and self.files.stored_format is None
        if self.spec.lora.merges_adapter or makes_codes or base.own_layers is OwnLayers.made_groups:
            in_memory += ["linear", "scales"]
            left_plain = self.plain_layers.nbytes if base.is_mixed else 0
        return sum(size for part, size in weights.items() if part not in in_memory) + left_plain

    # --------------------------------------------------------------------------------- which kernels

    @property
    def uses_scheduler(self) -> bool:
        """Whether the scheduler is planned to decode. A test after the load may still reject the model."""
        return self.attention is Attention.auto

    @property
    def uses_kernels(self) -> bool:
        """Whether the engine's C kernels compute the forward passes."""
        return self.uses_scheduler and self.device == "cpu" and processor.find_c_compiler() is not None

    @property
    def uses_quantized_kernels(self) -> bool:
        """Whether C kernels multiply quantized layers without dequantizing whole weights."""
        return self.uses_kernels and self.quantization_mix.has_kernels(self.files.dtype_bytes)


def plan_model_load(resolved: ResolvedModel) -> LoadPlan:
    """Plan how to load a model. Reads only the model's config and file headers."""
    return LoadPlan(resolved, resolved.files.device, resolved.files.model.attention)


def can_pack_weights(nbytes: float, free_mib: float, max_share: float = PACKED_SHARE) -> bool:
    return nbytes <= max_share * free_mib * MIB
