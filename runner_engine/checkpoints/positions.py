"""How many positions a model has, from its config.json and a chosen scaling; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runner_engine.settings.rope import RopeConfig, RopeLengthScalingConfig, RopeScalingConfig

MOST = ("max_position_embeddings", "n_positions")  # the second: GPT-2's
ORIGINAL = "original_max_position_embeddings"


def positions_under(maximum: int, original: int | None, factor: float | None) -> int:
    """Return the positions of a model under its own scaling or a chosen one.

    As in transformers, the maximum is the length after scaling if the config also names a shorter original one; if both
    are equal, and for scalings without an original length, the factor counts.
    """
    first = original or maximum
    return maximum if first < maximum else int(first * (factor or 1))


def positions_of(settings: Mapping[str, Any], rope: RopeConfig) -> float:
    """Return the positions that a model will have once it is loaded; infinity where no limit is known or heeded."""
    return math.inf if rope.beyond_trained else made_for(settings, rope)


def made_for(settings: Mapping[str, Any], rope: RopeConfig) -> float:
    """Return the positions that a setting is made for; infinity where the model's settings name none."""
    maximum = next((settings[key] for key in MOST if settings.get(key)), None)
    if type(maximum) is not int or maximum <= 0:
        return math.inf
    own = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    original, factor = own.get(ORIGINAL) or settings.get(ORIGINAL), own.get("factor")
    if isinstance(rope, RopeScalingConfig):
        given = rope.original_max_position_embeddings if isinstance(rope, RopeLengthScalingConfig) else None
        has_length = isinstance(rope, RopeLengthScalingConfig)
        original, factor = (given or original or maximum) if has_length else settings.get(ORIGINAL), rope.factor
    is_known = (original is None or type(original) is int) and (factor is None or isinstance(factor, int | float))
    return float(positions_under(maximum, original, factor)) if is_known else math.inf
