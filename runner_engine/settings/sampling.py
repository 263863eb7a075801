"""Table of the sampling parameters, with the range, neutral value and help text of each.

The config group `generation`, requests, HTTP bodies, requests to servers, the wire between stages,
chat's `/set`, the harness, Python and the page read this table. A new parameter needs one field
here, and its arithmetic in runner_engine/decode/tokens/sampling.py and
runner_engine/kernels/sampling.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, TypedDict, get_type_hints

from runner_base import check_value
from runner_base.fields import InIdentityUnless


@dataclass(frozen=True)
class SamplingParameter:
    """A sampling parameter, with its valid range and the neutral value, which has no effect."""

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
    def allowed_range_text(self) -> str:
        """A description of the valid range for error messages."""
        off = "" if self.name == "temperature" else f" ({self.neutral:g} = off)"
        if self.kind is int:
            return f"must be a whole number in {self.low}..{self.high}{off}"
        if self.least:
            return f"must be {self.low:g}, or lie in {self.least:g}..{self.high:g}{off}"
        span = f"({self.low:g}, {self.high:g}]" if self.excludes_low else f"{self.low:g}..{self.high:g}"
        return f"must lie in {span}{off}"

    def is_valid(self, value: Any) -> bool:
        """Whether a value is a number of the right type and in range. Booleans are not numbers."""
        if not is_number_of_type(value, self.kind):
            return False
        above = value > self.low if self.excludes_low else value >= self.low
        return bool(above and value <= self.high and not 0 < value < self.least)

    def parse(self, text: str) -> float:
        """Parse a number from user input. Raises ValueError for invalid numbers."""
        return self.kind(text)


def is_number_of_type(value: Any, number_type: type[int] | type[float]) -> bool:
    """Whether a value is a number of this type. NaN and booleans are not numbers."""
    is_kind = isinstance(value, Integral if number_type is int else Real) and not isinstance(value, bool)
    return is_kind and (number_type is int or bool(value == value))  # NaN is not equal to itself


def _define_parameter(
    neutral: float,
    low: float,
    high: float,
    *,
    help: str,
    counts: InIdentityUnless | None = None,
    **more: float,
) -> Any:
    parameter = {"help": help, "neutral": neutral, "low": low, "high": high, **more}
    return field(default=None, metadata={"parameter": parameter, "counts": counts})


@dataclass(kw_only=True)
class SamplingKeys:
    """The sampling parameters as config keys. None means the default."""

    temperature: float | None = _define_parameter(
        1.0,
        0,
        10,
        in_openai=True,
        least=1e-10,
        help="0: the likeliest token; above 0: random draws, the higher the more random",
    )
    top_p: float | None = _define_parameter(
        1.0,
        0,
        1,
        excludes_low=True,
        in_openai=True,
        help="sample from the most likely tokens whose probabilities sum to this value",
    )
    top_k: int | None = _define_parameter(
        0, 0, 2**31 - 1, help="sample from this many of the most likely tokens"
    )
    min_p: float | None = _define_parameter(
        0.0, 0, 1, help="exclude tokens below this fraction of the highest token probability"
    )
    repetition_penalty: float | None = _define_parameter(
        1.0, 0.1, 10, for_greedy=True, help="values above 1 penalize tokens of the prompt and answer"
    )
    frequency_penalty: float | None = _define_parameter(
        0.0,
        -2,
        2,
        in_openai=True,
        for_greedy=True,
        help="values above 0 penalize tokens for each occurrence in the answer",
    )
    presence_penalty: float | None = _define_parameter(
        0.0,
        -2,
        2,
        in_openai=True,
        for_greedy=True,
        help="values above 0 penalize tokens that occur in the answer",
    )


class SamplingArguments(TypedDict, total=False):
    """The sampling parameters as keyword arguments of Python functions."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    seed: int


def _build_parameter_table() -> dict[str, SamplingParameter]:
    hints = get_type_hints(SamplingKeys)
    return {
        field.name: SamplingParameter(
            field.name, int if hints[field.name] == int | None else float, **field.metadata["parameter"]
        )
        for field in fields(SamplingKeys)
    }


PARAMETERS = _build_parameter_table()  # in the order in which the C kernel reads them for each row
SEED = SamplingParameter("seed", int, "decides the random draws", neutral=0, low=-(2**63), high=2**63 - 1)
NEUTRAL = {name: one.neutral for name, one in PARAMETERS.items() if name != "temperature"}


@dataclass(unsafe_hash=True, kw_only=True)
class Sampling(SamplingKeys):
    """The sampling parameters of one request. Unset parameters default to config group `generation`
    and to config.seed.

    Instances never change, so that requests can share them and caches can use them as keys.
    """

    seed: int | None = None

    def __post_init__(self) -> None:
        validate_sampling("", self)
        need = f"must be a whole number in {SEED.low}..{SEED.high}"
        check_value(self.seed is None or SEED.is_valid(self.seed), "seed", self.seed, need)

    def fill_unset_sampling_parameters(self, generation: SamplingKeys, default_seed: int) -> Sampling:
        """Replace unset parameters by those of the config group `generation` and by the default seed."""
        given = {
            name: getattr(generation, name) if getattr(self, name) is None else getattr(self, name)
            for name in PARAMETERS
        }
        return Sampling(**given, seed=default_seed if self.seed is None else self.seed)

    @property
    def as_numbers(self) -> tuple[float, ...]:
        """The parameters as numbers in table order, for C code and for messages between pipeline stages."""
        return tuple(float(getattr(self, name)) for name in PARAMETERS)

    @classmethod
    def from_parameter_values(cls, numbers: Sequence[float]) -> Sampling:
        """Create an instance from the parameters as numbers in table order. Raises ConfigError for
        invalid numbers.
        """
        given: dict[str, Any] = dict(zip(PARAMETERS, numbers, strict=True))
        for name, one in PARAMETERS.items():
            if one.kind is int and one.low <= given[name] <= one.high and given[name] % 1 == 0:
                given[name] = int(given[name])
        return cls(**given)

    @property
    def effective(self) -> Sampling:
        """A copy without ineffective settings: greedy decoding resets the seed and most parameters.

        The result is the object GREEDY if it is equal to GREEDY, so that a decoding step can compare
        by identity.
        """
        if self.temperature:
            return self
        idle: dict[str, Any] = {
            name: value for name, value in NEUTRAL.items() if not PARAMETERS[name].for_greedy
        }
        effective = replace(self, seed=None, **idle)
        return GREEDY if effective == GREEDY else effective


def validate_sampling(prefix: str, sampling: SamplingKeys) -> None:
    """Raise ConfigError if a sampling parameter is out of range. None is always valid.

    `prefix` precedes the parameter's name in the message: `generation.`, or nothing for a request.
    """
    for name, one in PARAMETERS.items():
        value = getattr(sampling, name)
        check_value(value is None or one.is_valid(value), f"{prefix}{name}", value, one.allowed_range_text)


def get_effective_parameters(
    sampling: SamplingKeys, is_selected: Callable[[SamplingParameter], bool]
) -> dict[str, float]:
    """Return those selected sampling parameters that have an effect."""
    values = {name: getattr(sampling, name) for name in NEUTRAL if is_selected(PARAMETERS[name])}
    return {name: value for name, value in values.items() if value not in (None, NEUTRAL[name])}


OPEN = Sampling()  # all parameters as in the generation group
GREEDY = Sampling(temperature=0.0, **NEUTRAL)  # type: ignore[arg-type] # their types are the table's
