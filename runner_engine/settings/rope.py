"""rope – how positions are encoded: the model's own way, two coordinates, or a scaling for longer
contexts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from runner_base import MISSING, Takes, above, check, check_keys, least, setting, within
from runner_base.fields import Unless

READ_BEYOND = "rope.beyond_trained=true"  # what lets texts be longer than a setting has room for


@dataclass
class RopeConfig:
    """The model's own rotary embedding, untouched."""

    name: ClassVar[str] = "native"
    has_branches: ClassVar[bool] = False  # whether prompts may have branches
    is_scaling: ClassVar[bool] = False
    keeps_short_texts: ClassVar[bool] = True  # whether texts that fit without it stay as they are
    # It only lets longer texts be read: beside a scaling that has room for them, the native setting
    # is read by it.
    beyond_trained: bool = setting(False, Unless(changes_answers=False))

    def __post_init__(self) -> None:
        check_keys("rope", self)


@dataclass
class Rope2dConfig(RopeConfig):
    """Two coordinates per token: the last pairs rotate alternately by branch and time, the rest by
    position."""

    name: ClassVar[str] = "rope_2d"
    has_branches: ClassVar[bool] = True
    ratio: float = setting(0.5, takes=within(0, 1))
    stride: int = setting(128, takes=least(1))


@dataclass
class RopeScalingConfig(RopeConfig):
    """Shared key of transformers' own scalings: how many times longer the context becomes."""

    is_scaling: ClassVar[bool] = True
    keeps_short_texts: ClassVar[bool] = False
    factor: float = setting(MISSING, takes=Takes(lambda value: 1 <= value < math.inf, "must be 1 or more"))


@dataclass
class RopeLinearConfig(RopeScalingConfig):
    """Linear scaling: every angle is divided by the factor."""

    name: ClassVar[str] = "linear"


@dataclass
class RopeDynamicConfig(RopeScalingConfig):
    """Dynamic NTK scaling: the base grows with the sequence, once it is longer than the model's own
    positions."""

    name: ClassVar[str] = "dynamic"
    keeps_short_texts: ClassVar[bool] = True


@dataclass
class RopeLengthScalingConfig(RopeScalingConfig):
    """Shared key of the scalings that depend on the length of pretraining; null = as the model
    says."""

    original_max_position_embeddings: int | None = setting(
        None, takes=least(1, ", or null for the model's own")
    )


@dataclass
class RopeYarnConfig(RopeLengthScalingConfig):
    """YaRN: low frequencies are stretched, high ones kept; null: as in the paper."""

    name: ClassVar[str] = "yarn"
    attention_factor: float | None = setting(None, takes=above(0, ", or null"))
    beta_fast: float | None = setting(None, takes=above(0, ", or null"))
    beta_slow: float | None = setting(None, takes=above(0, ", or null"))

    def __post_init__(self) -> None:
        super().__post_init__()
        fast, slow = self.beta_fast or 32, self.beta_slow or 1
        check(fast > slow, "rope.beta_fast", fast, f"must be more than rope.beta_slow={slow}", "conflict")


@dataclass
class RopeLlama3Config(RopeLengthScalingConfig):
    """Llama 3.1's scaling: wavelengths are stretched, kept or blended by two bounds."""

    name: ClassVar[str] = "llama3"
    low_freq_factor: float = setting(1.0, takes=above(0))
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        need = f"must be more than rope.low_freq_factor={self.low_freq_factor}"
        check(
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
