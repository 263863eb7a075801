"""profile – four ways to run a model, from little memory to much: which groups they choose stands in conf/profile/.

What a profile says of the weights goes to a model's own keys or to its student's, so it is written down here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.config.model import (
    ApiConfig,
    HybridConfig,
    LocalModelConfig,
    ModelConfig,
    PartsModelConfig,
    has_weights,
    local_model,
)
from runner.config.models import MODELS
from runner.core.dtypes import Dtype
from runner.core.errors import check

NONE = "none"


@dataclass(frozen=True)
class Profile:
    """What a profile means besides the groups that it chooses."""

    suits: str  # the machine that it is for
    weights: Mapping[str, str] = field(default_factory=dict)  # keys of a model on this machine
    means_gpu: bool = False


PROFILES = {
    NONE: Profile(""),
    "low_memory": Profile("little memory, no GPU", {"device": "cpu"}),
    "standard": Profile("a workstation with a GPU", {"device": "auto"}, means_gpu=True),
    "high_performance": Profile("a GPU server", {"device": "auto", "dtype": Dtype.bfloat16.value}, means_gpu=True),
    "teacher_only": Profile("no model on this machine"),
}


def nodes(models: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the content of what each profile sets in each of these choices of the group model."""
    for name, profile in PROFILES.items():
        for choice in models:
            schema = MODELS.get(choice, LocalModelConfig)
            if profile.weights and issubclass(schema, HybridConfig | LocalModelConfig | PartsModelConfig):
                keys = dict(profile.weights)
                yield f"{name}_{choice}", {"model": {"student": keys} if schema is HybridConfig else keys}


def keys_of(profile: str) -> list[str]:
    """Return the groups and keys that a profile decides, so that variables of the environment do not."""
    if profile == NONE:
        return []
    found = ["quantization", *(f"model.{part}device" for part in ("", "student."))]
    return [*found, "model"] if profile == "teacher_only" else found


def check_profile(profile: str, model: ModelConfig, quantization: str) -> None:
    """Refuse a model that a profile rules out, one that it could not reach, and one without weights that it is for."""
    idle = isinstance(model, ApiConfig) and profile not in (NONE, "teacher_only") and quantization != "none"
    need = f"it is for weights on this machine ({quantization=!s}), and model=api has none: use profile=teacher_only"
    check(not idle, "profile", profile, f"{need}, or leave the profile out")
    need = "it means that no model runs on this machine, and another one than model=api is asked for: leave one out"
    check(profile != "teacher_only" or not has_weights(model), "profile", profile, need)
    reached = profile != "low_memory" or not has_weights(model) or local_model(model).device != "auto"
    need = (
        f"it means the CPU, and does not know the keys of this choice of model: give {model.key}.device=cpu beside it"
    )
    check(reached, "profile", profile, need)


def notes(profile: str, device: str) -> list[str]:
    """Say it where a profile expects a GPU and there is none."""
    if device == "cuda" or not PROFILES.get(profile, PROFILES[NONE]).means_gpu:
        return []
    return [f"profile={profile} expects a GPU, and this runs on the CPU: there is no GPU here, or model.device=cpu"]
