"""model – the stub; models on this machine are the engine's (runner_engine/settings/model.py),
others are options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from runner_base import UNLESS_DEFAULT, Inert, Text, least, setting, within
from runner_engine import GenerationConfig, LoraConfig, QuantizationConfig, RopeConfig
from runner_engine import ModelConfig as ModelConfig  # plug-ins have it from here
from runner_engine.settings.generation import require_no_scheduler


@dataclass
class StubConfig(ModelConfig):
    """No weights: echoes the head of the prompt, to try out whole grids in seconds."""

    module: ClassVar[str] = "runner.engines.kinds.stub"
    name: ClassVar[str] = "stub"
    delay_s: float = setting(
        0.0, Inert("only slows the stub down"), within(0, 86400, "must be 0 or more seconds, a day at most")
    )
    thinking_words: int = setting(0, UNLESS_DEFAULT, least(0))
    answer: Text | None = setting(None, UNLESS_DEFAULT)

    def check_beside(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Reject guesses at every step: there would be nothing to guess, and nothing to measure."""
        refuse_guesses(generation, "model=stub has no model that could check a guess")


def refuse_guesses(generation: GenerationConfig, why: str) -> None:
    """Raise ConfigError for guesses at every step; a stub notes another format of keys and values,
    and does not refuse it."""
    require_no_scheduler(replace(generation, kv_cache="as_model"), why)
