"""model – config of the stub. Local models are in runner_engine/settings/model.py, others are
options.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from runner_base import UNLESS_DEFAULT, NotInIdentity, Text, at_least, config_field, in_range
from runner_engine import GenerationConfig, LoraConfig, QuantizationConfig, RopeConfig
from runner_engine import ModelConfig as ModelConfig  # plug-ins have it from here
from runner_engine.settings.generation import reject_scheduler_features


@dataclass
class StubConfig(ModelConfig):
    """Config of a model without weights that echoes the prompt's beginning, to try out whole grids in
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
        """Reject speculative decoding, because the stub has nothing to predict or measure."""
        reject_speculation(generation, "model=stub has no model that could verify draft tokens")


def reject_speculation(generation: GenerationConfig, reason: str) -> None:
    """Raise ConfigError for speculative decoding. A stub only notes another KV format."""
    reject_scheduler_features(replace(generation, kv_cache="as_model"), reason)
