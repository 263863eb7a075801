"""generation – how completions are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.core.errors import ConfigError, check, check_least
from runner.core.fields import MISSING

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 <= value <= 10, "must lie in 0..10"),
    "top_p": (lambda value: 0 < value <= 1, "must lie in (0, 1]"),
    "top_k": (lambda value: value >= 0, "must be 0 (off) or more"),
    "repetition_penalty": (lambda value: 0.1 <= value <= 10, "must lie in 0.1..10 (1 = off)"),
}


def check_sampling(owner: str, sampling: object) -> None:
    """Raise ConfigError for a setting of how tokens are drawn that is outside its range; None is left open."""
    for name, (fits, need) in RANGES.items():
        value = getattr(sampling, name)
        check(value is None or fits(value), f"{owner}.{name}", value, need)


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
        check_least(1, "generation.max_new_tokens", self.max_new_tokens)
        check_sampling("generation", self)
        check_least(1, "generation.batch_size", self.batch_size, ", or null for what fits")
        if self.temperature == 0 and (self.top_p < 1 or self.top_k > 0):
            raise ConfigError(
                f"generation.temperature=0 is greedy, so generation.top_p={self.top_p} and "
                f"generation.top_k={self.top_k} would do nothing: "
                "give a temperature above 0, or leave top_p=1 and top_k=0"
            )
