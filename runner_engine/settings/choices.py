"""Lists the choices of the config groups that the engine reads, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner_engine.quantization import CHOICES
from runner_engine.settings.generation import GENERATIONS
from runner_engine.settings.named_adapters import LORAS
from runner_engine.settings.rope import ROPES

GROUPS: Mapping[str, Mapping[str, type[Any]]] = {
    "quantization": CHOICES,
    "lora": LORAS,
    "rope": ROPES,
    "generation": GENERATIONS,
}
