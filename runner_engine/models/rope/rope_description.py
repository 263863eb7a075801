"""Describes a rotary embedding for reports: its scaling, theta and share of rotated dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORIGINAL = "original_max_position_embeddings"


def describe_rope_config(text_config: Any, patch_description: str | None = None) -> str:
    """Describe the rotary embedding of each layer type. A `patch_description` replaces the name of
    the scaling.
    """
    parameters = getattr(text_config, "rope_parameters", None) or {}
    if not parameters:
        return "none" if patch_description is None else patch_description
    kinds = {key: value for key, value in parameters.items() if isinstance(value, Mapping)}
    if not kinds:
        return _describe_rope_parameters(text_config, parameters, patch_description)
    return " · ".join(
        f"{kind}: {_describe_rope_parameters(text_config, of_kind, patch_description)}"
        for kind, of_kind in kinds.items()
    )


def _describe_rope_parameters(
    text_config: Any, parameters: Mapping[str, Any], patch_description: str | None
) -> str:
    name = parameters.get("rope_type", "default")
    words = [name if patch_description is None else patch_description]
    if patch_description is None:
        words += [f"factor {parameters['factor']:g}"] if parameters.get("factor") else []
        original = parameters.get(ORIGINAL) or getattr(text_config, ORIGINAL, None)
        words += (
            [f"other factors beyond {original:,}"]
            if name == "longrope" and _has_long_prompt_factors(parameters)
            else []
        )
    words.append(f"theta {parameters.get('rope_theta', '?')}")
    share = parameters.get("partial_rotary_factor")
    words += [f"{share:.0%} of each head"] if share is not None and share < 1 else []
    return ", ".join(words)


def _has_long_prompt_factors(parameters: Mapping[str, Any]) -> bool:
    return parameters.get("short_factor") != parameters.get("long_factor")
