"""Every group of the menu, and the schema behind each of its choices."""

from __future__ import annotations

from typing import Any

from runner.config import rope
from runner.config.generation import GenerationConfig
from runner.config.lora import LoraConfig, PeftConfig, PthConfig
from runner.config.model import MODELS
from runner.config.root import TrackingConfig
from runner.config.task import TASKS
from runner.quantization import CHOICES

GROUPS: dict[str, dict[str, type[Any]]] = {
    "model": {**MODELS},
    "quantization": {**CHOICES},
    "lora": {"none": LoraConfig, "peft": PeftConfig, "pth": PthConfig},
    "rope": {
        "native": rope.RopeConfig,
        "rope_2d": rope.Rope2dConfig,
        "linear": rope.RopeLinearConfig,
        "dynamic": rope.RopeDynamicConfig,
        "yarn": rope.RopeYarnConfig,
        "llama3": rope.RopeLlama3Config,
    },
    "generation": {"generation": GenerationConfig},
    "task": dict(TASKS),
    "tracking": {"tracking": TrackingConfig},
}
