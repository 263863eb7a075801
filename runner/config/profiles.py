"""Profiles are four presets for machines with little to much memory. Their files are in
conf/profile/.

A profile's settings for the weights are here, because they apply to the model's own keys or to
those of its student.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.config.models import MODELS
from runner_base import Dtype, check_value
from runner_engine import LocalModelConfig, ModelConfig, to_local_model_config

NONE = "none"
TEACHER_ONLY = "teacher_only"  # its file comes with the option that has model=api


@dataclass(frozen=True)
class Profile:
    """A profile: the kind of machine that it is for, and the keys that it sets for a local model."""

    suits: str  # the machine that it is for
    weights: Mapping[str, str] = field(default_factory=dict)  # keys of a model on this machine
    expects_gpu: bool = False


PROFILES = {
    NONE: Profile(""),
    "low_memory": Profile("little memory, no GPU", {"device": "cpu"}),
    "standard": Profile("a workstation with a GPU", {"device": "auto"}, expects_gpu=True),
    "high_performance": Profile(
        "a GPU server", {"device": "auto", "dtype": Dtype.bfloat16.value}, expects_gpu=True
    ),
    TEACHER_ONLY: Profile("no model on this machine"),
}


def get_profile_model_keys(config_name: str, model_choices: Collection[str]) -> dict[str, Any] | None:
    """Return the model keys that a config such as standard_local sets. None if its profile sets no keys
    for its model.
    """
    for profile_name, profile in PROFILES.items():
        choice = config_name.removeprefix(f"{profile_name}_")
        if not profile.weights or choice == config_name or choice not in model_choices:
            continue
        schema = MODELS.get(choice, LocalModelConfig)
        if not schema.has_weights:
            return None
        keys = dict(profile.weights)
        return {"model": {schema.local_part: keys} if schema.local_part else keys}
    return None


def list_configs_with_profile_and_model(model_choices: Collection[str]) -> list[str]:
    """Return the names of all configs that combine a profile with a model, such as standard_local."""
    pairs = (f"{profile}_{choice}" for profile in PROFILES for choice in model_choices)
    return [name for name in pairs if get_profile_model_keys(name, model_choices) is not None]


def list_keys_set_by_profile(profile: str) -> list[str]:
    """Return the config groups and keys that a profile sets, and that environment variables must not
    override.
    """
    if profile == NONE:
        return []
    parts = dict.fromkeys(schema.local_part for schema in MODELS.values())
    keys = ["quantization", *(f"model.{part}.device" if part else "model.device" for part in parts)]
    return [*keys, "model"] if profile == TEACHER_ONLY else keys


def check_profile_fits_model(profile: str, model: ModelConfig, quantization: str) -> None:
    is_idle = model.is_on_server and profile not in (NONE, TEACHER_ONLY) and quantization != "none"
    need = (
        f"this profile needs weights on this machine (quantization={quantization!s}), but "
        "model=api has none. Use profile=teacher_only"
    )
    check_value(not is_idle, "profile", profile, f"{need}, or omit the profile", code="no_effect")
    need = "this profile runs no model on this machine, but the chosen model is local. Use model=api"
    check_value(profile != TEACHER_ONLY or not model.has_weights, "profile", profile, need, code="conflict")
    is_applied = (
        profile != "low_memory" or not model.has_weights or to_local_model_config(model).device != "auto"
    )
    need = f"this profile runs on the CPU but cannot set the device of this model. Add {model.key}.device=cpu"
    check_value(is_applied, "profile", profile, need, code="unsupported")


def list_missing_gpu_warnings(profile: str, device: str) -> list[str]:
    """Return a note if the profile expects a GPU but the job runs on the CPU."""
    if device == "cuda" or not PROFILES.get(profile, PROFILES[NONE]).expects_gpu:
        return []
    return [
        (
            f"profile={profile} expects a GPU, but this job runs on the CPU: the machine has no "
            "GPU, or model.device=cpu"
        )
    ]
