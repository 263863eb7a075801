"""How the report names a rotary embedding: its scaling, its base, the share of a head that it
rotates, by layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORIGINAL = "original_max_position_embeddings"


def name_of(text: Any, patch: str | None = None) -> str:
    """Return the words for a config's rotary embedding; patch: of the one that stands over it."""
    parameters = getattr(text, "rope_parameters", None) or {}
    if not parameters:
        return "none" if patch is None else patch
    kinds = {key: value for key, value in parameters.items() if isinstance(value, Mapping)}
    if not kinds:
        return _one(text, parameters, patch)
    return " · ".join(f"{kind}: {_one(text, of_kind, patch)}" for kind, of_kind in kinds.items())


def _one(text: Any, parameters: Mapping[str, Any], patch: str | None) -> str:
    """Return the words for the parameters of all layers, or of one kind of them."""
    name = parameters.get("rope_type", "default")
    words = [name if patch is None else patch]
    if patch is None:
        words += [f"factor {parameters['factor']:g}"] if parameters.get("factor") else []
        original = parameters.get(ORIGINAL) or getattr(text, ORIGINAL, None)
        words += [f"other factors beyond {original:,}"] if name == "longrope" and _changes(parameters) else []
    words.append(f"theta {parameters.get('rope_theta', '?')}")
    share = parameters.get("partial_rotary_factor")
    words += [f"{share:.0%} of each head"] if share is not None and share < 1 else []
    return ", ".join(words)


def _changes(parameters: Mapping[str, Any]) -> bool:
    """Whether long texts are rotated by other factors than short ones."""
    return parameters.get("short_factor") != parameters.get("long_factor")
