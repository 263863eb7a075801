"""Config of model=stub. Local models are in runner_engine/settings/model.py, and other models are
options.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from runner_base import UNLESS_DEFAULT, NotInIdentity, Text, at_least, config_field, in_range
from runner_engine import GenerationConfig, LoraConfig, QuantizationConfig, RopeConfig
from runner_engine import ModelConfig as ModelConfig  # plug-ins have it from here
from runner_engine.settings.generation import reject_scheduler_only_settings


@dataclass
class StubConfig(ModelConfig):
    """Config of a model without weights that echoes the beginning of each prompt, to try out grids in
    seconds.
    """

    module: ClassVar[str] = "runner.engines.kinds.stub"
    name: ClassVar[str] = "stub"
    delay_s: float = config_field(
        0.0,
        NotInIdentity("only slows the stub down"),
        in_range(0, 86400, "must be from 0 seconds to one day"),
    )
    thinking_words: int = config_field(0, UNLESS_DEFAULT, at_least(0))
    answer: Text | None = config_field(None, UNLESS_DEFAULT)

    def check_compatibility(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Reject speculative decoding, because a stub has no tokens to predict."""
        reject_speculation(generation, "model=stub has no model that could verify draft tokens")


def reject_speculation(generation: GenerationConfig, reason: str) -> None:
    """Raise ConfigError with the given reason if speculative decoding is configured."""
    reject_scheduler_only_settings(replace(generation, kv_cache="as_model"), reason)
