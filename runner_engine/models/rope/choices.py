"""rope: native, rope_2d, linear, dynamic, yarn, llama3 – applies a position encoding, and describes
the loaded one.

The scalings are transformers' own: they go into the model's config before the weights load. rope_2d
is ours and is patched over the loaded model (`runner_engine/models/rope/rope_2d.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.checkpoints.positions import positions_under
from runner_engine.models import capability
from runner_engine.models.inventory import Described
from runner_engine.models.rope import rope_2d
from runner_engine.models.rope.naming import name_of
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


def prepare(rope: RopeConfig, folder: Path, trust_remote_code: bool) -> Any:
    """Return the config to load the model with, None for its own; ConfigError before any weight is
    read."""
    if type(rope) is RopeConfig and not rope.beyond_trained:
        return None
    settings = capability.settings_of(folder, trust_remote_code)
    if rope.beyond_trained:
        require_rotation(settings)
    put_on(settings, rope, trust_remote_code)
    return settings


def put_on(settings: Any, rope: RopeConfig, trust_remote_code: bool = False) -> None:
    """Write what a rope choice needs into a transformers config, or reject the model."""
    if isinstance(rope, RopeScalingConfig):
        scale(settings, rope)
    elif isinstance(rope, Rope2dConfig):
        rope_2d.find(capability.skeleton(settings, trust_remote_code))


def require_rotation(settings: Any) -> None:
    """Reject a model whose positions are rows of a table, which ends where the training did."""
    if not getattr(settings.get_text_config(), "rope_parameters", None):
        raise ConfigError(
            f"{type(settings).__name__} has no rotary embedding, so it has no positions "
            "beyond those that it was trained on: leave the key out",
            key="rope.beyond_trained",
            value="true",
            code="unsupported",
        )


def scale(settings: Any, rope: RopeScalingConfig) -> None:
    """Write a scaling into a transformers config, in place of its own."""
    text = settings.get_text_config()
    native = getattr(text, "rope_parameters", None)
    model_class = (settings.architectures or [type(settings).__name__])[0]
    if not native:
        raise ConfigError(
            f"{model_class} has no rope_parameters in its config, so there is nothing to scale: "
            "use rope=native",
            key="rope",
            value=rope.name,
            code="unsupported",
        )
    if "rope_theta" not in native:  # one set of parameters per type of layer
        raise ConfigError(
            f"{model_class} has other rope_parameters for each type of layer "
            f"({', '.join(map(str, native))}), and one scaling does not fit all: use rope=native",
            key="rope",
            value=rope.name,
            code="unsupported",
        )
    of_yarn = YARN_KEYS if rope.name == native.get("rope_type") == RopeYarnConfig.name else ()
    kept = {key: native[key] for key in (*KEPT, *of_yarn) if native.get(key) is not None}
    scaling: dict[str, Any] = {"rope_type": rope.name, "factor": float(rope.factor), **kept}
    if isinstance(rope, RopeLengthScalingConfig):
        scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings or _trained_on(
            text
        )
        if hasattr(text, "original_max_position_embeddings"):  # Phi-3 has it here, with precedence
            text.original_max_position_embeddings = scaling["original_max_position_embeddings"]
    # as transformers calls them, too
    own = vars(rope).keys() - vars(RopeLengthScalingConfig(factor=1)).keys()
    scaling |= {key: float(getattr(rope, key)) for key in sorted(own) if getattr(rope, key) is not None}
    text.rope_parameters = scaling


def apply(model: Any, rope: RopeConfig) -> None:
    """Patch the loaded model, if the choice needs it."""
    if isinstance(rope, Rope2dConfig):
        rope_2d.apply(model, rope)


def describe(model: Any, rope: RopeConfig) -> Described:
    """Count patched pairs and possible positions of a loaded model, and name its rotary
    embedding."""
    settings, patch = model.config.get_text_config(), rope_2d.patch_of(model)
    made_for = max_positions(settings)
    metrics = {
        "rope_pairs": rope_2d.pairs_of(model),
        "rope_pairs_patched": 0 if patch is None else len(patch.patched),
        "max_positions": NO_LIMIT if rope.beyond_trained else made_for,
    }
    beyond = ""
    if rope.beyond_trained and made_for < NO_LIMIT:
        metrics[MADE_FOR] = made_for
        beyond = (
            f", beyond its {'scaled' if isinstance(rope, RopeScalingConfig) else 'trained'} {made_for:,.0f}"
        )
    return metrics, {"rope": f"{name_of(settings, None if patch is None else patch.describe())}{beyond}"}


def max_positions(text: Any) -> float:
    """Return the maximum number of positions of a loaded model, under its own scaling or a chosen
    one."""
    maximum = getattr(text, "max_position_embeddings", None)
    if maximum is None or maximum <= 0:  # XLNet says -1
        return NO_LIMIT
    parameters = getattr(text, "rope_parameters", None) or {}  # also of a chosen scaling
    key = "original_max_position_embeddings"
    original = parameters.get(key) or getattr(text, key, None)  # Phi-3 has it outside of them
    return float(positions_under(maximum, original, parameters.get("factor")))


def notes(text: Any, rope: RopeConfig) -> list[Note]:
    """Return notes that a reader of the numbers needs."""
    if isinstance(rope, RopeDynamicConfig):
        length = getattr(text, "max_position_embeddings", "?")
        return [note("angles_of_batch", length=length)]
    return []


def _trained_on(text: Any) -> int:
    """Return the length of the pretraining, as far as the config tells."""
    native: int | None = text.rope_parameters.get("original_max_position_embeddings")
    return (
        native or getattr(text, "original_max_position_embeddings", None) or int(text.max_position_embeddings)
    )
