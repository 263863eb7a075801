"""quantization.overrides: a choice with keys is read as the keys of the group itself are, with
their types checked."""

from __future__ import annotations

from typing import Any, cast

from runner_base import ConfigError, one_line
from runner_engine import QuantizationConfig
from runner_engine.quantization.mixed import Mix


def mix_of(quantization: QuantizationConfig) -> Mix:
    """Return what a quantization means for each layer."""
    return Mix.of(quantization, typed_choice)


def typed_choice(pattern: str, kind: type[QuantizationConfig], given: dict[str, Any]) -> QuantizationConfig:
    """Return the choice that an override names; ConfigError for a value of another type than its
    key's."""
    from omegaconf import OmegaConf  # most jobs have no such override
    from omegaconf.errors import OmegaConfBaseException

    keys = {key: value for key, value in given.items() if key != "name"}
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), keys))
    except OmegaConfBaseException as error:
        raise ConfigError(
            one_line(error), key=f"quantization.overrides.{pattern}", value=given, code="bad_value"
        ) from error
    return cast(QuantizationConfig, made)
