"""rope – how positions are encoded: the model's own way, two coordinates, or a scaling for longer contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.core.errors import check, check_least
from runner.core.fields import MISSING


@dataclass
class RopeConfig:
    """The model's own rotary embedding, untouched."""

    name: ClassVar[str] = "native"


@dataclass
class Rope2dConfig(RopeConfig):
    """Two coordinates per token: the last pairs rotate alternately by branch and time, the rest by position."""

    name: ClassVar[str] = "rope_2d"
    ratio: float = 0.5
    stride: int = 128

    def __post_init__(self) -> None:
        check(0 <= self.ratio <= 1, "rope.ratio", self.ratio, "must lie in 0..1")
        check_least(1, "rope.stride", self.stride)


@dataclass
class RopeScalingConfig(RopeConfig):
    """Shared key of transformers' own scalings: how many times longer the context becomes."""

    factor: float = MISSING

    def __post_init__(self) -> None:
        check(1 <= self.factor < float("inf"), "rope.factor", self.factor, "must be 1 or more")


@dataclass
class RopeLinearConfig(RopeScalingConfig):
    """Linear scaling: every angle is divided by the factor."""

    name: ClassVar[str] = "linear"


@dataclass
class RopeDynamicConfig(RopeScalingConfig):
    """Dynamic NTK scaling: the base grows with the sequence, once it is longer than the model's own positions."""

    name: ClassVar[str] = "dynamic"


@dataclass
class RopeLengthScalingConfig(RopeScalingConfig):
    """Shared key of the scalings that depend on the length of pretraining; null = as the model says."""

    original_max_position_embeddings: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        length = self.original_max_position_embeddings
        check_least(1, "rope.original_max_position_embeddings", length, ", or null for the model's own")


@dataclass
class RopeYarnConfig(RopeLengthScalingConfig):
    """YaRN: low frequencies are stretched, high ones kept; null: as in the paper."""

    name: ClassVar[str] = "yarn"
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("attention_factor", "beta_fast", "beta_slow"):
            value = getattr(self, key)
            check(value is None or value > 0, f"rope.{key}", value, "must be more than 0, or null")
        fast, slow = self.beta_fast or 32, self.beta_slow or 1
        check(fast > slow, "rope.beta_fast", fast, f"must be more than rope.beta_slow={slow}")


@dataclass
class RopeLlama3Config(RopeLengthScalingConfig):
    """Llama 3.1's scaling: wavelengths are stretched, kept or blended by two bounds."""

    name: ClassVar[str] = "llama3"
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.low_freq_factor > 0, "rope.low_freq_factor", self.low_freq_factor, "must be more than 0")
        need = f"must be more than rope.low_freq_factor={self.low_freq_factor}"
        check(self.high_freq_factor > self.low_freq_factor, "rope.high_freq_factor", self.high_freq_factor, need)


ROPES: dict[str, type[RopeConfig]] = {
    one.name: one
    for one in (RopeConfig, Rope2dConfig, RopeLinearConfig, RopeDynamicConfig, RopeYarnConfig, RopeLlama3Config)
}
