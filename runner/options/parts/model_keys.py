"""Config keys of model=parts, a split checkpoint that runs in several processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from runner_base import HASHED, MISSING, Dtype, NotInIdentity, at_least, config_field, greater_than, not_blank
from runner_engine import (
    Attention,
    GenerationConfig,
    LoraConfig,
    ModelConfig,
    QuantizationConfig,
    RopeConfig,
    to_local_model_config,
)
from runner_engine.settings.generation import reject_prompt_cache_limit, reject_scheduler_only_settings
from runner_engine.settings.model import reject_weight_changes


class TransportBackend(StrEnum):
    """How hidden states are sent between pipeline stages. auto: nccl if each stage has its own GPU,
    otherwise gloo.
    """

    auto = "auto"
    gloo = "gloo"
    nccl = "nccl"


@dataclass
class PartsModelConfig(ModelConfig):
    """Config of model=parts: the parts of a split checkpoint, run by several processes."""

    module: ClassVar[str] = "runner.options.parts.kind"
    has_weights: ClassVar[bool] = True
    name: str = config_field(MISSING, HASHED, not_blank("give the folder that task=split wrote"))
    stages: int | None = config_field(
        None,
        NotInIdentity("model.stages does not change the answers", measured=True),
        at_least(1, ", or null"),
    )
    backend: TransportBackend = config_field(
        TransportBackend.auto, NotInIdentity("carries the same numbers", measured=True)
    )
    micro_batch: int | None = config_field(None, constraint=at_least(1, ", or null"))
    timeout_s: float = config_field(
        600.0, NotInIdentity("model.timeout_s only ends a pipeline that hangs"), greater_than(0, " seconds")
    )
    device: str = "auto"
    dtype: Dtype = Dtype.auto
    attention: Attention = Attention.auto
    threads: int | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    check_memory: bool = config_field(True, NotInIdentity("the memory check changes no answer"))

    def __post_init__(self) -> None:
        super().__post_init__()
        to_local_model_config(self)  # checks the keys that it shares with a local model

    def check_compatibility(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        why = "model=parts cannot change the weights of a split checkpoint"
        reject_weight_changes(quantization, lora, rope, why)
        why = "model=parts does not support continuous batching"
        reject_scheduler_only_settings(generation, why)
        reject_prompt_cache_limit(generation, why)


def as_parts_config(model: ModelConfig) -> PartsModelConfig:
    assert isinstance(model, PartsModelConfig)
    return model
