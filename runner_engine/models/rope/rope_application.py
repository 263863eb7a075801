"""Applies the configured rope (native, rope_2d, linear, dynamic, yarn or llama3) to a model, and
describes it.

The scalings are transformers' own: they go into the model's config before the weights load.
rope_2d is our own and patches the loaded model (`runner_engine/models/rope/rope_2d.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.checkpoints.positions import compute_rope_scaled_max_positions
from runner_engine.models import load_checks
from runner_engine.models.inventory import MetricsAndFacts
from runner_engine.models.rope import rope_2d
from runner_engine.models.rope.rope_description import describe_rope_config
from runner_engine.settings.rope import (
    Rope2dConfig,
    RopeConfig,
    RopeDynamicConfig,
    RopeLengthScalingConfig,
    RopeScalingConfig,
    RopeYarnConfig,
)

KEPT = ("rope_theta", "partial_rotary_factor")  # by another scaling
# of a model's own YaRN, kept by one with another factor
YARN_KEYS = ("truncate", "mscale", "mscale_all_dim")
MADE_FOR = "made_for_positions"  # the metric of jobs that may read beyond them
NO_LIMIT = 1e9  # positions, for a model without a maximum


def build_rope_config(rope: RopeConfig, folder: Path, trust_remote_code: bool) -> Any:
    """Return a transformers config with the configured rope settings. None if the model keeps its own.

    Raises ConfigError before any weight is read.
    """
    if type(rope) is RopeConfig and not rope.beyond_trained:
        return None
    settings = load_checks.load_transformers_config(folder, trust_remote_code)
    if rope.beyond_trained:
        check_has_rope(settings)
    write_rope_config(settings, rope, trust_remote_code)
    return settings


def write_rope_config(config: Any, rope: RopeConfig, trust_remote_code: bool = False) -> None:
    """Write the configured rope settings into a transformers config. Raises ConfigError if the
    model has no rope.
    """
    if isinstance(rope, RopeScalingConfig):
        set_rope_scaling(config, rope)
    elif isinstance(rope, Rope2dConfig):
        rope_2d.find_rotary_embedding(load_checks.build_meta_model(config, trust_remote_code))


def check_has_rope(config: Any) -> None:
    """Raise ConfigError for models with learned position embeddings.

    Such models cannot exceed their pretraining length.
    """
    if not getattr(config.get_text_config(), "rope_parameters", None):
        raise ConfigError(
            f"{type(config).__name__} has no rotary embedding, so it cannot exceed "
            "its pretraining length. Omit this key",
            key="rope.beyond_trained",
            value="true",
            code="unsupported",
        )


def set_rope_scaling(config: Any, rope: RopeScalingConfig) -> None:
    """Replace the rope scaling in a transformers config."""
    text = config.get_text_config()
    native = getattr(text, "rope_parameters", None)
    model_class = (config.architectures or [type(config).__name__])[0]
    if not native:
        raise ConfigError(
            f"{model_class} has no rope_parameters in its config, so its rope cannot be scaled. "
            "Use rope=native",
            key="rope",
            value=rope.name,
            code="unsupported",
        )
    if "rope_theta" not in native:  # one set of parameters per type of layer
        raise ConfigError(
            f"{model_class} has different rope_parameters for each layer type "
            f"({', '.join(map(str, native))}), so one scaling does not fit all. Use rope=native",
            key="rope",
            value=rope.name,
            code="unsupported",
        )
    of_yarn = YARN_KEYS if rope.name == native.get("rope_type") == RopeYarnConfig.name else ()
    kept = {key: native[key] for key in (*KEPT, *of_yarn) if native.get(key) is not None}
    scaling: dict[str, Any] = {"rope_type": rope.name, "factor": float(rope.factor), **kept}
    if isinstance(rope, RopeLengthScalingConfig):
        scaling["original_max_position_embeddings"] = (
            rope.original_max_position_embeddings or _read_pretraining_length(text)
        )
        if hasattr(text, "original_max_position_embeddings"):  # Phi-3 has it here, with precedence
            text.original_max_position_embeddings = scaling["original_max_position_embeddings"]
    # as transformers calls them, too
    own = vars(rope).keys() - vars(RopeLengthScalingConfig(factor=1)).keys()
    scaling |= {key: float(getattr(rope, key)) for key in sorted(own) if getattr(rope, key) is not None}
    text.rope_parameters = scaling


def patch_rope(model: Any, rope: RopeConfig) -> None:
    if isinstance(rope, Rope2dConfig):
        rope_2d.patch_rope_2d(model, rope)


def describe_rope(model: Any, rope: RopeConfig) -> MetricsAndFacts:
    """Return metrics about frequency pairs and positions, and a text that describes the rotary embedding."""
    settings, patch = model.config.get_text_config(), rope_2d.find_rope_2d(model)
    made_for = get_max_positions(settings)
    metrics = {
        "rope_pairs": rope_2d.count_rope_pairs(model),
        "rope_pairs_patched": 0 if patch is None else len(patch.patched),
        "max_positions": NO_LIMIT if rope.beyond_trained else made_for,
    }
    beyond = ""
    if rope.beyond_trained and made_for < NO_LIMIT:
        metrics[MADE_FOR] = made_for
        beyond = (
            f", beyond its {'scaled' if isinstance(rope, RopeScalingConfig) else 'trained'} {made_for:,.0f}"
        )
    return metrics, {
        "rope": f"{describe_rope_config(settings, None if patch is None else patch.describe())}{beyond}"
    }


def get_max_positions(text_config: Any) -> float:
    """Return the maximum number of positions of a loaded model, including its rope scaling."""
    maximum = getattr(text_config, "max_position_embeddings", None)
    if maximum is None or maximum <= 0:  # XLNet says -1
        return NO_LIMIT
    parameters = getattr(text_config, "rope_parameters", None) or {}  # also of a chosen scaling
    key = "original_max_position_embeddings"
    original = parameters.get(key) or getattr(text_config, key, None)  # Phi-3 has it outside of them
    return float(compute_rope_scaled_max_positions(maximum, original, parameters.get("factor")))


def make_dynamic_rope_notes(text_config: Any, rope: RopeConfig) -> list[Note]:
    """Return a note if rope=dynamic is used, because angles then depend on the other sequences of a batch."""
    if isinstance(rope, RopeDynamicConfig):
        length = getattr(text_config, "max_position_embeddings", "?")
        return [note("angles_of_batch", length=length)]
    return []


def _read_pretraining_length(text_config: Any) -> int:
    """Read the pretraining context length from a transformers config."""
    native: int | None = text_config.rope_parameters.get("original_max_position_embeddings")
    return (
        native
        or getattr(text_config, "original_max_position_embeddings", None)
        or int(text_config.max_position_embeddings)
    )
