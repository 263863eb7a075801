"""Computes the number of positions that a model supports, from its config.json and the
configured rope. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.settings.rope import RopeConfig, RopeLengthScalingConfig, RopeScalingConfig

MOST = ("max_position_embeddings", "n_positions")  # the second: GPT-2's
ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True)
class PositionLimits:
    """The maximum number of positions of a model, without and with rope scaling."""

    own: int | None = None  # it was made for, without a scaling; None: unknown
    room: float = math.inf  # the loaded model will have; infinity: unknown
    # it and its scaling are made for, although rope.beyond_trained lets it read more; None: that key
    # is not taken
    made_for: float | None = None


def compute_rope_scaled_max_positions(
    max_positions: int, original_positions: int | None, factor: float | None
) -> int:
    """Return the number of positions that a rope scaling supports.

    As in transformers, the maximum is the length after scaling if the config also names a shorter
    original one; if both are equal, and for scalings without an original length, the factor counts.
    """
    first = original_positions or max_positions
    return max_positions if first < max_positions else int(first * (factor or 1))


def read_native_rope_scaling(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the rope scaling that a model's config.json sets, or an empty dictionary if there is none."""
    own = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = own.get("rope_type") or own.get("type") if isinstance(own, Mapping) else None
    return own if isinstance(kind, str) and kind != "default" else {}


def check_rope_scaling_factor(config: Mapping[str, Any], rope: RopeConfig) -> None:
    """Raise ConfigError if the configured rope factor exceeds the factor in the model's config.json."""
    own, most = (
        read_native_rope_scaling(config),
        next((config[key] for key in MOST if config.get(key)), None),
    )
    if (
        not own
        or not isinstance(rope, RopeLengthScalingConfig)
        or rope.beyond_trained
        or type(most) is not int
    ):
        return
    trained = rope.original_max_position_embeddings or own.get(ORIGINAL) or config.get(ORIGINAL)
    if type(trained) is not int or trained >= most or trained * rope.factor <= most:
        return
    raise ConfigError(
        f"the model's own {own.get('rope_type') or own.get('type')} scaling supports {most:,} "
        f"positions, from {trained:,} by a factor of {most / trained:g}, and cannot support more. Use "
        f"rope.factor={most / trained:g} or less, or rope.beyond_trained=true to exceed this limit",
        key="rope.factor",
        value=f"{rope.factor:g}",
        code="too_large",
    )


def build_replaced_rope_scaling_notes(config: Mapping[str, Any], rope: RopeConfig) -> list[Note]:
    """Return a note if the configured rope scaling replaces a scaling in the model's config.json."""
    own = read_native_rope_scaling(config)
    if not own or not isinstance(rope, RopeScalingConfig):
        return []
    kind, factor = own.get("rope_type") or own.get("type"), own.get("factor")
    trained = own.get(ORIGINAL) or config.get(ORIGINAL)
    is_known = type(trained) is int
    return [
        note(
            "replaces_own_scaling",
            rope=rope.name,
            factor=rope.factor,
            own=kind,
            own_factor=factor if isinstance(factor, int | float) else None,
            trained=trained if is_known else None,
            is_counted_anew=is_known and not isinstance(rope, RopeLengthScalingConfig),
        )
    ]


def compute_max_positions(config: Mapping[str, Any], rope: RopeConfig) -> float:
    return math.inf if rope.beyond_trained else compute_trained_positions(config, rope)


def compute_trained_positions(config: Mapping[str, Any], rope: RopeConfig) -> float:
    """Return the number of positions that the model supports with its rope scaling, or infinity if
    unknown.
    """
    maximum = next((config[key] for key in MOST if config.get(key)), None)
    if type(maximum) is not int or maximum <= 0:
        return math.inf
    own = config.get("rope_parameters") or config.get("rope_scaling") or {}
    original, factor = own.get(ORIGINAL) or config.get(ORIGINAL), own.get("factor")
    if isinstance(rope, RopeScalingConfig):
        given = rope.original_max_position_embeddings if isinstance(rope, RopeLengthScalingConfig) else None
        has_length = isinstance(rope, RopeLengthScalingConfig)
        original, factor = (
            (given or original or maximum) if has_length else config.get(ORIGINAL),
            rope.factor,
        )
    is_known = (original is None or type(original) is int) and (
        factor is None or isinstance(factor, int | float)
    )
    return float(compute_rope_scaled_max_positions(maximum, original, factor)) if is_known else math.inf
