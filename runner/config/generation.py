"""generation – how completions are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from runner.core.errors import ConfigError, check, check_least
from runner.core.fields import MISSING, inert

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


PLAIN = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}  # what does nothing
# What a generation_config.json may ask for besides, and what it then says to do nothing.
NOT_FOLLOWED: dict[str, Any] = {"no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "bad_words_ids": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "forced_eos_token_id": None, "sequence_bias": None,
    "exponential_decay_length_penalty": None, "encoder_repetition_penalty": 1.0, "num_beams": 1,
    "min_p": None, "typical_p": 1.0}  # fmt: skip
OF_SAMPLING = ("min_p", "typical_p")


class Speculate(StrEnum):
    """Whether the next tokens of a few greedy rows are guessed, and checked several at a time."""

    auto = "auto"
    off = "off"


@dataclass
class GenerationConfig:
    """How completions are drawn; temperature 0 means greedy. None: as the model's own generation_config.json says."""

    name: str = MISSING
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    batch_size: int | None = None
    speculate: Speculate = inert(Speculate.auto, "a guess counts only where the model says the same")

    def __post_init__(self) -> None:
        check_least(1, "generation.max_new_tokens", self.max_new_tokens)
        check_sampling("generation", self)
        check_least(1, "generation.batch_size", self.batch_size, ", or null for what fits")
        if self.temperature == 0 and ((self.top_p or 1) < 1 or (self.top_k or 0) > 0):
            raise ConfigError(
                f"generation.temperature=0 is greedy, so generation.top_p={self.top_p} and "
                f"generation.top_k={self.top_k} would do nothing: "
                "give a temperature above 0, or leave top_p=1 and top_k=0"
            )

    def followed(self, own: Mapping[str, Any]) -> GenerationConfig:
        """Return it with nothing left open: by the model's own settings, else plain; greedy stays greedy."""
        usual = own if self.temperature else {"repetition_penalty": own.get("repetition_penalty")}
        chosen: dict[str, Any] = {}
        for key, plain in PLAIN.items():
            chosen[key] = next(it for it in (getattr(self, key), usual.get(key), plain) if it is not None)
        return replace(self, **chosen)

    def describe(self, own: Mapping[str, Any]) -> str:
        """Say in words what holds, and what of it is the model's own."""
        held = self.followed(own)
        words = [f"temperature {self.temperature:g}" if self.temperature else "greedy"]
        for key, plain in PLAIN.items():
            if (value := getattr(held, key)) != plain:
                words.append(f"{key} {value:g}" + (" (the model's own)" if getattr(self, key) is None else ""))
        return ", ".join(words)

    def not_followed(self, own: Mapping[str, Any]) -> list[str]:
        """Return notes about settings of the model's own that no engine here knows."""
        asked = [f"{key}={own[key]}" for key, plain in NOT_FOLLOWED.items() if own.get(key) not in (None, plain)
                 and (self.temperature or key not in OF_SAMPLING)]  # fmt: skip
        return [f"not followed of the model's generation_config.json: {', '.join(asked)}"] if asked else []
