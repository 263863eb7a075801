"""The immutable model specification, which all engine modules read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.capabilities import BlockFormat
from runner_engine.quantization.quantization_mix import QuantizationMix
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import RopeConfig

OWN_HEAD = 0  # as first_layers: none of the layers, but the model's own head for the next tokens
Workload = tuple[int, int, int]  # in memory at once: rows, prompt tokens and new tokens


@dataclass(frozen=True)
class ModelSpec:
    """Specification of a model: files, quantization, adapters and default generation settings."""

    model: LocalModelConfig
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    rope: RopeConfig = field(default_factory=RopeConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    seed: int = 0
    workload: Workload = (1, 1, 1)  # for which memory is checked before the weights are read
    layers: QuantizationMix | None = (
        None  # what the quantization means for each layer, if a schema has read it already
    )
    cpu_note: str = ""  # is reported if the model runs on a CPU
    # only so many of its layers, as of a draft; OWN_HEAD; None: all
    first_layers: int | None = None

    @property
    def is_mtp_head(self) -> bool:
        """Whether the spec describes the model's multi-token prediction (MTP) head instead of the model."""
        return self.first_layers == OWN_HEAD

    @cached_property
    def layer_mix(self) -> QuantizationMix:
        """The quantization of each layer."""
        return self.layers or QuantizationMix.from_config(self.quantization)

    @property
    def base_key(self) -> str:
        """Key of the base model. Specs with equal keys can share a loaded base model."""
        parts: list[object] = [self.model, self.quantization, *self.quantization.mix_keys, self.rope]
        if self.lora.merges_adapter:
            parts.append(self.lora)  # merging changes the base permanently
        elif (
            isinstance(self.quantization, BlockFormat)
            and self.quantization.get_block_config()
            and self.lora.adapts
        ):
            parts.append("unpacked")
        if self.first_layers is not None:
            parts.append(self.first_layers)
        return repr(parts)
