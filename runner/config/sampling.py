"""Sampling parameters: each declared once, with its range, what is neutral, and who understands it.

The config group `generation`, requests, HTTP bodies, calls to servers, the wire between stages, chat's `/set`, the
harness, Python and the page read this table. A further parameter is one field here, and its arithmetic in
engines/sampling.py and engines/local/kernels/sampling.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict, get_type_hints

from runner.core.errors import check


@dataclass(frozen=True)
class Parameter:
    """One number that says how tokens are drawn."""

    name: str
    kind: type[int] | type[float]
    meaning: str
    neutral: float  # does nothing; of a temperature: leaves the model's probabilities as they are
    low: float
    high: float | None = None
    excludes_low: bool = False
    in_openai: bool = False  # OpenAI's API has a field of this name; vLLM's, ours and others' have the rest, too
    for_greedy: bool = False  # whether it also changes which token is the likeliest

    @property
    def need(self) -> str:
        """The range, in the words of an error."""
        off = "" if self.name == "temperature" else f" ({self.neutral:g} = off)"
        if self.high is None:
            return (
                f"must be {self.low:g} (off) or more"
                if self.low == self.neutral
                else f"must be {self.low:g} or more{off}"
            )
        span = f"({self.low:g}, {self.high:g}]" if self.excludes_low else f"{self.low:g}..{self.high:g}"
        return f"must lie in {span}{off}"

    def fits(self, value: float) -> bool:
        """Whether a value is in the range."""
        above = value > self.low if self.excludes_low else value >= self.low
        return above and (self.high is None or value <= self.high)

    def read(self, text: str) -> float:
        """Return the number that a user has typed; ValueError where it is none."""
        return self.kind(text)


def _parameter(meaning: str, neutral: float, low: float, high: float | None = None, **more: bool) -> Any:
    return field(default=None, metadata={"meaning": meaning, "neutral": neutral, "low": low, "high": high, **more})


@dataclass(kw_only=True)
class SamplingKeys:
    """The parameters as keys; None leaves one open."""

    temperature: float | None = _parameter(
        "0: the likeliest token; above: draws, the freer the higher", 1.0, 0, 10, in_openai=True
    )
    top_p: float | None = _parameter(
        "draw from the likeliest tokens that share this much probability", 1.0, 0, 1, excludes_low=True, in_openai=True
    )
    top_k: int | None = _parameter("draw from so many of the likeliest tokens", 0, 0)
    min_p: float | None = _parameter(
        "drop tokens less likely than this share of the likeliest one's probability", 0.0, 0, 1
    )
    repetition_penalty: float | None = _parameter(
        "above 1: tokens of prompt and answer are less likely", 1.0, 0.1, 10, for_greedy=True
    )
    frequency_penalty: float | None = _parameter(
        "above 0: tokens are less likely with each time that the answer has them",
        0.0, -2, 2, in_openai=True, for_greedy=True,
    )  # fmt: skip
    presence_penalty: float | None = _parameter(
        "above 0: tokens that the answer has are less likely", 0.0, -2, 2, in_openai=True, for_greedy=True
    )


class SamplingArguments(TypedDict, total=False):
    """The same as named arguments, for callers in Python."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    seed: int


def _table() -> dict[str, Parameter]:
    hints = get_type_hints(SamplingKeys)
    return {
        one.name: Parameter(one.name, int if hints[one.name] == int | None else float, **one.metadata)
        for one in fields(SamplingKeys)
    }


PARAMETERS = _table()  # in the order of the numbers that C reads of each row
NEUTRAL = {name: one.neutral for name, one in PARAMETERS.items() if name != "temperature"}


@dataclass(unsafe_hash=True, kw_only=True)
class Sampling(SamplingKeys):
    """How the tokens of one request are drawn; None = as the generation group says, for the seed config.seed.

    It is never changed once it is made, so that it can be shared and looked up by its values.
    """

    seed: int | None = None

    def __post_init__(self) -> None:
        check_sampling("", self)

    def over(self, generation: SamplingKeys, seed: int) -> Sampling:
        """Return it with nothing left open."""
        given = {
            name: getattr(generation, name) if getattr(self, name) is None else getattr(self, name)
            for name in PARAMETERS
        }
        return Sampling(**given, seed=seed if self.seed is None else self.seed)

    @property
    def numbers(self) -> tuple[float, ...]:
        """The parameters in the order of the table."""
        return tuple(getattr(self, name) for name in PARAMETERS)

    @classmethod
    def of_numbers(cls, numbers: Sequence[float]) -> Sampling:
        """Return what has these parameters, in the order of the table."""
        given: dict[str, Any] = {
            one.name: one.kind(number) for one, number in zip(PARAMETERS.values(), numbers, strict=True)
        }
        return cls(**given)

    @property
    def effective(self) -> Sampling:
        """What changes the tokens: without the seed, and of greedy rows without what only sampling reads."""
        if self.temperature:
            return replace(self, seed=None)
        idle: dict[str, Any] = {name: value for name, value in NEUTRAL.items() if not PARAMETERS[name].for_greedy}
        return replace(self, seed=None, **idle)


def check_sampling(prefix: str, sampling: SamplingKeys) -> None:
    """Raise ConfigError for a parameter that is outside its range; None is left open.

    `prefix` is what stands before its name where it is given: `generation.`, or nothing in a call.
    """
    for name, one in PARAMETERS.items():
        value = getattr(sampling, name)
        check(value is None or one.fits(value), f"{prefix}{name}", value, one.need)


def that_differ(sampling: SamplingKeys, which: Callable[[Parameter], bool]) -> dict[str, float]:
    """Return the parameters, among those that are meant, that have a value that does something."""
    found = {name: getattr(sampling, name) for name in NEUTRAL if which(PARAMETERS[name])}
    return {name: value for name, value in found.items() if value not in (None, NEUTRAL[name])}


OPEN = Sampling()  # all as the generation group says
GREEDY = Sampling(temperature=0.0, **NEUTRAL)  # type: ignore[arg-type] # their types are the table's
