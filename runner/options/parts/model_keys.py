"""model – the keys of model=parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from runner_base import HASHED, MISSING, Dtype, Inert, above, filled, least, setting
from runner_engine import (
    Attention,
    GenerationConfig,
    LoraConfig,
    ModelConfig,
    QuantizationConfig,
    RopeConfig,
    local_model,
)
from runner_engine.settings.generation import require_no_scheduler
from runner_engine.settings.model import require_own_weights


class Backend(StrEnum):
    """What carries hidden states from stage to stage; auto: nccl if each stage has its own GPU,
    else gloo."""

    auto = "auto"
    gloo = "gloo"
    nccl = "nccl"


@dataclass
class PartsModelConfig(ModelConfig):
    """The parts of a split checkpoint, each run by one of several processes."""

    module: ClassVar[str] = "runner.options.parts.kind"
    has_weights: ClassVar[bool] = True
    name: str = setting(MISSING, HASHED, filled("give the folder that task=split wrote"))
    stages: int | None = setting(
        None, Inert("any number of processes computes the same", measured=True), least(1, ", or null")
    )
    backend: Backend = setting(Backend.auto, Inert("carries the same numbers", measured=True))
    micro_batch: int | None = setting(None, takes=least(1, ", or null"))
    timeout_s: float = setting(600.0, Inert("ends a pipeline in which a process hangs"), above(0, " seconds"))
    device: str = "auto"
    dtype: Dtype = Dtype.auto
    attention: Attention = Attention.auto
    threads: int | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    check_memory: bool = setting(
        True, Inert("rejects parts that would not fit, and changes nothing in those that do")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        local_model(self)  # checks the keys that it shares with a local model

    def check_beside(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Reject settings that would change the weights: they run as they were split."""
        why = "model=parts runs the parts as they were split"
        require_own_weights(quantization, lora, rope, why)
        why = "model=parts keeps them in transformers' own cache"
        require_no_scheduler(generation, why)


def parts_model(model: ModelConfig) -> PartsModelConfig:
    """Return the keys of a model in parts."""
    assert isinstance(model, PartsModelConfig)
    return model
