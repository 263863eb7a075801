"""The choices of each group of keys that the engine reads, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner_engine.quantization import CHOICES
from runner_engine.settings.generation import GENERATIONS
from runner_engine.settings.rope import ROPES
from runner_engine.settings.several import LORAS

GROUPS: Mapping[str, Mapping[str, type[Any]]] = {
    "quantization": CHOICES,
    "lora": LORAS,
    "rope": ROPES,
    "generation": GENERATIONS,
}
