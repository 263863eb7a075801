"""Every group of the menu, and the schema behind each of its choices."""

from __future__ import annotations

from typing import Any

from runner.config.generation import GenerationConfig
from runner.config.lora import LoraConfig, PeftConfig, PthConfig
from runner.config.model import MODELS
from runner.config.rope import (
    Rope2dConfig,
    RopeConfig,
    RopeDynamicConfig,
    RopeLinearConfig,
    RopeLlama3Config,
    RopeYarnConfig,
)
from runner.config.task import TASKS
from runner.config.tracking import TrackingConfig
from runner.quantization import CHOICES

GROUPS: dict[str, dict[str, type[Any]]] = {
    "model": dict(MODELS),
    "quantization": dict(CHOICES),
    "lora": {"none": LoraConfig, "peft": PeftConfig, "pth": PthConfig},
    "rope": {
        "native": RopeConfig,
        "rope_2d": Rope2dConfig,
        "linear": RopeLinearConfig,
        "dynamic": RopeDynamicConfig,
        "yarn": RopeYarnConfig,
        "llama3": RopeLlama3Config,
    },
    "generation": {"generation": GenerationConfig},
    "task": dict(TASKS),
    "tracking": {"tracking": TrackingConfig},
}
