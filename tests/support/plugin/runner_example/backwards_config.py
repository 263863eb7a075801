"""model=backwards – its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.model import ModelConfig


@dataclass
class BackwardsConfig(ModelConfig):
    """No weights: says the prompt backwards."""

    module: ClassVar[str] = "runner_example.backwards"
    name: ClassVar[str] = "backwards"
    shout: bool = False
