"""Parses quantization.overrides, which assigns another quantization to layers that match a name
pattern.
"""

from __future__ import annotations

from typing import Any, cast

from runner_base import ConfigError, to_one_line
from runner_engine import QuantizationConfig
from runner_engine.quantization.quantization_mix import QuantizationMix


def build_quantization_mix(quantization: QuantizationConfig) -> QuantizationMix:
    """Return the quantization of each layer. quantization.overrides sets it by layer name."""
    return QuantizationMix.from_config(quantization, parse_layer_quantization)


def parse_layer_quantization(
    layer_pattern: str, quantization_class: type[QuantizationConfig], key_values: dict[str, Any]
) -> QuantizationConfig:
    """Parse the quantization config for layers whose names match a pattern. Raises ConfigError if a
    value has the wrong type.
    """
    from omegaconf import OmegaConf  # most jobs have no such override
    from omegaconf.errors import OmegaConfBaseException

    keys = {key: value for key, value in key_values.items() if key != "name"}
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(quantization_class), keys))
    except OmegaConfBaseException as error:
        raise ConfigError(
            to_one_line(error),
            key=f"quantization.overrides.{layer_pattern}",
            value=key_values,
            code="bad_value",
        ) from error
    return cast(QuantizationConfig, made)
