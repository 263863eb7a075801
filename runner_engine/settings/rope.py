"""Config group `rope`: the model's own rotary embedding, 2D rope, or a scaling for longer contexts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from runner_base import (
    MISSING,
    ValueConstraint,
    at_least,
    check_config_values,
    check_value,
    config_field,
    greater_than,
    in_range,
)
from runner_base.fields import InIdentityUnless

READ_BEYOND = "rope.beyond_trained=true"  # what lets texts be longer than a setting has room for


@dataclass
class RopeConfig:
    """The choice `rope=native`, which keeps the model's own rotary embedding."""

    name: ClassVar[str] = "native"
    has_branches: ClassVar[bool] = False  # whether prompts may have branches
    is_scaling: ClassVar[bool] = False
    keeps_short_texts: ClassVar[bool] = True  # whether texts that fit without it stay as they are
    # It only lets longer texts be read: beside a scaling that has room for them, the native setting
    # is read by it.
    beyond_trained: bool = config_field(False, InIdentityUnless(changes_answers=False))

    def __post_init__(self) -> None:
        check_config_values("rope", self)


@dataclass
class Rope2dConfig(RopeConfig):
    """2D rope. The last frequency pairs rotate alternately by branch and time, the others by position."""

    name: ClassVar[str] = "rope_2d"
    has_branches: ClassVar[bool] = True
    ratio: float = config_field(0.5, constraint=in_range(0, 1))
    stride: int = config_field(128, constraint=at_least(1))


@dataclass
class RopeScalingConfig(RopeConfig):
    """Base class of transformers' rope scalings. `factor` multiplies the context length."""

    is_scaling: ClassVar[bool] = True
    keeps_short_texts: ClassVar[bool] = False
    factor: float = config_field(
        MISSING, constraint=ValueConstraint(lambda value: 1 <= value < math.inf, "must be 1 or more")
    )


@dataclass
class RopeLinearConfig(RopeScalingConfig):
    """Linear rope scaling, which divides every rotation angle by the factor."""

    name: ClassVar[str] = "linear"


@dataclass
class RopeDynamicConfig(RopeScalingConfig):
    """Dynamic NTK rope scaling. Theta grows for sequences longer than the model's pretraining length."""

    name: ClassVar[str] = "dynamic"
    keeps_short_texts: ClassVar[bool] = True


@dataclass
class RopeLengthScalingConfig(RopeScalingConfig):
    """Base class of rope scalings that depend on the pretraining length.

    null selects the length in the model's config.
    """

    original_max_position_embeddings: int | None = config_field(
        None, constraint=at_least(1, ", or null for the model's own")
    )


@dataclass
class RopeYarnConfig(RopeLengthScalingConfig):
    """YaRN rope scaling, which rescales only low frequencies.

    null selects the paper's values.
    """

    name: ClassVar[str] = "yarn"
    attention_factor: float | None = config_field(None, constraint=greater_than(0, ", or null"))
    beta_fast: float | None = config_field(None, constraint=greater_than(0, ", or null"))
    beta_slow: float | None = config_field(None, constraint=greater_than(0, ", or null"))

    def __post_init__(self) -> None:
        super().__post_init__()
        fast, slow = self.beta_fast or 32, self.beta_slow or 1
        check_value(
            fast > slow, "rope.beta_fast", fast, f"must be more than rope.beta_slow={slow}", "conflict"
        )


@dataclass
class RopeLlama3Config(RopeLengthScalingConfig):
    """Llama 3.1's rope scaling, which rescales long wavelengths, keeps short ones, and interpolates
    between them.
    """

    name: ClassVar[str] = "llama3"
    low_freq_factor: float = config_field(1.0, constraint=greater_than(0))
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        need = f"must be more than rope.low_freq_factor={self.low_freq_factor}"
        check_value(
            self.high_freq_factor > self.low_freq_factor,
            "rope.high_freq_factor",
            self.high_freq_factor,
            need,
            "conflict",
        )


ROPES: dict[str, type[RopeConfig]] = {
    one.name: one
    for one in (
        RopeConfig,
        Rope2dConfig,
        RopeLinearConfig,
        RopeDynamicConfig,
        RopeYarnConfig,
        RopeLlama3Config,
    )
}
