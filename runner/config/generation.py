"""generation – how completions are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from runner.core.errors import ConfigError, check
from runner.core.fields import MISSING


@dataclass
class GenerationConfig:
    """How completions are drawn; temperature 0 means greedy."""

    name: str = MISSING
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check(self.max_new_tokens >= 1, "generation.max_new_tokens", self.max_new_tokens, "must be 1 or more")
        check(0 <= self.temperature <= 10, "generation.temperature", self.temperature, "must lie in 0..10")
        check(0 < self.top_p <= 1, "generation.top_p", self.top_p, "must lie in (0, 1]")
        check(self.top_k >= 0, "generation.top_k", self.top_k, "must be 0 (off) or more")
        check(
            0.1 <= self.repetition_penalty <= 10,
            "generation.repetition_penalty",
            self.repetition_penalty,
            "must lie in 0.1..10 (1 = off)",
        )
        size = self.batch_size
        check(size is None or size >= 1, "generation.batch_size", size, "must be 1 or more, or null for what fits")
        if self.temperature == 0 and (self.top_p < 1 or self.top_k > 0):
            raise ConfigError(
                f"generation.temperature=0 is greedy, so generation.top_p={self.top_p} and "
                f"generation.top_k={self.top_k} would do nothing: "
                "give a temperature above 0, or leave top_p=1 and top_k=0"
            )
