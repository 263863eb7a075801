"""Sampling parameters: each is declared once, with its range, its neutral value, and which APIs
have it.

The config group `generation`, requests, HTTP bodies, calls to servers, the wire between stages,
chat's `/set`, the harness, Python and the page read this table. A new parameter needs one field
here, and its arithmetic in runner_engine/decode/tokens/sampling.py and
runner_engine/kernels/sampling.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, TypedDict, get_type_hints

from runner_base import check
from runner_base.fields import Unless


@dataclass(frozen=True)
class Parameter:
    """One sampling parameter."""

    name: str
    kind: type[int] | type[float]
    help: str
    neutral: float  # has no effect; for temperature: leaves the model's probabilities as they are
    low: float
    high: float
    excludes_low: bool = False
    least: float = 0.0  # the smallest value above 0: with a smaller one, logits would overflow
    in_openai: bool = False  # whether OpenAI's API has this field; vLLM's, ours and others' have all of them
    for_greedy: bool = False  # whether it can also change which token is the likeliest

    @property
    def need(self) -> str:
        """The range, as an error message states it."""
        off = "" if self.name == "temperature" else f" ({self.neutral:g} = off)"
        if self.kind is int:
            return f"must be a whole number in {self.low}..{self.high}{off}"
        if self.least:
            return f"must be {self.low:g}, or lie in {self.least:g}..{self.high:g}{off}"
        span = f"({self.low:g}, {self.high:g}]" if self.excludes_low else f"{self.low:g}..{self.high:g}"
        return f"must lie in {span}{off}"

    def fits(self, value: Any) -> bool:
        """Whether a value is a number of the right kind, and in the range; `true` is not a
        number."""
        if not is_number(value, self.kind):
            return False
        above = value > self.low if self.excludes_low else value >= self.low
        return bool(above and value <= self.high and not 0 < value < self.least)

    def read(self, text: str) -> float:
        """Return the number that a user has typed; ValueError if it is not one."""
        return self.kind(text)


def is_number(value: Any, kind: type[int] | type[float]) -> bool:
    """Whether a value is a number of this kind: a whole one where that is int; NaN is none, nor is
    `true`."""
    is_kind = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return is_kind and (kind is int or bool(value == value))  # NaN is not equal to itself


def _parameter(
    neutral: float, low: float, high: float, *, help: str, counts: Unless | None = None, **more: float
) -> Any:
    parameter = {"help": help, "neutral": neutral, "low": low, "high": high, **more}
    return field(default=None, metadata={"parameter": parameter, "counts": counts})


@dataclass(kw_only=True)
class SamplingKeys:
    """The parameters as keys; None leaves the choice to a default."""

    temperature: float | None = _parameter(
        1.0,
        0,
        10,
        in_openai=True,
        least=1e-10,
        help="0: the likeliest token; above 0: random draws, the higher the more random",
    )
    top_p: float | None = _parameter(
        1.0,
        0,
        1,
        excludes_low=True,
        in_openai=True,
        help="draw from the likeliest tokens that share this much probability",
    )
    top_k: int | None = _parameter(0, 0, 2**31 - 1, help="draw from this many of the likeliest tokens")
    min_p: float | None = _parameter(
        0.0, 0, 1, help="drop tokens less likely than this share of the likeliest one's probability"
    )
    repetition_penalty: float | None = _parameter(
        1.0, 0.1, 10, for_greedy=True, help="above 1: tokens of prompt and answer become less likely"
    )
    frequency_penalty: float | None = _parameter(
        0.0,
        -2,
        2,
        in_openai=True,
        for_greedy=True,
        help="above 0: tokens become less likely with each occurrence in the answer",
    )
    presence_penalty: float | None = _parameter(
        0.0,
        -2,
        2,
        in_openai=True,
        for_greedy=True,
        help="above 0: tokens that occur in the answer become less likely",
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
        field.name: Parameter(
            field.name, int if hints[field.name] == int | None else float, **field.metadata["parameter"]
        )
        for field in fields(SamplingKeys)
    }


PARAMETERS = _table()  # in the order in which the C kernel reads them for each row
SEED = Parameter("seed", int, "decides the random draws", neutral=0, low=-(2**63), high=2**63 - 1)
NEUTRAL = {name: one.neutral for name, one in PARAMETERS.items() if name != "temperature"}


@dataclass(unsafe_hash=True, kw_only=True)
class Sampling(SamplingKeys):
    """How the tokens of one request are drawn; None = as in the generation group, for the seed
    config.seed.

    It is never changed after it is made, so that requests can share it and caches can use it as a
    key.
    """

    seed: int | None = None

    def __post_init__(self) -> None:
        check_sampling("", self)
        need = f"must be a whole number in {SEED.low}..{SEED.high}"
        check(self.seed is None or SEED.fits(self.seed), "seed", self.seed, need)

    def over(self, generation: SamplingKeys, seed: int) -> Sampling:
        """Return it without a None: defaults come from the generation group and the seed."""
        given = {
            name: getattr(generation, name) if getattr(self, name) is None else getattr(self, name)
            for name in PARAMETERS
        }
        return Sampling(**given, seed=seed if self.seed is None else self.seed)

    @property
    def numbers(self) -> tuple[float, ...]:
        """The parameters in the order of the table, as C and the wire between stages have them."""
        return tuple(float(getattr(self, name)) for name in PARAMETERS)

    @classmethod
    def of_numbers(cls, numbers: Sequence[float]) -> Sampling:
        """Return a sampling with these parameters, in the order of the table; ConfigError for one
        out of its range."""
        given: dict[str, Any] = dict(zip(PARAMETERS, numbers, strict=True))
        for name, one in PARAMETERS.items():
            if one.kind is int and one.low <= given[name] <= one.high and given[name] % 1 == 0:
                given[name] = int(given[name])
        return cls(**given)

    @property
    def effective(self) -> Sampling:
        """The parameters that change the tokens: greedy rows need no seed and none of those of
        sampling.

        It is GREEDY itself where it is equal, so that a step can compare by identity.
        """
        if self.temperature:
            return self
        idle: dict[str, Any] = {
            name: value for name, value in NEUTRAL.items() if not PARAMETERS[name].for_greedy
        }
        effective = replace(self, seed=None, **idle)
        return GREEDY if effective == GREEDY else effective


def check_sampling(prefix: str, sampling: SamplingKeys) -> None:
    """Raise ConfigError for a parameter that is outside its range; None is valid.

    `prefix` comes before its name in the message: `generation.`, or nothing in a call.
    """
    for name, one in PARAMETERS.items():
        value = getattr(sampling, name)
        check(value is None or one.fits(value), f"{prefix}{name}", value, one.need)


def active_parameters(sampling: SamplingKeys, among: Callable[[Parameter], bool]) -> dict[str, float]:
    """Return the parameters, among the selected ones, whose value has an effect."""
    values = {name: getattr(sampling, name) for name in NEUTRAL if among(PARAMETERS[name])}
    return {name: value for name, value in values.items() if value not in (None, NEUTRAL[name])}


OPEN = Sampling()  # all parameters as in the generation group
GREEDY = Sampling(temperature=0.0, **NEUTRAL)  # type: ignore[arg-type] # their types are the table's
